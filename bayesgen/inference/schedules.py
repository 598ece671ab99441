"""What happens at each step of a run, laid out before it starts: what can go wrong with a schedule
can be seen in its plan, and is refused at the start."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from bayesgen.config import ChainSettings, PassSettings
from bayesgen.errors import UserError

MAX_STEPS = 100_000_000


@dataclass(frozen=True)
class Plan:
    """One run, step by step.

    Attributes:
        learning_rate: [steps], float64.
        temperature: T of [steps], float64, not T/N.
        collect: [steps], bool: the state *after* the step is a draw.
        passes: over the data set that the steps amount to; 1 for a chain, which counts none.
    """

    learning_rate: Tensor
    temperature: Tensor
    collect: Tensor
    passes: float = 1.0

    @cached_property
    def steps(self) -> int:
        return len(self.collect)

    @property
    def num_draws(self) -> int:
        return int(self.collect.sum())

    def held(self, limit: float) -> Plan:
        """The same plan with no step size above `limit`; its shape stays."""
        peak = float(self.learning_rate.max())
        return replace(self, learning_rate=self.learning_rate * min(1.0, limit / max(peak, 1e-300)))

    def shortened(self, steps: int, draws: int = 5) -> Plan:
        """The same plan in at most `steps` steps and with at most `draws` draws, evenly taken."""
        steps = min(steps, self.steps)
        places = torch.linspace(0, self.steps - 1, steps, dtype=torch.float64).round().long()
        # the last place before each collected step moves to it: to its temperature, too
        collected = self.collect.nonzero()[:, 0]
        kept = torch.searchsorted(places, collected, right=True) - 1
        places = places.scatter_reduce(0, kept, collected, "amax")
        kept = kept.unique()
        chosen = torch.linspace(0, len(kept) - 1, min(draws, len(kept))).round().long()
        collect = torch.zeros(steps, dtype=torch.bool)
        collect[kept[chosen]] = True
        passes = self.passes * steps / self.steps
        return Plan(self.learning_rate[places], self.temperature[places], collect, passes)


def chain_plan(settings: ChainSettings) -> Plan:
    """Warm-up, then sampling with a draw every `thinning` steps.

    The step size rises along a line to lr over `ramp_fraction` of the warm-up. A finished
    checkpoint lies where the loss is sharper than a full step could bear; a slow rise lets the
    chain drift to where it is flat enough (training at the edge of stability, Cohen et al. 2021,
    https://arxiv.org/abs/2103.00065). From there it follows `schedule` to the end of the run:

    - `constant`: lr.
    - `cosine`, `linear`: lr to the end of the warm-up, then down to lr·final_fraction: the
      shrinking steps take the heat of the minibatches' noise out of the draws.
    - `cyclical`: cosine restarts (Zhang et al. 2020, https://arxiv.org/abs/1902.03932, eq. 1). The
      first part of each cycle, `cycle_exploration`, explores without noise, and so does the whole
      warm-up; draws are collected in the rest of a cycle.

    Raises:
        UserError: no step of the plan would ever be collected.
    """
    step = every_step(settings.warmup_steps + settings.sampling_steps)
    temperature = torch.full_like(step, settings.temperature)
    eligible = step >= settings.warmup_steps
    last = settings.final_fraction
    done = ((step - settings.warmup_steps) / max(settings.sampling_steps - 1, 1)).clamp(min=0)
    cycle = torch.zeros_like(step)
    if settings.schedule == "constant":
        shape = torch.ones_like(step)
    elif settings.schedule == "linear":
        shape = 1 + (last - 1) * done
    elif settings.schedule == "cosine":
        shape = last + (1 - last) * 0.5 * (1 + torch.cos(math.pi * done))
    else:
        length = math.ceil(len(step) / settings.cycles)
        cycle, position = step // length, (step % length) / length
        shape = last + (1 - last) * 0.5 * (1 + torch.cos(math.pi * position))
        eligible &= position >= settings.cycle_exploration
        temperature = torch.where(eligible, temperature, 0.0)
    shape = rising(shape, round(settings.ramp_fraction * settings.warmup_steps))
    temperature = rising(temperature, settings.temperature_ramp_steps)
    # the thinning-th eligible step of a cycle, the 2·thinning-th, ...: never the first, unmixed one
    collect = torch.zeros_like(eligible)
    for number in range(int(cycle[-1]) + 1):
        mine = eligible & (cycle == number)
        collect |= mine & (mine.cumsum(0) % settings.thinning == 0)
    if not collect.any():
        raise UserError(
            f"no step of this schedule would collect a draw: {int(eligible.sum())} of"
            f" {settings.sampling_steps} sampling steps are eligible and `thinning` is"
            f" {settings.thinning}; lower `thinning`, `warmup_steps` or `cycle_exploration`,"
            " or raise `sampling_steps`"
        )
    return Plan(settings.learning_rate * shape, temperature, collect)


def pass_plan(settings: PassSettings, steps_per_epoch: int) -> Plan:
    """The plan of a method that passes over the data: the state after the last step is its result,
    and an optimizer's step size falls along a cosine to `final_fraction` of itself."""
    step = every_step(max(1, round(settings.epochs * steps_per_epoch)))
    last = vars(settings).get("final_fraction", 1.0)
    cosine = 0.5 * (1 + torch.cos(math.pi * step / max(len(step) - 1, 1)))
    return Plan(
        settings.learning_rate * (last + (1 - last) * cosine),
        torch.full_like(step, settings.temperature),
        step == len(step) - 1,
        len(step) / steps_per_epoch,
    )


def every_step(steps: int) -> Tensor:
    """0, 1, ... [steps], float64; refuses a plan that is too long for memory (17 bytes a step)."""
    if steps > MAX_STEPS:
        raise UserError(f"a run of {steps:,} steps is too long: at most {MAX_STEPS:,}")
    return torch.arange(steps, dtype=torch.float64)


def rising(values: Tensor, steps: int) -> Tensor:
    """`values` of every step, which begin with a rise along a line over `steps` steps."""
    return values * ((every_step(len(values)) + 1) / steps).clamp(max=1) if steps else values
