"""How alike pairs of texts are under every draw of a run, or by a sentence model alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bayesgen.errors import UserError, warn
from bayesgen.evaluation.walk import progress_bar
from bayesgen.models.functional import Batch
from bayesgen.models.hf_interface import HuggingFaceTokenizer
from bayesgen.models.sentence import frozen_encoder
from bayesgen.posterior import Posterior, open_posterior
from bayesgen.predictive.embedding import EmbeddingSpread, SimilaritySpread, compare, gives_scores
from bayesgen.runs import Run, atomic_save
from bayesgen.tasks import TASKS, tasks_that
from bayesgen.workflow.inputs import some_draws

BATCH_SIZE = 64
DEFAULT_LENGTH = 512
"""Tokens of the longest text where the model has no limit of its own."""


@dataclass(frozen=True)
class Compared:
    """Texts, each once, the pairs of them, and what the draws say of both.

    Attributes:
        places: of the two texts of each pair.
        noiseless: why a score has no predicted interval, or None.
    """

    task: str
    num_draws: int
    texts: list[str]
    places: list[tuple[int, int]]
    spread: EmbeddingSpread
    similarity: SimilaritySpread
    noiseless: str | None

    @property
    def unit(self) -> str:
        return "score" if self.noiseless is None else "cosine"

    def document(self, source: str, level: float) -> dict[str, Any]:
        """All numbers as plain data; `texts` of a pair are places in the list of texts.

        Args:
            source: what the run or model is called.
            level: probability of the central intervals.
        """
        spread, similarity = self.spread, self.similarity
        relative, largest = spread.relative_sd.tolist(), spread.largest.tolist()
        predicted = None if self.noiseless else similarity.predicted(level)
        pairs = {
            "deterministic": similarity.deterministic.tolist(),
            "mean": similarity.mean.tolist(),
            "sd": similarity.sd.tolist(),
            "interval": _rows(similarity.interval(level), len(self.places)),
            "predicted": _rows(predicted, len(self.places)),
        }
        return {
            "source": source,
            "task": self.task,
            "num_draws": self.num_draws,
            "level": level,
            "unit": self.unit,
            "noise_std": None if self.noiseless else similarity.noise_std,
            "no_predicted": self.noiseless,
            "pairs": [
                {"texts": list(places), **{name: column[i] for name, column in pairs.items()}}
                for i, places in enumerate(self.places)
            ],
            "texts": [
                {
                    "text": text,
                    "relative_sd": relative[i],
                    "largest_sd": {"dimension": k, "sd": float(spread.sd[i, k])},
                }
                for i, (text, k) in enumerate(zip(self.texts, largest, strict=True))
            ],
        }

    def write(self, path: Path, source: str) -> None:
        """Mean and sd of every embedding, [n, H] each, with the texts as metadata."""
        tensors = {"mean": self.spread.mean, "sd": self.spread.sd}
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        atomic_save(path, tensors, {"texts": json.dumps(self.texts), "source": source})


def _rows(ends: tuple[Tensor, Tensor] | None, count: int) -> list[Any]:
    """An interval as [low, high] for each of `count` pairs; None where there is none."""
    return [None] * count if ends is None else torch.stack(ends, dim=1).tolist()


def open_encoder(name: str, model: str | None = None, device: str = "auto") -> Posterior:
    """The run or model `name`, if it makes embeddings.

    Args:
        model: the run's model, if it has moved.

    Raises:
        UserError: it makes none, or is not there.
    """
    if (Path(name) / "run.json").is_file():
        task = Run.open(name).record().settings["task"]
        if not TASKS[task].can("similarity"):
            raise UserError(
                f"'{name}' is a run of {task}; embeddings are made by"
                f" {' and '.join(tasks_that('similarity'))}"
            )
    return open_posterior(name, model=model, device=device, task=_own_task(Path(name)))


def _own_task(folder: Path) -> str:
    """What a sentence model in `folder` was made for; any other encoder compares texts."""
    comparing = next(name for name in tasks_that("similarity") if TASKS[name].compares)
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return comparing
    task = config.get("task") if isinstance(config, dict) else None
    return task if task in tasks_that("similarity") else comparing


def compare_texts(
    posterior: Posterior, pairs: Sequence[tuple[str, str]], num_draws: int | None = None
) -> Compared:
    """Embed the texts of `pairs` under every draw, and compare the two of each.

    Args:
        num_draws: evenly spaced; all by default.

    Raises:
        UserError: there are fewer draws, or the texts cannot be encoded.
    """
    posterior = some_draws(posterior, num_draws)
    model = posterior.model
    moved = frozen_encoder(model.module, model.layout) is None
    if len(posterior) > 1 and posterior.run is not None and not moved:
        warn(f"no draw of '{posterior.run.path}' moves the encoder: every embedding is the same")
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    place = {text: i for i, text in enumerate(texts)}
    places = [(place[first], place[second]) for first, second in pairs]
    batches = _batches(posterior, texts)
    with progress_bar("embedding", (len(posterior) + 1) * len(texts), "text") as advance:
        spread, similarity = compare(model, posterior, batches, torch.tensor(places), advance)
    noiseless = None
    if not gives_scores(model):
        noiseless = f"a {model.info.task} model gives no scores"
    elif posterior.run is None and model.info.config.get("noise_std") is None:
        noiseless = "the model was not trained on scores"
    return Compared(model.info.task, len(posterior), texts, places, spread, similarity, noiseless)


def _batches(posterior: Posterior, texts: list[str]) -> list[Batch]:
    """`texts` in the model's tokens, cut as where it was trained.

    Raises:
        UserError: the model has no tokenizer, or it cannot encode a text.
    """
    model = posterior.model
    if not isinstance(model.tokenizer, HuggingFaceTokenizer):
        raise UserError(f"`model`: '{model.info.name}' has no tokenizer; save it into the folder")
    tokenizer = model.tokenizer.tokenizer
    limits = [model.block_size, model.tokenizer.max_length]
    longest = min((n for n in limits if n is not None), default=DEFAULT_LENGTH)
    if posterior.info is not None:
        longest = posterior.info.block_size
    shape: Any = {"padding": True, "truncation": True, "max_length": longest}
    batches: list[Batch] = []
    cut = 0
    for start in range(0, len(texts), BATCH_SIZE):
        part = texts[start : start + BATCH_SIZE]
        try:
            whole = tokenizer(part, verbose=False)["input_ids"]
            batches.append(dict(tokenizer(part, return_tensors="pt", **shape)))
        except Exception as error:  # tokenizers raises nothing more particular
            why = " ".join(str(error).split())
            raise UserError(
                f"the tokenizer of '{model.info.name}' cannot encode the texts ({why})"
            ) from error
        cut += sum(len(ids) > longest for ids in whole)
    if cut:
        warn(f"{cut} of {len(texts)} texts were cut to {longest} tokens")
    return batches
