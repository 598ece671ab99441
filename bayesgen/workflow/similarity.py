"""How alike pairs of texts are under every draw of a run, or by a sentence model alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bayesgen.errors import UserError, warn
from bayesgen.evaluation.walk import progress_bar
from bayesgen.models.functional import Batch
from bayesgen.models.sentence import frozen_encoder
from bayesgen.posterior import Posterior, open_posterior
from bayesgen.predictive.embedding import EmbeddingSpread, SimilaritySpread, compare
from bayesgen.runs import Run
from bayesgen.runs.files import atomic_save
from bayesgen.tasks import TASKS, tasks_that
from bayesgen.workflow.inputs import DEFAULT_EXAMPLE, some_draws, window_length

BATCH_SIZE = 64


@dataclass(frozen=True)
class Compared:
    """Texts, each once, the pairs of them, and what the draws say of both."""

    task: str
    num_draws: int
    texts: list[str]
    places: list[tuple[int, int]]  # of the two texts of each pair
    spread: EmbeddingSpread
    similarity: SimilaritySpread
    noiseless: str | None  # why a score has no predicted interval

    @property
    def unit(self) -> str:
        return "score" if self.noiseless is None else "cosine"

    def document(self, source: str, level: float) -> dict[str, Any]:
        """All numbers as plain data, with central intervals of probability `level`; `texts` of a
        pair are places in the list of texts."""
        spread, similarity = self.spread, self.similarity
        predicted = None if self.noiseless else similarity.predicted(level)
        none = [None] * len(self.places)
        columns: dict[str, list[Any]] = {
            "texts": [list(places) for places in self.places],
            "deterministic": similarity.deterministic.tolist(),
            "mean": similarity.mean.tolist(),
            "sd": similarity.sd.tolist(),
            "interval": torch.stack(similarity.interval(level), dim=1).tolist(),
            "predicted": none if predicted is None else torch.stack(predicted, dim=1).tolist(),
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
                dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
            ],
            "texts": [
                {
                    "text": text,
                    "relative_sd": float(relative),
                    "largest_sd": {"dimension": int(k), "sd": float(sd[k])},
                }
                for text, relative, k, sd in zip(
                    self.texts, spread.relative_sd, spread.largest, spread.sd, strict=True
                )
            ],
        }

    def write(self, path: Path, source: str) -> None:
        """Mean and sd of every embedding, [n, H] each, with the texts as metadata."""
        tensors = {"mean": self.spread.mean, "sd": self.spread.sd}
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        atomic_save(path, tensors, {"texts": json.dumps(self.texts), "source": source})


def open_encoder(name: str, model: str | None = None, device: str = "auto") -> Posterior:
    """The run or model `name`, if it makes embeddings; `model` is the run's, if it has moved."""
    embedding, folder = tasks_that("similarity"), Path(name)
    if (folder / "run.json").is_file():
        task = Run.open(name).record().settings["task"]
        if task not in embedding:
            raise UserError(
                f"'{name}' is a run of {task}; embeddings are made by {' and '.join(embedding)}"
            )
    try:  # what a sentence model was made for; any other encoder compares texts
        own = json.loads((folder / "config.json").read_text())["task"]
    except (OSError, ValueError, TypeError, KeyError):
        own = None
    if own not in embedding:
        own = next(task for task in embedding if TASKS[task].compares)
    return open_posterior(name, model=model, device=device, task=own)


def compare_texts(
    posterior: Posterior, pairs: Sequence[tuple[str, str]], num_draws: int | None = None
) -> Compared:
    """Embed the texts of `pairs` under `num_draws` evenly spaced draws (default: all), and compare
    the two of each."""
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
    if model.labels != "number":
        noiseless = f"a {model.info.task} model gives no scores"
    elif posterior.run is None and model.info.config.get("noise_std") is None:
        noiseless = "the model was not trained on scores"
    return Compared(model.info.task, len(posterior), texts, places, spread, similarity, noiseless)


def _batches(posterior: Posterior, texts: list[str]) -> list[Batch]:
    """`texts` in the model's tokens, cut as where it was trained."""
    model = posterior.model
    chosen = None if posterior.info is None else posterior.info.block_size
    longest = window_length(model, chosen, usual=DEFAULT_EXAMPLE)
    wrapped: Any = model.tokenizer
    tokenizer = wrapped.tokenizer
    shape: Any = {"padding": True, "truncation": True, "max_length": longest}
    try:
        cut = sum(len(ids) > longest for ids in tokenizer(texts, verbose=False)["input_ids"])
        batches: list[Batch] = [
            dict(tokenizer(texts[start : start + BATCH_SIZE], return_tensors="pt", **shape))
            for start in range(0, len(texts), BATCH_SIZE)
        ]
    except Exception as error:  # tokenizers raises nothing more particular
        why = " ".join(str(error).split())
        raise UserError(
            f"the tokenizer of '{model.info.name}' cannot encode the texts ({why})"
        ) from error
    if cut:
        warn(f"{cut} of {len(texts)} texts were cut to {longest} tokens")
    return batches
