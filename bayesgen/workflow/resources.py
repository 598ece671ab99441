"""What a run will need of memory and disk, from sizes alone: known before anything is allocated."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from bayesgen.config import TrainSettings
from bayesgen.errors import UserError
from bayesgen.inference.registry import SAMPLERS
from bayesgen.models import FunctionalModel
from bayesgen.priors.prior_file import rank_in

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
