"""What a sampler is, and all of them by name.

A sampler is one file that ends in `SAMPLER = SamplerSpec(...)`: docs/how-to/add-sampler.md. Their
settings make `--help`, so these files import torch and `posteriors` in functions only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from bayesgen.config import PRIORS, ChainSettings, PassSettings, PerExampleSettings, TrainSettings
from bayesgen.errors import UserError
from bayesgen.registry import Registry
from bayesgen.tasks import TASKS

if TYPE_CHECKING:
    from bayesgen.inference.log_posterior import LogPosterior
    from bayesgen.inference.sampler import Sampler
    from bayesgen.inference.schedules import Plan

S = TypeVar("S", bound=TrainSettings)

LABELLED_CHAIN: Mapping[str, Any] = {
    "prior": "pretrained", "prior_std": 0.05, "temperature": 0.5, "batch_size": 32,
    "warmup_steps": 100, "sampling_steps": 480, "thinning": 40, "gradient_clip": 10.0,
    "preconditioner_damping": 1.0,
}  # fmt: skip
"""Defaults of all chains on labelled data: for a fine-tuned encoder, whose N is thousands and not
millions, and which fits most examples so well that a few make all of the gradient: a prior around
its weights keeps the chain from fitting these further and further."""
LABELLED_OPTIMIZER: Mapping[str, Any] = {
    "prior": "pretrained", "prior_std": 0.05, "learning_rate": 2e-4, "batch_size": 8,
}  # fmt: skip
"""The same, of methods that follow an optimizer, with the middle step size of
results/transfer.md."""
NUMBER_STEP, NUMBER_TEMPERATURE = 0.2, 0.01
"""Of chains where labels are real numbers: step sizes as a fraction of those for classes (a
Gaussian with little noise is far sharper than a softmax), and T."""
LEARNED_STEP, LEARNED_TEMPERATURE = 2.0, 0.01
"""Of chains under a prior that another task taught, where the head is new: T = 0.5 would keep a
chain near chance (results/transfer.md: 0.01 is best or near it with 10 and 100 labels). Step sizes
are a multiple of those for a fine-tune: for tens to hundreds of labels, too long with 1,000."""


def plan_of(settings: TrainSettings, steps_per_epoch: int) -> Plan:
    """A chain's plan, or that of a method that passes over the data."""
    from bayesgen.inference.schedules import chain_plan, pass_plan

    if isinstance(settings, ChainSettings):
        return chain_plan(settings)
    if not isinstance(settings, PassSettings):
        raise TypeError(f"{type(settings).__name__} needs a `plan` of its own")
    return pass_plan(settings, steps_per_epoch)


def chain(algorithm: str, **how: Any) -> Callable[[LogPosterior, Any, Plan], Sampler]:
    """The builder of a chain of `posteriors.sgmcmc`: see `sampler.chain_sampler`."""

    def build(log_posterior: LogPosterior, settings: ChainSettings, plan: Plan) -> Sampler:
        from bayesgen.inference.sampler import chain_sampler

        return chain_sampler(algorithm, log_posterior, settings, plan, **how)

    return build


@dataclass(frozen=True)
class SamplerSpec(Generic[S]):
    """Everything about a sampler.

    Attributes:
        name: that `sampler` takes.
        summary: what it is, in a line.
        paper: where it is from.
        settings: their class, a subclass of `ChainSettings`, `GaussianSettings` or `TrainSettings`,
            which says what a draw is; fields carry their help, and defaults are those for text.
        build: (log posterior, settings, plan) -> a `Sampler` that is ready to run.
        floats: float32 numbers for each Bayesian parameter at its peak, those of the network and of
            a saved state among them, without per-example gradients (benchmarks/memory.py
            --samplers); a number, or a function of the settings.
        plan: (settings, steps per epoch) -> step size, temperature and draws of every step.
        labelled: defaults for labelled data, beside those of all chains; None: those for text.
        ignores: settings that have no effect on it.
        starts_at_prior: it starts at the prior's mean, and not at the loaded weights.
    """

    name: str
    summary: str
    paper: str
    settings: type[S]
    build: Callable[[LogPosterior, S, Plan], Sampler]
    floats: float | Callable[[S], float]
    plan: Callable[[S, int], Plan] = plan_of
    labelled: Mapping[str, Any] | None = None
    ignores: tuple[str, ...] = ()
    starts_at_prior: bool = False

    def defaults(
        self, task: str, prior: str | None = None, init_from: str | None = None
    ) -> dict[str, Any]:
        """Defaults for a task that stand in the place of the settings' own; none for text."""
        kind = TASKS[task]
        if not kind.is_labelled or self.labelled is None:
            return {}
        chosen = dict(self.labelled)
        if kind.auto_class:  # a network of someone else may have neither
            chosen["parameters"] = "layers=-2:" if kind.compares else "layers=-2:,head"
        if self.settings.draws_from != "chain":
            return chosen
        chosen = {**LABELLED_CHAIN, **chosen}
        rate = chosen.get("learning_rate", self.settings.learning_rate)
        if kind.labels == "number":
            return chosen | {"learning_rate": NUMBER_STEP * rate, "temperature": NUMBER_TEMPERATURE}
        if prior is not None and PRIORS[prior].learned and init_from is None:
            return chosen | {
                "learning_rate": LEARNED_STEP * rate,
                "temperature": LEARNED_TEMPERATURE,
            }
        return chosen

    def memory(self, settings: S, size: int) -> int:
        """Bytes at its peak with `size` Bayesian parameters, but for activations and the prior."""
        floats = self.floats(settings) if callable(self.floats) else self.floats
        needed = int(4 * floats * size)
        if isinstance(settings, PerExampleSettings):
            rows = settings.row_bytes(size) * settings.batch_size
            needed += min(settings.jacobian_memory * 2**20, rows)
        return needed

    def validate(self, settings: S) -> None:
        """Refuse settings that cannot work, by a `UserError` that names them."""
        settings.validate()
        if self.starts_at_prior and settings.init_from is not None:
            raise UserError(f"`init_from`: {self.name} starts at the prior's mean; leave it out")

    def without_effect(self, settings: S) -> dict[str, str]:
        """Settings that would change nothing beside the others, and what they need."""
        ignored = dict.fromkeys(self.ignores, f"has no effect on {self.name}")
        return settings.without_effect() | ignored


SAMPLERS: Registry[SamplerSpec[Any]] = Registry(
    "sampler",
    {
        name: f"bayesgen.inference.{name}:SAMPLER"
        for name in (
            "sgld", "sghmc", "baoa", "sgnht", "sglrw", "ekf", "laplace", "vi", "swag", "map",
        )
    },
)  # fmt: skip


def settings_classes() -> dict[str, type[TrainSettings]]:
    """The settings class of every sampler, by name."""
    return {name: spec.settings for name, spec in SAMPLERS.items()}
