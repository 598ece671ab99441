"""A posterior over a model's weights: draws with the model that they are of, as it was when its
run began."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from bayesgen.config.fields import checked, described
from bayesgen.config.jobs import DecodingSettings
from bayesgen.draws import Draws
from bayesgen.errors import UserError, nearest
from bayesgen.models import FunctionalModel, Lora, ModelInfo, load_model, resolve_device
from bayesgen.parameters import names_adapters
from bayesgen.posterior.prediction import (
    ClassPrediction,
    Inputs,
    NumberPrediction,
    Prediction,
    predict,
)
from bayesgen.predictive import GeneratedText, Predictive
from bayesgen.runs import Run
from bayesgen.runs.files import ModelRecord, StartRecord
from bayesgen.tasks import TASKS

__all__ = ["ClassPrediction", "NumberPrediction", "Posterior", "Prediction", "open_posterior"]

TEXT_DRAWS = 10
"""Draws that text is generated with by default."""
START = "start.safetensors"


class Posterior(Draws):
    """S draws of a model's parameters θ ∈ R^P, and the model.

    Draws stay on disk and the model is not loaded until they are asked for. `len(posterior)` is S,
    `posterior[s]` is θ_s [P].

    Attributes:
        layout: names, shapes and offsets of θ.
        info: the record of the run; None for draws that are of no run.
        run: the run that the draws are of, or None.

    Example:
        >>> import bayesgen
        >>> posterior = bayesgen.Posterior.load("runs/x")
        >>> len(posterior), posterior.info.sampler
        (2, 'sghmc')
        >>> p = posterior.predict(["the quick", "a "])
        >>> tuple(p.probs.shape) == (2, posterior.model.tokenizer.vocab_size)
        True
        >>> text = posterior.generate("the ", max_new_tokens=5)
        >>> len(text.tokens), str(text).startswith("the ")
        (5, True)
    """

    run: Run | None = None
    _model: FunctionalModel | Callable[[], FunctionalModel] | None = None
    _folder: Any = None  # a temporary one, which is there as long as its draws are

    @classmethod
    def load(
        cls,
        run_dir: str | Path,
        *,
        model: str | FunctionalModel | None = None,
        device: str = "auto",
    ) -> Self:
        """The posterior of a run: the draws of all chains, first to last.

        Args:
            model: where the run's model lies now, if not where it was; for a run of a network of
                one's own the FunctionalModel that it was made with.
            device: `cpu`, `cuda`, `mps` or `auto`.

        Raises:
            UserError: there is no run, it has no draws yet, or a file is damaged.
        """
        posterior = super().load(run_dir)
        run = posterior.run = Run(Path(run_dir))
        posterior._model = lambda: model_of_run(run, model, device)
        return posterior

    @classmethod
    def of(cls, model: FunctionalModel, draws: Tensor | None = None) -> Self:
        """A posterior of draws [S, P] in memory; by default the model's own weights, one draw."""
        theta = model.theta[None] if draws is None else draws
        posterior = cls.from_draws(theta, model.layout)
        posterior._model = model
        return posterior

    def __repr__(self) -> str:
        sampler = f"{self.info.sampler}, " if self.info else ""
        where = f", {str(self.run.path)!r}" if self.run else ""
        draws = f"{len(self)} draw{'' if len(self) == 1 else 's'}"
        return f"Posterior({sampler}{draws} of {self.layout.size:,} parameters{where})"

    @property
    def model(self) -> FunctionalModel:
        """The model that the chains started from. Raises UserError where it is not where it was, or
        is another one."""
        if self._model is None:
            raise UserError("these draws have no model: `model`: use Posterior.of(model, draws)")
        if not isinstance(self._model, FunctionalModel):
            self._model = self._model()
        return self._model

    @cached_property
    def predictive(self) -> Predictive:
        """The mixture over the draws, for batches of tensors."""
        return Predictive(self.model, self)

    def thin(self, count: int | None) -> Self:
        """At most `count` draws, evenly spaced, the last one among them; None keeps all."""
        thinned = super().thin(count)
        if thinned is not self:
            vars(thinned).pop("predictive", None)
        return thinned

    def predict(self, inputs: Inputs, *, draws: int | None = None) -> Prediction:
        """The mixture over the draws for some inputs, and how sure it is.

        Args:
            inputs: one or B texts, or pairs of texts (for a causal language model: texts whose next
                token is predicted); or a batch of tensors as the network takes it, B rows each.
            draws: how many draws to use, evenly spaced; all by default.

        Returns:
            `ClassPrediction` of classes or tokens, `NumberPrediction` of real-valued labels.

        Raises:
            UserError: the model has no tokenizer for texts, or predicts none.
        """
        return predict(self.thin(draws).predictive, inputs)

    def generate(
        self, prompt: str, *, draws: int | None = TEXT_DRAWS, **settings: Any
    ) -> GeneratedText:
        """Text that continues `prompt`; `str()` of it is the whole, `.tokens` has each token's
        log-probability and entropies (nats).

        Args:
            draws: how many draws to use, evenly spaced; None takes all.
            settings: `max_new_tokens`, `temperature`, `top_k`, `top_p`, `decode` ("mixture" or
                "per-draw"), `seed`, `strategy` (see `bayesgen.predictive.reading`).

        Raises:
            UserError: a setting is out of range, or the model is no causal language model.
        """
        if not isinstance(prompt, str):
            raise UserError(f"`prompt` must be a text, not {prompt!r}; call generate for each")
        known, posterior = described(DecodingSettings), self.thin(draws)
        for key, value in settings.items():
            if key in known:
                checked(value, known[key], f"`{key}`")
            elif key != "strategy":
                raise UserError(f"`{key}` is no setting of generate{nearest(key, known)}")
        try:
            return posterior.predictive.generate(prompt, **settings)
        except ValueError as error:
            raise UserError(f"the text cannot be generated: {error}") from error


def open_posterior(
    name: str, *, model: str | None = None, device: str = "auto", task: str = "causal-lm"
) -> Posterior:
    """Open a run's folder, or a checkpoint, which stands for a posterior of one draw.

    Args:
        model: where a run's model lies now, if not where it was.
        task: of a checkpoint; a run knows its own.

    Raises:
        UserError: neither a run nor a model is there, or the model is not the run's.
    """
    if (Path(name) / "run.json").is_file():
        posterior = Posterior.load(name, model=model, device=device)
        _ = posterior.model  # now, and not when something was computed already
        return posterior
    if not Path(name).exists():
        raise UserError(f"'{name}' is not there; name a run's folder or a model's")
    if model is not None:
        raise UserError(f"`model` goes with a run, and '{name}' is none")
    return Posterior.of(load_model(name, task=task, device=str(resolve_device(device))))


@dataclass(frozen=True)
class Start:
    """Where chains start if not at the loaded weights: θ [P], the run that led there, and the
    gradients that it took, all before among them."""

    theta: Tensor
    record: StartRecord

    def row(self) -> tuple[str, str]:
        """For the pre-flight table."""
        of = self.record
        count = f"{of.gradient_evaluations:,} gradients"
        return "start", f"mean weights of '{of.run}' ({of.sampler}, {count})"


def model_of_run(
    run: Run, model: str | FunctionalModel | None = None, device: str = "auto"
) -> FunctionalModel:
    """The model that `run` started from, its weights where the chains started.

    `model` is where it lies now, if not where it was, or a network of one's own as it was then.
    """
    record = run.record()
    settings, stored = record.settings, record.model
    place = Path(stored.name)
    if isinstance(model, FunctionalModel):
        loaded = model
    elif stored.family == "custom":  # no file holds it
        raise UserError(
            f"the run '{run.path}' is of a network of your own, which it cannot load: `model`: give"
            " the FunctionalModel that it was made with"
        )
    elif model is None and not place.exists() and (place.suffix or len(place.parts) > 2):
        raise UserError(
            f"the model of the run '{run.path}' is not at '{place}' any more; say with `model`"
            " where it is"
        )
    else:
        task = settings["task"]
        classes = stored.config.get("id2label") if TASKS[task].labels == "class" else None
        loaded = load_model(
            model or stored.name,
            task=task,
            parameters=settings["parameters"],
            lora=adapters(settings),
            num_labels=len(classes) if classes else None,
            meta_path=settings["meta_path"],
            device=str(resolve_device(device)),
        )
    if loaded.sha256 != stored.sha256:
        raise UserError(
            f"'{loaded.info.name}' is not the model that the run '{run.path}' started from (its"
            " sha256 differs); name that one with `model`"
        )
    require_same_labels(stored, loaded.info, str(run.path))
    if loaded.layout.to_json() != record.parameters:
        raise UserError(
            f"'{run.path}': the parameters in its run.json are not those of '{loaded.info.name}';"
            " the file was damaged or written by another version: copy it back, or use that version"
        )
    start = stored_start(run, loaded)
    if start is not None:
        loaded = deepcopy(loaded) if loaded is model else loaded  # the caller's stays as it is
        loaded.start_at(start.theta)
    return loaded


def require_same_labels(stored: ModelRecord, now: ModelInfo, run: str) -> None:
    """Refuse a model with the weights of `run`, but with other scores or another noise than the
    `stored` one in its config.json: no weight shows these."""
    for key in ("noise_std", "score_range"):
        before, found = stored.config.get(key), now.config.get(key)
        if before != found:
            raise UserError(
                f"`model`: {key} in the config.json of '{now.name}' is {found}, and the run"
                f" '{run}' was made with {before}; put that back, or start a new run"
            )


def adapters(settings: Mapping[str, Any]) -> Lora | None:
    """The adapters that a run's settings ask for; None if none."""
    if not names_adapters(settings["parameters"]):
        return None
    targets = settings["lora_targets"]
    return Lora(
        settings["lora_r"],
        settings["lora_alpha"],
        None if targets is None else tuple(t.strip() for t in targets.split(",")),
    )


def stored_start(run: Run, model: FunctionalModel) -> Start | None:
    """Where the chains of `run` started; None where that is the loaded weights."""
    start = run.record().start
    if start is None:
        return None
    theta = (run.read_tensors(START) or {}).get("theta")
    if theta is None or theta.shape != model.loaded.shape or sha256(theta) != start.sha256:
        raise UserError(f"'{run.path / START}' is missing or damaged; copy it back")
    return Start(theta, start)


def sha256(theta: Tensor) -> str:
    return hashlib.sha256(theta.cpu().numpy().tobytes()).hexdigest()
