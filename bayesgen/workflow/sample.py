"""`bayesgen.sample`: a posterior from a model and data, in one call."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from bayesgen.config import TrainSettings, described
from bayesgen.config.fields import Chosen, checked, refuse_idle
from bayesgen.config.shared import PriorSettings
from bayesgen.errors import UserError, memory_guard, nearest
from bayesgen.inference.registry import SAMPLERS
from bayesgen.models import FunctionalModel
from bayesgen.posterior import Posterior
from bayesgen.priors import Prior
from bayesgen.runs import Run
from bayesgen.tasks import TASKS
from bayesgen.workflow.inputs import GIVEN, model_of
from bayesgen.workflow.own_data import inputs_of
from bayesgen.workflow.preflight import less_memory
from bayesgen.workflow.resuming import CHANGEABLE, require_same_inputs, resumed_settings
from bayesgen.workflow.session import require_resources, run_sampler


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
    if not isinstance(prior, Prior | str | None):
        raise UserError(f"`prior` must be a name or an object of a Prior, not {prior!r}")
    if isinstance(prior, Prior):
        beside = {f.name for f in fields(PriorSettings)}
        refuse_idle(settings, dict.fromkeys(beside, "has no effect beside a prior of your own"))
    folder = _Folder() if out is None else None
    path = Path(str(out)) if folder is None else folder.path / "run"
    given = settings if prior is None or isinstance(prior, Prior) else {**settings, "prior": prior}
    chosen, network = _chosen(sampler, model, data, {**given, "out": str(path)})
    run = Run(path) if (path / "run.json").is_file() else None
    if not resume:
        Run.require_free(path)
    with memory_guard(less_memory(chosen.settings)):
        if run is None:
            # of a model by name before its weights are loaded
            outline = model_of(chosen.settings, outline=True) if network is None else network
            require_resources(sampler, chosen.settings, outline)
        if network is None:
            network = model_of(chosen.settings)
        elif chosen.settings.init_from is not None:
            _ = network.sha256  # of the weights as they are: the copy starts at others
            network = deepcopy(network)
        source = chosen.settings.data or chosen.settings.corpus if data is None else data
        inputs = inputs_of(network, source, chosen.settings)
        if run is not None:
            fixed = vars(chosen.settings).keys() - CHANGEABLE - {"model"}
            resumed_settings(run, sampler, {k: getattr(chosen.settings, k) for k in sorted(fixed)})
        own = prior if isinstance(prior, Prior) else None
        before = None if run is None else run.record().prior.get("density")
        if own is not None and before not in {None, own.describe()}:
            raise UserError(
                f"`prior`: '{path}' was started with {before}, not {own.describe()}; name another"
                " `out`"
            )
        if run is None or not run.finished:
            run = run_sampler(sampler, chosen, inputs, run, prior=own)
        else:
            require_same_inputs(run, inputs, chosen.settings)
    posterior = Posterior.load(run.path, model=network)
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


def plain(value: Any) -> Any:
    """`value` as a setting is kept: a path as text, a number of numpy as Python's."""
    if isinstance(value, Path):
        return str(value)
    return value.item() if isinstance(value, np.generic) else value


def _chosen(
    sampler: str, model: FunctionalModel | str | Path, data: Any, given: Mapping[str, Any]
) -> tuple[Chosen[TrainSettings], FunctionalModel | None]:
    """Checked settings, where each came from, and the model where it is loaded already."""
    spec = SAMPLERS[sampler]
    known = described(spec.settings)
    for key in given:
        if key not in known:
            raise UserError(f"`{key}` is no setting of {sampler}{nearest(key, known)}")
    given = {key: checked(plain(value), known[key], f"`{key}`") for key, value in given.items()}
    network = model if isinstance(model, FunctionalModel) else None
    task = network.info.task if network is not None else given.get("task", "causal-lm")
    base = spec.defaults(task, prior=given.get("prior"), init_from=given.get("init_from"))
    values = {**base, "task": task, **given, "model": str(model)}
    if network is not None:
        for key in ("task", "model", "meta_path", "device"):
            if key in given:
                raise UserError(f"`{key}`: the model is loaded already; give it to load_model")
        if "parameters" in given or network.parameters is None:
            network = network.select(values.get("parameters", "all"))
        values |= {"model": network.info.name, "parameters": str(network.parameters)}
    if data is not None:
        key = "data" if TASKS[task].is_labelled else "corpus"
        if key in given:
            raise UserError(f"`{key}`: the data are given already; leave one of them out")
        values[key] = str(data) if isinstance(data, str | Path) else GIVEN
    settings = spec.settings(**values)
    spec.validate(settings)
    idle = spec.without_effect(settings)
    if network is not None and network.tokenizer is None:
        idle.pop("validation", None)  # rows are held back of a network of one's own, too
    refuse_idle(given, idle)
    return Chosen(settings, dict.fromkeys((k for k in given if k != "out"), "keyword")), network
