"""Before a run starts: what it will need, whether that can work, and warnings in words.

What it needs of memory and disk comes from sizes alone: it is known before anything is allocated.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from bayesgen.config import ChainSettings, TrainSettings
from bayesgen.errors import UserError
from bayesgen.inference.registry import SAMPLERS
from bayesgen.models import FunctionalModel
from bayesgen.parameters import ADAPTER
from bayesgen.priors.learned import listed
from bayesgen.priors.prior_file import rank_in
from bayesgen.workflow.job import Job

HOT_NATS = 0.2
FROZEN = 1e-3
PRIOR_FLOATS = 2.5
"""Float32 numbers for each Bayesian parameter that a learned prior needs: its mean and widths, and
the pages of its file."""
PRIOR_RANK_FLOATS = 2.0
"""The same for each of its deviations."""
FROZEN_FLOATS = 3.0
"""Float32 numbers for each parameter that is not Bayesian."""
START_FLOATS = 1.0
"""Where chains start, if not at the loaded weights."""


@dataclass(frozen=True)
class Needs:
    """What a run needs at least; activations come on top.

    Attributes:
        bayesian: P.
        network: parameters of the model, Bayesian or not.
        draws: of all chains.
        memory: bytes for the network, its gradient and the sampler.
        disk: bytes for the draws.
        checkpointing: whether activations are kept of one block at a time.
    """

    bayesian: int
    network: int
    draws: int
    memory: int
    disk: int
    checkpointing: bool = False

    def rows(self) -> list[tuple[str, str]]:
        """For the pre-flight table."""
        return [
            (
                "parameters θ",
                f"{self.bayesian:,} of {self.network:,} ({self.bayesian / self.network:.1%})",
            ),
            (
                "memory",
                f"{_size(self.memory)} for weights and sampler; activations"
                f"{' of one block at a time' if self.checkpointing else ''} come on top",
            ),
            ("disk", f"{_size(self.disk)} for {self.draws:,} draws"),
        ]


def estimate(sampler: str, settings: TrainSettings, model: FunctionalModel) -> Needs:
    """What `sampler` needs on `model`, which may be an outline."""
    bayesian, network = model.layout.size, model.num_parameters
    floats = FROZEN_FLOATS * (network - bayesian)
    if settings.learned_prior and settings.prior_path is not None:
        rank = rank_in(Path(settings.prior_path))
        floats += (PRIOR_FLOATS + PRIOR_RANK_FLOATS * rank) * bayesian
    if settings.init_from is not None:
        floats += START_FLOATS * bayesian
    memory = SAMPLERS[sampler].memory(settings, bayesian) + int(4 * floats)
    draws = settings.chains * settings.num_draws_at_most
    disk = 4 * bayesian * draws
    return Needs(bayesian, network, draws, memory, disk, settings.gradient_checkpointing)


def require(needs: Needs, device: torch.device, folder: Path) -> None:
    """Refuse a run that cannot fit.

    Args:
        folder: where the draws will go; it need not exist yet.

    Raises:
        UserError: `device` has too little memory, or the disk too little space.
    """
    memory = free_memory(device)
    if memory is not None and needs.memory > memory:
        raise UserError(
            f"`model`: weights and sampler need {_size(needs.memory)} ({needs.bayesian:,} Bayesian"
            f" of {needs.network:,} parameters), but {device} has {_size(memory)} free; make fewer"
            " Bayesian with `parameters` (last-layer, layers=-2:, lora), or take another `sampler`"
        )
    disk = free_disk(folder)
    if needs.disk > disk:
        raise UserError(
            f"`sampling_steps`: {needs.draws:,} draws of {needs.bayesian:,} parameters need"
            f" {_size(needs.disk)}, but the disk of '{folder}' has {_size(disk)} free; take fewer"
            " draws (a larger `thinning`), fewer `parameters`, or another `out`"
        )


def free_memory(device: torch.device) -> int | None:
    """Bytes; None where the device does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available) if device.type == "cpu" else None


def free_disk(folder: Path) -> int:
    """Bytes on the disk that `folder` is or will be on."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    return shutil.disk_usage(there).free


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"


@dataclass(frozen=True)
class Opening:
    """Rows of (what, value) for people, the same numbers for machines, and warnings.

    Attributes:
        needs: the first of the rows.
    """

    needs: Needs
    rows: list[tuple[str, str]]
    numbers: dict[str, float]
    warnings: list[str]


def opening(job: Job, beginning: Sequence[tuple[str, str]] = ()) -> Opening:
    """Measure one gradient at the start and set the scales of the run side by side.

    Args:
        beginning: rows that say where the chains start, if not at the loaded weights.
    """
    model, plan, n = job.model, job.plan, job.num_observations
    size, weight_sd = model.layout.size, float(model.theta.std())
    needs = estimate(job.spec.name, job.settings, model)
    rows = [
        *needs.rows(),
        *beginning,
        ("observations N", f"{n:,}"),
        ("prior", f"{job.prior.describe()}; the weights' own sd is {weight_sd:.3g}"),
        *prior_rows(job.prior.record()),
        (
            "temperature",
            f"T = {job.settings.temperature:g}, T/N = {job.settings.temperature / n:.3g}",
        ),
        ("steps", f"{plan.steps:,} of each chain, {plan.num_draws} draws"),
    ]
    numbers = {"weight_sd": weight_sd, "P": float(size), "N": float(n)}
    warnings: list[str] = []
    untrained = sorted(name for name in model.untrained if ADAPTER not in name)
    if untrained:
        warnings.append(
            f"'{model.info.name}' has no trained weights for {', '.join(untrained)}: they start at"
            f" random{_way_out(model, untrained, job.settings.learned_prior)}"
        )
    prior = job.prior.diagonal()
    centre = model.theta if prior is None else prior.mean.to(model.device)
    if job.spec.starts_at_prior and not torch.equal(centre, model.theta):
        warnings.append(
            f"{job.spec.name} starts at the prior's mean, not at the loaded weights: use"
            " `prior=pretrained`"
        )
    if job.sampler.langevin is not None and isinstance(job.settings, ChainSettings):
        _chain_rows(job, job.settings, rows, numbers, warnings)
    return Opening(needs, rows, numbers, warnings)


def prior_rows(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How a prior from a file fits the model, matched by parameter name: the names that they do not
    share, and how far its mean is from the weights."""
    words = {"missing": "prior lacks", "extra": "prior alone has"}
    rows = [(title, listed(record[key])) for key, title in words.items() if record.get(key)]
    if "distance" in record:
        far = f"lies {100 * record['distance']:.2g} % of the weights' length from them"
        rows.append(("prior's mean", far))
    return rows


def _way_out(model: FunctionalModel, untrained: Sequence[str], prior: bool) -> str:
    """What becomes of parameters that start at random, or what to do about them."""
    learned = set(untrained) <= set(model.layout.names)
    # under a prior from pretraining the run itself is what learns the task
    if model.task.is_labelled and not (learned and prior):
        return ". Fine-tune it on these data first (bayesgen finetune)."
    if learned:
        return " and are trained along."
    return " and some stay there: take all of them into `parameters` (head)."


def _chain_rows(
    job: Job,
    settings: ChainSettings,
    rows: list[tuple[str, str]],
    numbers: dict[str, float],
    warnings: list[str],
) -> None:
    assert job.sampler.langevin is not None
    plan, n = job.plan, job.num_observations
    weight_sd = max(numbers["weight_sd"], 1e-12)  # parameters that are all equal have none
    affine = job.log_posterior.affine
    batch = {k: v.to(job.model.device) for k, v in job.batches(0).batch(0).items()}
    _, gradient = job.log_posterior.log_likelihood_grad(job.model.theta, batch)

    def in_theta(vector: Tensor | None) -> float:
        """rms over θ of a displacement in φ (None: of unit length in each coordinate)."""
        d = affine.scale
        if vector is None:
            return 1.0 if d is None else float(d.square().mean().sqrt())
        moved = vector if d is None else vector * d
        return float(moved.square().mean().sqrt())

    pulled = gradient if affine.scale is None else gradient * affine.scale
    peak = int(plan.learning_rate.argmax())
    start = job.sampler.langevin(float(plan.learning_rate[peak]), settings.temperature / n)
    collected = plan.collect.nonzero()[:, 0]
    at = int(collected[len(collected) // 2])  # the step size may fall from draw to draw
    later = job.sampler.langevin(float(plan.learning_rate[at]), settings.temperature / n)
    gradient_step = start.drift * in_theta(pulled)
    noise_step = start.noise * in_theta(None)
    drift = later.drift * in_theta(pulled)
    move = (settings.thinning * ((later.diffusion * in_theta(None)) ** 2 + drift**2)) ** 0.5
    wander = start.diffusion * in_theta(None) * plan.steps**0.5
    thermal = numbers["P"] * settings.temperature / (2 * n)
    numbers |= {
        "gradient_step": gradient_step,
        "noise_step": noise_step,
        "move_per_draw": move,
        "thermal_nats": thermal,
        "wander": wander,
    }
    rows += [
        ("gradient step", f"{gradient_step:.2e} (rms over θ, at the largest step size)"),
        ("noise per step", f"{noise_step:.2e}"),
        (
            "move per draw",
            f"about {move:.2e}, {move / weight_sd:.1%} of the weights' sd",
        ),
        ("heat", f"P·T/2N = {thermal:.2g} nats above the mode at equilibrium"),
    ]
    held = float(plan.learning_rate[peak])
    if held < 0.999 * settings.learning_rate:
        rows.append(("step size", f"held at {held:.3g}: the prior is stiff"))
    if start.friction_steps is not None:
        numbers["friction_steps"] = start.friction_steps
        rows.append(
            ("friction time", f"{start.friction_steps:.3g} steps of {plan.steps:,} in the run")
        )
        if start.friction_steps > plan.steps:
            warnings.append(
                f"ballistic: the velocity is forgotten after {start.friction_steps:.3g} steps, the"
                f" run has {plan.steps}; all draws lie on one line. Raise `friction` or"
                " `learning_rate`."
            )
    if move < FROZEN * weight_sd:
        warnings.append(
            f"frozen: from one draw to the next θ moves by {move / weight_sd:.1e} of its sd; the"
            " draws will coincide. Raise `learning_rate` or `thinning`."
        )
    width = "`prior_scale`" if settings.learned_prior else "`prior_std`"
    if thermal > HOT_NATS or wander > 3 * weight_sd:
        warnings.append(
            f"hot: at T = {settings.temperature:g} the noise alone costs up to {thermal:.2g} nats"
            f" per observation and carries a free weight by {wander / weight_sd:.1f} times the"
            f" weights' sd in this run. Lower `temperature`, `learning_rate` or {width}."
        )
