"""`bayesgen.sample`: a posterior from a model and data, in one call."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bayesgen.config import TrainSettings, described
from bayesgen.config.fields import Chosen
from bayesgen.errors import UserError, nearest
from bayesgen.inference.registry import SAMPLERS
from bayesgen.models import FunctionalModel
from bayesgen.posterior import Posterior
from bayesgen.priors import Prior
from bayesgen.runs import Run
from bayesgen.workflow.inputs import model_of
from bayesgen.workflow.own_data import inputs_of, named
from bayesgen.workflow.resuming import CHANGEABLE, resumed_settings
from bayesgen.workflow.session import require_resources, require_same_inputs, run_sampler

PATH = "keyword"
"""What run.json names as the source of a setting that was given in Python."""


def sample(
    model: FunctionalModel | str | Path,
    data: Any = None,
    *,
    sampler: str = "sghmc",
    prior: Prior | str | None = None,
    out: str | Path | None = None,
    resume: bool = True,
    **settings: Any,
) -> Posterior:
    """Sample the posterior over a model's weights given data; draws land on disk.

    What the command `bayesgen train` does: pre-flight table, warm-up, sampling, progress bar,
    checkpoints. The same settings and seed give the same bits.

    Args:
        model: from `load_model`, a network of your own as a `FunctionalModel`, or the path of a
            checkpoint or folder (then `task`, `parameters`, ... are settings, too).
        data: a corpus or labelled set by name or path ("python-docs", "ag_news", "my.csv"); texts;
            rows of (text, label); a `datasets.Dataset`; for a network of your own a map-style
            dataset, tensors (x, y), or an iterable of batches such as a DataLoader; or a mapping of
            the splits "train", "val" and "test" to these. Default: the settings' `corpus`.
        sampler: sgld, sghmc, baoa, sgnht, sglrw, ekf, laplace, vi, swag, map, or one of your own.
        prior: a name (normal, pretrained, swag, laplace), or an object of your own (see `Prior`).
        out: the run's folder; without it the draws lie in a temporary folder that is deleted with
            the posterior.
        resume: whether an unfinished run in `out` is continued, and a finished one opened, where
            its settings are the same. If False, a run in `out` is an error.
        settings: of the sampler, the prior, the data and the loop, by the names of the command
            line's flags: `learning_rate=0.1`, `sampling_steps=500`, `seed=1`, `eval=True`, ...

    Returns:
        The posterior, with its model.

    Raises:
        UserError: something that the caller can put right: one line that names the setting.
        Interrupted: SIGINT or SIGTERM arrived; the state was saved and the same call continues.

    Example:
        >>> import bayesgen
        >>> model = bayesgen.load_model("model.pt")
        >>> short = {"warmup_steps": 4, "sampling_steps": 8, "thinning": 4}
        >>> posterior = bayesgen.sample(model, "corpus.txt", sampler="sghmc", **short)
        >>> len(posterior), posterior[0].shape == (model.layout.size,)
        (2, True)
    """
    folder = None
    if out is None:
        folder = _Folder()
        out = folder.path / "run"
    given = settings if prior is None or isinstance(prior, Prior) else {**settings, "prior": prior}
    chosen, network = _chosen(sampler, model, data, {**given, "out": str(out)})
    source = chosen.settings.data or chosen.settings.corpus if data is None else data
    inputs = inputs_of(network, source, chosen.settings)
    if not (Path(out) / "run.json").is_file():
        require_resources(sampler, chosen.settings, network)
    there = Run(Path(out)) if (Path(out) / "run.json").is_file() else None
    if there is not None:
        if not resume:
            Run.require_free(Path(out))
        fixed = vars(chosen.settings).keys() - CHANGEABLE - {"model"}
        resumed_settings(there, sampler, {k: getattr(chosen.settings, k) for k in sorted(fixed)})
    if there is None or not there.finished:
        own = prior if isinstance(prior, Prior) else None
        there = run_sampler(sampler, chosen, inputs, there, prior=own)
    else:
        require_same_inputs(there, inputs, chosen.settings)
    posterior = Posterior.load(there.path, model=network)
    posterior._folder = folder
    return posterior


class _Folder:
    """A temporary folder that goes with the object."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="bayesgen-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def load(
    run_dir: str | Path,
    *,
    model: str | FunctionalModel | None = None,
    device: str = "auto",
) -> Posterior:
    """Open a run with its own model, task and parameters.

    Args:
        model: where the model lies now, if not where it was; of a run of a network of your own the
            `FunctionalModel` that it was made with.
        device: `cpu`, `cuda`, `mps` or `auto`.

    Raises:
        UserError: there is no run, its model is not there or another one, or a file is damaged.

    Example:
        >>> import bayesgen
        >>> bayesgen.load("runs/x")
        Posterior(sghmc, 2 draws of ... parameters, 'runs/x')
    """
    posterior = Posterior.load(run_dir, model=model, device=device)
    _ = posterior.model
    return posterior


def _chosen(
    sampler: str, model: FunctionalModel | str | Path, data: Any, given: Mapping[str, Any]
) -> tuple[Chosen[TrainSettings], FunctionalModel]:
    """Checked settings, where each came from, and the model."""
    spec = SAMPLERS[sampler]
    known = described(spec.settings)
    for key in given:
        if key not in known:
            raise UserError(f"`{key}` is no setting of {sampler}{nearest(key, known)}")
    network = model if isinstance(model, FunctionalModel) else None
    task = network.info.task if network is not None else given.get("task", "causal-lm")
    if network is not None:
        for key in ("task", "model", "meta_path", "device"):
            if key in given:
                raise UserError(f"`{key}`: the model is loaded already; give it to load_model")
    base = spec.defaults(task, prior=given.get("prior"), init_from=given.get("init_from"))
    values = {**base, "task": task, **given}
    if network is not None:
        values["model"] = network.info.name
        if "parameters" in given or network.parameters is None:
            network = network.select(values.get("parameters", "all"))
        values["parameters"] = str(network.parameters)
    else:
        values["model"] = str(model)
    settings = spec.settings(**values)
    if network is None:
        of_data = settings if data is None else replace(settings, **_place(task, data))
        network = model_of(of_data)
    if data is not None:
        settings = replace(settings, **named(network, data))
    spec.validate(settings)
    for key, why in spec.without_effect(settings).items():
        if key in given:
            raise UserError(f"`{key}` {why}")
    return Chosen(settings, dict.fromkeys((k for k in given if k != "out"), PATH)), network


def _place(task: str, data: Any) -> dict[str, Any]:
    """The setting that names the data, for a head that gets its classes from them."""
    return {"data": str(data)} if isinstance(data, str | Path) else {}
