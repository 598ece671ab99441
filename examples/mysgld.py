"""mysgld: Langevin dynamics whose noise is averaged over two steps.

    θ ← θ + lr ∇ℓ + (1 − w) R_n + w R_{n+1},   R_n ~ N(0, 2 lr T/N)

w = 0 is SGLD; w = ½ is the method of Leimkuhler and Matthews 2013,
https://arxiv.org/abs/1203.5428, whose error in a quadratic well is of second order in lr.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from bayesgen.config import ChainSettings
from bayesgen.config.fields import Fraction, NonNegative
from bayesgen.inference.registry import SamplerSpec

if TYPE_CHECKING:
    from bayesgen.inference.log_posterior import LogPosterior
    from bayesgen.inference.sampler import Sampler
    from bayesgen.inference.schedules import Plan


@dataclass(frozen=True)
class MySGLDSettings(ChainSettings):
    learning_rate: Annotated[NonNegative, "step size on the per-datum scale"] = 2.5
    noise_weight: Annotated[Fraction, "w, of the next step's noise: 0 is SGLD"] = 0.5


@dataclass(frozen=True)
class State:
    """A state is a dataclass of tensors and tuples of tensors: what a checkpoint holds."""

    params: Any  # φ in chunks
    noise: Any  # R_n / √(2 lr T/N), in chunks
    step: Any


def build(log_posterior: LogPosterior, settings: MySGLDSettings, plan: Plan) -> Sampler:
    import torch

    from bayesgen.inference.libraries import posteriors
    from bayesgen.inference.sampler import Sampler, overdamped

    def normals(params: Any) -> Any:
        return tuple(torch.randn_like(p) for p in params)

    def init(params: Any) -> State:
        return State(params, normals(params), torch.zeros((), dtype=torch.int64))

    def update(state: State, batch: Any, inplace: bool = False) -> tuple[State, Any]:
        gradients, (_, terms) = torch.func.grad_and_value(log_posterior, has_aux=True)(
            state.params, batch
        )
        lr, temperature = (float(v[state.step]) for v in (plan.learning_rate, plan.temperature))
        sd = (2 * lr * temperature / log_posterior.num_observations) ** 0.5
        w, noise = settings.noise_weight, normals(state.params)
        params = tuple(
            p + lr * g + sd * ((1 - w) * before + w * after)
            for p, g, before, after in zip(
                state.params, gradients, state.noise, noise, strict=True
            )
        )  # fmt: skip
        return State(params, noise, state.step + 1), terms

    transform = posteriors.types.Transform(init, update)
    return Sampler.of(transform, log_posterior, langevin=overdamped)


SAMPLER = SamplerSpec(
    name="mysgld",
    summary="Langevin dynamics whose noise is averaged over two steps",
    paper="https://arxiv.org/abs/1203.5428",
    settings=MySGLDSettings,
    build=build,
    floats=11,  # per parameter, at its peak
    labelled={"learning_rate": 0.9},
)
