"""What the predictors said of a split, kept beside the draws: a second look needs no network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from bayesgen.data.windows import Rows
from bayesgen.errors import UserError
from bayesgen.evaluation.classes import Each, Scored, Tally, TokenScores
from bayesgen.evaluation.metrics import Passes
from bayesgen.evaluation.walk import Split
from bayesgen.models import FunctionalModel
from bayesgen.predictive import Predictive
from bayesgen.runs.files import atomic_save, atomic_write

VERSION = 4


class TokenCache:
    """The passes of one run, in a folder of their own.

    Of classes and tokens `<key>.safetensors` holds the numbers of every observation and predictor,
    `<key>.npy` the log-likelihood of every observation under every draw, [draws, n] float32, in the
    order of the run. Of other labels `<key>.outputs.safetensors` holds what `numbers.read_numbers`
    found. A file is complete or not there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._unfinished = folder / ".unfinished.npy"

    @staticmethod
    def key(split: Split, held_in: Rows, predictive: Predictive) -> str:
        """Name of the passes of these draws, and of the network, over this text."""
        model, precision = predictive.model, predictive.forward.precision
        draws = predictive.posterior.fingerprints()
        digest = hashlib.sha256(json.dumps([VERSION, draws, precision]).encode())
        digest.update((model.info.sha256 or _own(model)).encode())
        digest.update(model.theta.cpu().numpy().tobytes())
        for rows in (split.windows.take(split.indices.numpy()), held_in):
            digest.update(rows.fingerprint().encode())
        return digest.hexdigest()[:16]

    def passes(self, key: str, draws: int, back: Tensor, make: Callable[[Each], Passes]) -> Passes:
        """The passes over classes or tokens that `make` gives, made once, and given what takes each
        draw's scores; `back` as in `log_likelihoods`."""
        found = self.read(key)
        if found is None:
            try:
                with self.log_likelihoods(draws, back) as keep:
                    found = make(lambda draw, at, scores: keep(draw, at, scores.log_likelihood))
                self._write(key, found)
            finally:
                self.drop_unfinished()
        return found

    @contextmanager
    def log_likelihoods(
        self, draws: int, back: Tensor
    ) -> Iterator[Callable[[int, int, Tensor], None]]:
        """A file for an array [draws, tokens], which `_write` puts in its place: what is given is
        an `Each` of log-likelihoods. At the end the tokens, which stand at `back` [tokens] among
        those that come, are put into the order of the text.
        """
        tokens = len(back)
        layout = {"descr": "<f4", "fortran_order": False, "shape": (draws, tokens)}
        # plain writes: the pages of a memory map would count as memory
        with self._unfinished.open("w+b") as file:
            np.lib.format.write_array_header_1_0(file, layout)
            begin = file.tell()
            file.truncate(begin + 4 * draws * tokens)

            def keep(draw: int, first: int, values: Tensor) -> None:
                file.seek(begin + 4 * (draw * tokens + first))
                file.write(values.numpy().astype("<f4").tobytes())

            yield keep
            if not torch.equal(back, torch.arange(tokens)):
                for draw in range(draws):
                    file.seek(begin + 4 * draw * tokens)
                    row = np.frombuffer(file.read(4 * tokens), "<f4")
                    keep(draw, 0, torch.from_numpy(row[back.numpy()]))

    def _write(self, key: str, passes: Passes) -> None:
        self._unfinished.replace(self.folder / f"{key}.npy")
        values = vars(passes) | {"draws.window_nll": passes.draws_window_nll}
        del values["said"], values["draws_window_nll"]
        for name, scored in passes.said.items():
            values[f"{name}.window_nll"] = scored.window_nll
            for part in ("tally", "tokens"):
                values |= {f"{name}.{part}.{k}": v for k, v in vars(getattr(scored, part)).items()}
        tensors = {k: v.contiguous() for k, v in values.items() if isinstance(v, Tensor)}
        scalars = {k: v for k, v in values.items() if k not in tensors}
        alone = [name for name in passes.said if name != "bma"]
        metadata = {"scalars": json.dumps(scalars), "singles": json.dumps(alone)}
        atomic_save(self.folder / f"{key}.safetensors", tensors, metadata)

    def read(self, key: str) -> Passes | None:
        """The passes that were written, or None where there are none that can be read."""
        path = self.folder / f"{key}.safetensors"
        if not path.with_suffix(".npy").exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            values = json.loads(metadata["scalars"]) | tensors
            return Passes(
                values["temperature"],
                {name: _scored(name, values) for name in (*json.loads(metadata["singles"]), "bma")},
                values["aleatoric"],
                values["draws"],
                values["draws.window_nll"],
                {int(k): own for k, own in values["by_draws"].items()},
            )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder, or raise UserError: one process at a time scores a run. What one that
        was killed left unfinished goes."""
        try:
            with FileLock(self.folder / ".lock").acquire(timeout=0):
                self.drop_unfinished()
                yield
        except Timeout as error:
            raise UserError(
                f"'{self.folder.parent}' is being scored by another process; wait for it"
            ) from error

    def plain(self, name: str, make: Callable[[], Any]) -> Any:
        """The plain data that `make` gives, made once and kept as <name>.json."""
        path = self.folder / f"{name}.json"
        with suppress(OSError, ValueError):
            return json.loads(path.read_text())
        content = json.dumps(make())
        atomic_write(path, content.encode())
        return json.loads(content)  # the same types as when it is read

    def tensors(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors that `make` gives, made once and kept as <name>.safetensors."""
        path = self.folder / f"{name}.safetensors"
        with suppress(OSError, SafetensorError):
            return load_file(path)
        content = make()
        atomic_save(path, content, {})
        return content

    def drop_unfinished(self) -> None:
        for path in (*self.folder.glob(".*.tmp"), *self.folder.glob("*.npy")):
            # log-likelihoods come before the file that makes them count
            if path.suffix == ".tmp" or not path.with_suffix(".safetensors").exists():
                path.unlink(missing_ok=True)


def _scored(name: str, values: dict[str, Any]) -> Scored:
    def made(cls: Any, part: str) -> Any:
        return cls(**{f.name: values[f"{name}.{part}.{f.name}"] for f in fields(cls)})

    return Scored(made(Tally, "tally"), made(TokenScores, "tokens"), values[f"{name}.window_nll"])


def _own(model: FunctionalModel) -> str:
    """What a network that no file holds says, beside its Bayesian parameters."""
    likelihood = model.likelihood
    return f"{model.sha256} {type(likelihood).__qualname__} {getattr(likelihood, '__dict__', '')}"
