"""Generated continuations of a split's own text, beside what really follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bayesgen.data.windows import Windows
from bayesgen.draws import Draws
from bayesgen.evaluation.overlap import diversity, overlap
from bayesgen.evaluation.walk import progress_bar
from bayesgen.likelihoods import IGNORED
from bayesgen.predictive import Predictive

TEXTS_AT_ONCE = 32
MAX_ELEMENTS = 2**26
"""Logits of one draw's first reading that are held at once (256 MiB of float32)."""


@dataclass(frozen=True)
class TextSamples:
    """Prompts from a split, what follows them there, and what each predictor makes of them.

    Attributes:
        continuations: `deterministic` and `bma` -> one text for each prompt.
        settings: how they were decoded; each `texts_at_once` texts have the seed of the first of
            them, `seed` plus its number.
    """

    prompts: list[str]
    references: list[str]
    continuations: dict[str, list[str]]
    settings: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return vars(self)

    def scores(self) -> dict[str, Any]:
        """BLEU, ROUGE and diversity, for a split's report."""
        texts = self.continuations
        each = {name: overlap(own, self.references) for name, own in texts.items()}
        each["bma_minus_deterministic"] = overlap(
            texts["bma"], self.references, texts["deterministic"]
        )
        varied = texts | {"reference": self.references}
        return {
            "num_texts": len(self.prompts),
            "decoding": self.settings,
            "bleu": {name: found["bleu"] for name, found in each.items()},
            "rouge": {name: found["rouge"] for name, found in each.items()},
            "diversity": {name: diversity(own) for name, own in varied.items()},
        }


def sample_texts(
    predictive: Predictive,
    windows: Windows,
    count: int,
    *,
    seed: int = 0,
    progress: str | None = None,
) -> TextSamples:
    """Continue the first halves of `count` windows, drawn by `seed`; the second are the references.

    Both predictors decode with the same settings and the same random streams.

    Raises:
        ValueError: the model has no tokenizer, or there are not so many whole windows.
    """
    tokenizer = predictive.model.tokenizer
    if tokenizer is None:
        raise ValueError("this model has no tokenizer: its texts cannot be compared")
    half = max(1, windows.block_size // 2)
    chosen = _whole(windows, count, seed)
    prompts = [ids[:half] for ids in chosen]
    references = [tokenizer.decode(ids[half:]) for ids in chosen]
    at_once = max(1, min(TEXTS_AT_ONCE, MAX_ELEMENTS // (half * tokenizer.vocab_size)))
    model = predictive.model
    alone = Predictive(model, Draws.from_draws(model.theta[None], model.layout))
    decoding: dict[str, Any] = {
        "max_new_tokens": windows.block_size + 1 - half,
        "temperature": 1.0,
        "seed": seed,
    }
    continuations: dict[str, list[str]] = {}
    with progress_bar(progress, 2 * count, "text") as advance:
        for name, who in {"deterministic": alone, "bma": predictive}.items():
            continuations[name] = []
            for start in range(0, count, at_once):
                part = prompts[start : start + at_once]
                # places in a batch have streams of their own, batches seeds of their own
                texts = who.generate_all(part, **(decoding | {"seed": seed + start}))
                continuations[name] += [text.continuation for text in texts]
                advance(len(part))
    return TextSamples(
        [tokenizer.decode(ids) for ids in prompts],
        references,
        continuations,
        decoding | {"texts_at_once": at_once},
    )


def _whole(windows: Windows, count: int, seed: int) -> Sequence[list[int]]:
    """Token ids of `count` windows without padding, each with its last target: block + 1 ids."""
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))
    chosen: list[list[int]] = []
    for index in order:
        batch = windows.batch(index[None])
        labels = batch["labels"][0]
        if bool((labels != IGNORED).all()):
            chosen.append([*batch["input_ids"][0].tolist(), int(labels[-1])])
        if len(chosen) == count:
            return chosen
    raise ValueError(f"the split has only {len(chosen)} whole windows, not {count}")
