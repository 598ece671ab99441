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

from bayesgen.config import PRIORS, ChainSettings, PerExampleSettings, TrainSettings
from bayesgen.errors import UserError
from bayesgen.inference.registry import SAMPLERS
from bayesgen.models import FunctionalModel
from bayesgen.parameters import ADAPTER
from bayesgen.priors.learned import listed
from bayesgen.priors.prior_file import rank_in
from bayesgen.runs.files import OpeningRecord
from bayesgen.workflow.job import Job

# float32 numbers for each parameter, beside those of the sampler
PRIOR_FLOATS = 2.5  # of a learned prior: its mean and widths, and the pages of its file
PRIOR_RANK_FLOATS = 2.0  # of each of its deviations
FROZEN_FLOATS = 3.0  # where a parameter is not Bayesian
START_FLOATS = 1.0  # of where chains start, if not at the loaded weights
# from where on a chain is warned of: nats by the noise alone, and a move from draw to draw over sd
HOT_NATS = 0.2
FROZEN = 1e-3


@dataclass(frozen=True)
class Needs:
    """What a run needs at least: bytes of memory (activations come on top) and of disk, for P =
    `bayesian` of the network's parameters and the draws of all chains."""

    bayesian: int
    network: int
    draws: int
    memory: int
    disk: int
    checkpointing: bool = False  # activations are kept of one block at a time

    def rows(self) -> list[tuple[str, str]]:
        """For the pre-flight table."""
        share = self.bayesian / self.network
        which = " of one block at a time" if self.checkpointing else ""
        memory = f"{_size(self.memory)} for weights and sampler; activations{which} come on top"
        return [
            ("parameters θ", f"{self.bayesian:,} of {self.network:,} ({share:.1%})"),
            ("memory", memory),
            ("disk", f"{_size(self.disk)} for {self.draws:,} draws"),
        ]


def estimate(sampler: str, settings: TrainSettings, model: FunctionalModel) -> Needs:
    """What `sampler` needs on `model`, which may be an outline."""
    bayesian, network = model.layout.size, model.num_parameters
    floats = FROZEN_FLOATS * (network - bayesian)
    if PRIORS[settings.prior].learned and settings.prior_path is not None:
        rank = rank_in(Path(settings.prior_path))
        floats += (PRIOR_FLOATS + PRIOR_RANK_FLOATS * rank) * bayesian
    if settings.init_from is not None:
        floats += START_FLOATS * bayesian
    memory = SAMPLERS[sampler].memory(settings, bayesian) + int(4 * floats)
    draws = settings.chains * settings.num_draws_at_most
    checkpointing = settings.gradient_checkpointing
    return Needs(bayesian, network, draws, memory, 4 * bayesian * draws, checkpointing)


def require(needs: Needs, device: torch.device, folder: Path) -> None:
    """Refuse a run that does not fit into `device`, or onto the disk of `folder`, which need not
    exist yet."""
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


def less_memory(settings: TrainSettings) -> str:
    """What makes a run need less memory beside what it was given already."""
    ways = [
        ("`gradient_checkpointing`", not settings.gradient_checkpointing),
        ("`precision=bf16`", settings.precision == "fp32"),
        ("more `gradient_accumulation`", not isinstance(settings, PerExampleSettings)),
        ("a smaller `batch_size` or `block_size`", True),
        ("fewer `parameters`", True),
        ("a smaller `eval_batch_size`", settings.eval),
    ]
    return "take " + ", ".join(way for way, helps in ways if helps)


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
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"


def opening(job: Job, needs: Needs, beginning: Sequence[tuple[str, str]] = ()) -> OpeningRecord:
    """Measure one gradient at the start and set the scales of the run side by side; `beginning`
    says where chains start, if not at the loaded weights."""
    model, settings, plan, n = job.model, job.settings, job.plan, job.num_observations
    weight_sd, heat = float(model.theta.std()), settings.temperature
    rows = [
        *needs.rows(),
        *beginning,
        ("observations N", f"{n:,}"),
        ("prior", f"{job.prior.describe()}; the weights' own sd is {weight_sd:.3g}"),
        *prior_rows(job.prior.record()),
        ("temperature", f"T = {heat:g}, T/N = {heat / n:.3g}"),
        ("steps", f"{plan.steps:,} of each chain, {plan.num_draws} draws"),
    ]
    numbers = {"weight_sd": weight_sd, "P": float(model.layout.size), "N": float(n)}
    warnings: list[str] = []
    untrained = sorted(name for name in model.untrained if ADAPTER not in name)
    if untrained:
        learned = set(untrained) <= set(model.layout.names)
        way_out = " and some stay there: take all of them into `parameters` (head)."
        # under a prior from pretraining the run itself is what learns the task
        if model.task.is_labelled and not (learned and PRIORS[settings.prior].learned):
            way_out = ". Fine-tune it on these data first (bayesgen finetune)."
        elif learned:
            way_out = " and are trained along."
        warnings.append(
            f"'{model.info.name}' has no trained weights for {', '.join(untrained)}: they start at"
            f" random{way_out}"
        )
    prior = job.prior.diagonal()
    centre = model.theta if prior is None else prior.mean.to(model.device)
    if job.spec.starts_at_prior and not torch.equal(centre, model.theta):
        warnings.append(
            f"{job.spec.name} starts at the prior's mean, not at the loaded weights: use"
            " `prior=pretrained`"
        )
    found = OpeningRecord(rows=rows, numbers=numbers, warnings=warnings)
    if isinstance(settings, ChainSettings):
        _add_chain(job, settings, found)
    return found


def prior_rows(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How a prior from a file fits the model: the names of parameters that they do not share, and
    how far its mean is from the weights."""
    words = {"missing": "prior lacks", "extra": "prior alone has"}
    rows = [(title, listed(record[key])) for key, title in words.items() if record.get(key)]
    if "distance" in record:
        far = f"lies {100 * record['distance']:.2g} % of the weights' length from them"
        rows.append(("prior's mean", far))
    return rows


def _add_chain(job: Job, settings: ChainSettings, opened: OpeningRecord) -> None:
    """Add to `opened` how far a chain moves in θ, and what is wrong with that."""
    langevin, plan, n = job.sampler.langevin, job.plan, job.num_observations
    if langevin is None:
        return
    weight_sd = max(opened.numbers["weight_sd"], 1e-12)  # parameters that are all equal have none
    batch = {k: v.to(job.model.device) for k, v in job.batches(0).batch(0).items()}
    _, gradient = job.log_posterior.log_likelihood_grad(job.model.theta, batch)
    # θ moves by D where φ moves by 1, and φ is pulled by D times the gradient
    d = job.log_posterior.affine.scale
    pull, unit = (_rms(gradient), 1.0) if d is None else (_rms(gradient * d * d), _rms(d))

    peak = int(plan.learning_rate.argmax())
    collected = plan.collect.nonzero()[:, 0]
    middle = int(collected[len(collected) // 2])  # the step size may fall from draw to draw
    rates = (float(plan.learning_rate[step]) for step in (peak, middle))
    start, later = (langevin(rate, settings.temperature / n) for rate in rates)
    gradient_step, noise_step, drift = start.drift * pull, start.noise * unit, later.drift * pull
    move = (settings.thinning * ((later.diffusion * unit) ** 2 + drift**2)) ** 0.5
    wander = start.diffusion * unit * plan.steps**0.5
    thermal = opened.numbers["P"] * settings.temperature / (2 * n)
    rows, numbers, warnings = opened.rows, opened.numbers, opened.warnings
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
        ("move per draw", f"about {move:.2e}, {move / weight_sd:.1%} of the weights' sd"),
        ("heat", f"P·T/2N = {thermal:.2g} nats above the mode at equilibrium"),
    ]
    held = float(plan.learning_rate[peak])
    if held < 0.999 * settings.learning_rate:
        rows.append(("step size", f"held at {held:.3g}: the prior is stiff"))
    if start.friction_steps is not None:
        numbers["friction_steps"] = start.friction_steps
        time = f"{start.friction_steps:.3g} steps of {plan.steps:,} in the run"
        rows.append(("friction time", time))
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
    width = "`prior_scale`" if PRIORS[settings.prior].learned else "`prior_std`"
    if thermal > HOT_NATS or wander > 3 * weight_sd:
        warnings.append(
            f"hot: at T = {settings.temperature:g} the noise alone costs up to {thermal:.2g} nats"
            f" per observation and carries a free weight by {wander / weight_sd:.1f} times the"
            f" weights' sd in this run. Lower `temperature`, `learning_rate` or {width}."
        )


def _rms(vector: Tensor) -> float:
    return float(vector.square().mean().sqrt())
