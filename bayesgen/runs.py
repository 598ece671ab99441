"""A run on disk: one folder, in which every file is either whole or not there.

    run.json                 settings, data fingerprint, versions, model, layout of θ
    draws/c0-000012.safetensors   tensor "draws" [k, P]: the 13th draw of chain 0
    state/c0.safetensors     what resume needs of chain 0; c0.previous.safetensors the one before
    metrics.jsonl            one line per logged step

Files are written beside their place, synced, and renamed into it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from bayesgen.errors import UserError


def atomic_write(path: Path, data: bytes) -> None:
    """Put `data` at `path`: the old file or the new one is there, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def atomic_save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """The same for a safetensors file."""
    temporary = path.with_name(f".{path.name}.tmp")
    save_file(dict(tensors), temporary, metadata=dict(metadata))
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


@dataclass(frozen=True)
class Snapshot:
    """What resume needs of one chain, after `step` steps."""

    tensors: dict[str, Tensor]
    step: int
    draws: int
    seconds: float


@dataclass(frozen=True)
class Run:
    """The folder of one run."""

    path: Path

    @classmethod
    def create(cls, path: Path) -> Run:
        """Make the folder.

        Raises:
            UserError: it cannot be written, or already holds a run.
        """
        try:
            if (path / "run.json").exists():
                raise UserError(
                    f"--out: '{path}' already holds a run; continue it with --resume '{path}' or"
                    " name another folder"
                )
            for folder in ("draws", "state"):
                (path / folder).mkdir(parents=True, exist_ok=True)
            probe = path / ".probe"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(
                f"--out: cannot write to '{path}' ({error.strerror}); name a writable folder"
            ) from error
        return cls(path)

    @classmethod
    def open(cls, path: str | Path, flag: str = "--resume") -> Run:
        """A run that exists.

        Raises:
            UserError: there is no run at `path`.
        """
        run = cls(Path(path))
        if not (run.path / "run.json").is_file():
            raise UserError(f"{flag}: no run at '{path}' (run.json missing)")
        return run

    # -- records ---------------------------------------------------------------------------------

    def write_json(self, name: str, content: Mapping[str, Any]) -> Path:
        atomic_write(self.path / name, (json.dumps(content, indent=2) + "\n").encode())
        return self.path / name

    def read_json(self, name: str) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads((self.path / name).read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"'{self.path / name}' is missing or damaged ({error})") from error
        return content

    @property
    def finished(self) -> bool:
        """Whether the run's totals have been written."""
        return any(self.path.glob("*_metrics.json"))

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    # -- draws -----------------------------------------------------------------------------------

    def draw_paths(self, chain: int | None = None) -> list[Path]:
        """Shards in order: chain by chain, first draw first."""
        pattern = "c*-*.safetensors" if chain is None else f"c{chain}-*.safetensors"
        return sorted((self.path / "draws").glob(pattern), key=_shard_key)

    def write_draw(self, chain: int, index: int, theta: Tensor, step: int) -> None:
        """Add draw `index` of `chain`: θ [P], after `step` steps."""
        atomic_save(
            self.path / "draws" / f"c{chain}-{index:06d}.safetensors",
            {"draws": theta.detach().cpu().unsqueeze(0)},
            {"chain": str(chain), "step": str(step)},
        )

    def drop_draws(self, chain: int, keep: int) -> None:
        """Forget the draws of `chain` from number `keep` on (they will be made again)."""
        for path in self.draw_paths(chain):
            if _shard_key(path)[1] >= keep:
                path.unlink()

    # -- state -----------------------------------------------------------------------------------

    def write_state(self, chain: int, snapshot: Snapshot) -> None:
        """Make `snapshot` the state of `chain`; the one before it is kept."""
        current, previous = self._states(chain)
        metadata = {k: str(getattr(snapshot, k)) for k in ("step", "draws", "seconds")}
        fresh = current.with_name(f".{current.name}.new")
        atomic_save(fresh, snapshot.tensors, metadata)
        if current.exists():
            current.replace(previous)
        fresh.replace(current)

    def read_state(self, chain: int) -> Snapshot | None:
        """The last good state of `chain`, or None where none was saved."""
        for path in self._states(chain):
            try:
                with safe_open(path, framework="pt") as file:
                    meta = file.metadata()
                return Snapshot(
                    load_file(path), int(meta["step"]), int(meta["draws"]), float(meta["seconds"])
                )
            except (OSError, SafetensorError):
                continue
        return None

    def _states(self, chain: int) -> tuple[Path, Path]:
        folder = self.path / "state"
        return folder / f"c{chain}.safetensors", folder / f"c{chain}.previous.safetensors"

    # -- tensors kept beside the draws -----------------------------------------------------------

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        atomic_save(self.path / name, {k: v.detach().cpu() for k, v in tensors.items()}, {})

    def read_tensors(self, name: str) -> dict[str, Tensor] | None:
        path = self.path / name
        return load_file(path) if path.is_file() else None


def _shard_key(path: Path) -> tuple[int, int]:
    chain, index = path.stem.split("-")
    return int(chain[1:]), int(index)


def sampler_folder(base: Path, sampler: str) -> Path:
    return base / "checkpoints" / "samplers" / f"{sampler}_sampler"


def new_run_path(base: Path, sampler: str) -> Path:
    """A folder name that no run has yet: run_<timestamp>."""
    stem = sampler_folder(base, sampler) / f"run_{datetime.now():%Y%m%d-%H%M%S}"
    candidates: Iterator[Path] = (
        stem if i == 1 else stem.with_name(f"{stem.name}-{i}") for i in range(1, 1000)
    )
    return next(path for path in candidates if not path.exists())


def newest_unfinished(base: Path, sampler: str) -> Run | None:
    """The run of `sampler` that `--resume auto` continues."""
    folders = (path.parent for path in sampler_folder(base, sampler).glob("run_*/run.json"))
    unfinished = [run for run in map(Run, folders) if not run.finished]
    return max(unfinished, key=lambda run: _age(run.path.name), default=None)


def _age(name: str) -> tuple[str, int, str]:
    """Sorts names by their timestamp, and within a second -2 before -10."""
    return name[: len("run_YYYYmmdd-HHMMSS")], len(name), name


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """The global generators' states, as tensors."""
    state = {"rng.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["rng.cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_rng(tensors: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(tensors["rng.cpu"])
    if device.type == "cuda" and "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"], device)
