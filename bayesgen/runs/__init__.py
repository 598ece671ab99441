"""A run on disk: one folder.

run.json                 settings, data fingerprint, versions, model, layout of θ
draws/c0-000012.safetensors   tensor "draws" [k, P]: the 13th draw of chain 0
state/c0.safetensors     what resume needs of chain 0; c0.previous.safetensors the one before
metrics.jsonl            one line per logged step

The numbers of a run go to metrics.jsonl while it runs, and to Weights & Biases if asked.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from bayesgen.errors import UserError
from bayesgen.runs.files import RunRecord, atomic_save, atomic_write, finite, parse_record


@dataclass(frozen=True)
class Snapshot:
    """What resume needs of one chain, after `step` steps."""

    tensors: dict[str, Tensor]
    step: int
    draws: int
    seconds: float


@dataclass(frozen=True)
class Run:
    """The folder of one run. What is missing, damaged or cannot be written is a UserError."""

    path: Path

    @classmethod
    def create(cls, path: Path) -> Run:
        """Make the folder, which must not hold a run already."""
        try:
            cls.require_free(path)
            for folder in ("draws", "state"):
                (path / folder).mkdir(parents=True, exist_ok=True)
            probe = path / ".probe"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(
                f"`out`: cannot write to '{path}' ({error.strerror}); name a writable folder"
            ) from error
        return cls(path)

    @staticmethod
    def require_free(path: Path) -> None:
        if (path / "run.json").exists():
            raise UserError(
                f"`out`: '{path}' already holds a run; continue it with `resume='{path}'` or"
                " name another folder"
            )

    @classmethod
    def open(cls, path: str | Path, setting: str = "`resume`") -> Run:
        run = cls(Path(path))
        if not (run.path / "run.json").is_file():
            raise UserError(f"{setting}: no run at '{path}' (run.json missing)")
        return run

    def record(self) -> RunRecord:
        return RunRecord.read(self.read_json("run.json"), self.path / "run.json")

    def write_json(self, name: str, content: Mapping[str, Any]) -> Path:
        """Put `content` into the file `name` of the folder; NaN and infinities as null."""
        text = json.dumps(finite(content), indent=2, allow_nan=False)
        atomic_write(self.path / name, f"{text}\n".encode())
        return self.path / name

    def read_json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        try:
            return parse_record(path.read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"'{path}' is missing or damaged ({error}); copy it back") from error

    def evaluation(self) -> dict[str, Any] | None:
        """The newest evaluation of the run, if it has one."""
        found = sorted(self.path.glob("bayesian_eval_*[0-9].json"))
        return self.read_json(found[-1].name) if found else None

    @property
    def finished(self) -> bool:
        """Whether the run's totals have been written."""
        return any(self.path.glob("*_metrics.json"))

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def draw_paths(self, chain: int | None = None) -> list[Path]:
        """Shards in order: chain by chain, first draw first."""
        paths = sorted((self.path / "draws").glob("c*.safetensors"), key=_shard_key)
        return [path for path in paths if chain is None or _shard_key(path)[0] == chain]

    def write_draw(self, chain: int, index: int, theta: Tensor, step: int) -> None:
        """Add draw `index` of `chain`: θ [P], after `step` steps."""
        atomic_save(
            self.path / "draws" / _shard_name(chain, index),
            {"draws": theta.detach().cpu().unsqueeze(0)},
            {"chain": str(chain), "step": str(step)},
        )

    def drop_draws(self, chain: int, keep: int) -> None:
        """Forget the draws of `chain` from number `keep` on (they will be made again)."""
        for path in self.draw_paths(chain):
            if _shard_key(path)[1] >= keep:
                path.unlink()

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
        return next(filter(None, map(_read_snapshot, self._states(chain))), None)

    def resume_state(self, chain: int) -> Snapshot | None:
        """The state that `chain` continues from, which accounts for its draws."""
        snapshot = self.read_state(chain)
        draws = len(self.draw_paths(chain))
        if draws and snapshot is None:
            raise UserError(
                f"'{self.path}' has {draws} draws of chain {chain} but no readable state: it"
                " cannot be continued; copy state/ back, or start a new run"
            )
        if snapshot is not None and draws < snapshot.draws:
            raise UserError(
                f"'{self.path}' has {draws} draws of chain {chain}, its state says"
                f" {snapshot.draws}: some files are missing; copy them back, or start a new run"
            )
        return snapshot

    def _states(self, chain: int) -> tuple[Path, Path]:
        folder = self.path / "state"
        return folder / f"c{chain}.safetensors", folder / f"c{chain}.previous.safetensors"

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        atomic_save(self.path / name, {k: v.detach().cpu() for k, v in tensors.items()}, {})

    def read_tensors(self, name: str) -> dict[str, Tensor] | None:
        path = self.path / name
        try:
            return load_file(path) if path.is_file() else None
        except SafetensorError as error:
            raise UserError(f"'{path}' is damaged ({error}); copy it back") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run: one process at a time may write to it."""
        lock = FileLock(self.path / ".lock")
        try:
            with lock.acquire(timeout=0):
                yield
        except Timeout as error:
            raise UserError(
                f"'{self.path}' is being written by another process; wait for it or stop it"
            ) from error

    @property
    def busy(self) -> bool:
        """Whether another process is writing to this run."""
        try:
            with self.locked():
                return False
        except UserError:
            return True


def require_empty(folder: Path) -> None:
    """Refuse a folder for a result that is neither new nor empty."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(
            f"`out`: '{folder}' already exists; name a folder that is empty or new, or delete it"
        )


def _read_snapshot(path: Path) -> Snapshot | None:
    """The snapshot in `path`, or None where there is none or it is damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata()
        tensors = load_file(path)
        return Snapshot(tensors, int(meta["step"]), int(meta["draws"]), float(meta["seconds"]))
    except (SafetensorError, KeyError, TypeError, ValueError):
        return None


def _shard_name(chain: int, index: int) -> str:
    return f"c{chain}-{index:06d}.safetensors"


def _shard_key(path: Path) -> tuple[int, int]:
    """Chain and number of a shard. A name that `write_draw` does not give is refused: to leave it
    out could lose a draw that was renamed, and to read it could count one twice that was copied."""
    found = re.fullmatch(r"c([0-9]+)-([0-9]+)\.safetensors", path.name)
    key = (int(found[1]), int(found[2])) if found else (0, 0)
    if path.name != _shard_name(*key):
        raise UserError(
            f"'{path}' is not named as a draw is ({_shard_name(*key)}): give it its name back, or"
            " move it out of the folder"
        )
    return key


def sampler_folder(base: Path, sampler: str) -> Path:
    return base / "checkpoints" / "samplers" / f"{sampler}_sampler"


def new_run_path(base: Path, sampler: str) -> Path:
    """Make a folder that no run has yet, run_<timestamp>, also where several start at once."""
    stem = path = sampler_folder(base, sampler) / f"run_{datetime.now():%Y%m%d-%H%M%S}"
    number = 1
    while True:
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            number += 1
            path = stem.with_name(f"{stem.name}-{number}")
        except OSError as error:
            raise UserError(
                f"`base_dir`: cannot write to '{path}' ({error.strerror}); name a writable folder"
            ) from error


def newest_unfinished(base: Path, sampler: str) -> Run | None:
    """The newest run of `sampler` that is neither finished nor being written, or None."""
    folders = (path.parent for path in sampler_folder(base, sampler).glob("run_*/run.json"))
    unfinished = [run for run in map(Run, folders) if not run.finished and not run.busy]

    def age(run: Run) -> tuple[str, int, str]:  # by timestamp, and within a second -2 before -10
        name = run.path.name
        return name[: len("run_YYYYmmdd-HHMMSS")], len(name), name

    return max(unfinished, key=age, default=None)


class Tracker:
    """Appends one line per logged step; a context manager."""

    def __init__(self, run: Run, wandb_config: Mapping[str, Any] | None = None) -> None:
        self._path = run.metrics
        self._file = self._path.open("a", encoding="utf-8")
        self._wandb = None if wandb_config is None else _start_wandb(run, wandb_config)

    def log(self, row: Mapping[str, float]) -> None:
        self._file.write(json.dumps(finite(row), allow_nan=False) + "\n")
        self._file.flush()
        if self._wandb is not None:
            self._wandb.log(dict(row))

    def rewind(self, chain: int, step: int) -> float:
        """Forget the lines of `chain` after `step`: those steps will be taken again. Returns the
        NLL of its last line that is kept, NaN where there is none."""
        self._file.close()
        kept, nll = [], math.nan
        for line in self._path.read_text("utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # a line cut by a kill
            if row["chain"] != chain or row["step"] <= step:
                kept.append(line + "\n")
                nll = row.get("nll", nll) if row["chain"] == chain else nll
        atomic_write(self._path, "".join(kept).encode())
        self._file = self._path.open("a", encoding="utf-8")
        return nll

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if kind is None else 1)


def _start_wandb(run: Run, config: Mapping[str, Any]) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            "`wandb`: wandb is not installed; pip install 'bayesgen[wandb]', or pass `wandb=False`"
        ) from error
    name, folder = run.path.name, str(run.path)
    try:
        return wandb.init(
            project="bayesgen", name=name, id=name, dir=folder, config=dict(config), resume="allow"
        )
    except wandb.errors.Error as error:
        first = str(error).splitlines()[0]
        raise UserError(
            f"`wandb`: {first}; run 'wandb login', set WANDB_MODE=offline, or pass `wandb=False`"
        ) from error
