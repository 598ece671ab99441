"""Text from a posterior, and how sure it is of every token.

At each token the draws' probabilities are averaged; temperature, top-k and top-p act on the
mixture. With `per-draw` each text follows one draw instead: it is then a sample of the posterior
over texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bayesgen.config.jobs import DecodingSettings
from bayesgen.data.tokenizers import Tokenizer
from bayesgen.draws import Draws
from bayesgen.models import FunctionalModel
from bayesgen.predictive.mixture import Uncertainty, entropy, log_mean
from bayesgen.predictive.reading import Reading, Strategy

UNFINISHED = "�"
COLDEST = 1e-9  # temperature below which any difference of log-probabilities leaves one token


@dataclass(frozen=True)
class Token:
    """One generated token; entropies of the mixture before temperature, top-k and top-p, in nats
    (see `Uncertainty`)."""

    id: int
    text: str  # what it adds to the text; empty while a character's bytes are not complete
    log_prob: float  # log p(token | text) under the mixture, at temperature 1
    total: float
    aleatoric: float
    epistemic: float


@dataclass
class GeneratedText:
    """A prompt and what was generated after it."""

    prompt: str
    draw: int | None = None  # the draw that the text follows; None if it follows the mixture
    tokens: list[Token] = field(default_factory=list)
    # log p(generated tokens | prompt, θ_s) of every draw, [S], nats
    draw_log_probs: Tensor = field(default_factory=lambda: torch.zeros(0))

    @property
    def continuation(self) -> str:
        return "".join(token.text for token in self.tokens)

    def __str__(self) -> str:
        return self.prompt + self.continuation

    @property
    def epistemic_per_token(self) -> float:
        """How much the draws disagree on the text as a whole, in nats per token; at least 0.

        [log mean_s p(y | θ_s) − mean_s log p(y | θ_s)] / L: the reverse mutual information at this
        text (Malinin and Gales 2021, https://arxiv.org/abs/2002.07650, section 3).
        """
        each = self.draw_log_probs.double()
        gap = log_mean(each) - each.mean()
        return float(gap.clamp(min=0)) / max(len(self.tokens), 1)

    def mean(self, name: str) -> float:
        """Mean over the tokens of one of their numbers, such as `epistemic`."""
        return float(sum(getattr(token, name) for token in self.tokens) / max(len(self.tokens), 1))

    def to_json(self) -> dict[str, Any]:
        numbers = ("log_prob", "total", "aleatoric", "epistemic")
        return {
            "prompt": self.prompt,
            "continuation": self.continuation,
            "draw": self.draw,
            "mean": {name: self.mean(name) for name in numbers},
            "epistemic_per_token": self.epistemic_per_token,
            "tokens": [vars(token) for token in self.tokens],
        }


def generate(
    model: FunctionalModel,
    posterior: Draws,
    prompts: Sequence[str | Sequence[int]],
    settings: DecodingSettings,
    strategy: Strategy = "auto",
) -> Iterator[list[GeneratedText]]:
    """Texts that continue `prompts` (or their token ids), all grown by one token at a time.

    Text i depends on its prompt, its place i and the seed, not on the texts beside it. The same
    list comes after every token: the last token of each text is new. ValueError where the model is
    no causal language model or has no tokenizer, or a prompt is empty.
    """
    if not model.task.can("generate"):
        raise ValueError(f"a {model.info.task} model cannot generate text")
    tokenizer, count = model.tokenizer, len(posterior)
    if tokenizer is None:
        raise ValueError("this model has no tokenizer: it cannot read a prompt")
    given = [tokenizer.encode(p) if isinstance(p, str) else p for p in prompts]
    encoded = [[int(token) for token in ids] for ids in given]
    if not prompts or not all(encoded):
        raise ValueError("the prompt is empty")
    follows: list[int | None] = [None] * len(prompts)
    if settings.decode != "mixture":  # all draws before any again, in an order of the seed
        order = np.random.default_rng(settings.seed).permutation(count)
        follows = [int(order[i % count]) for i in range(len(prompts))]
    texts = []
    for prompt, ids, draw in zip(prompts, encoded, follows, strict=True):
        written = prompt if isinstance(prompt, str) else tokenizer.decode(ids)
        texts.append(GeneratedText(written, draw, [], torch.zeros(count, dtype=torch.float64)))
    reading = Reading(model, posterior, encoded, settings.max_new_tokens, strategy)
    seeds = [np.random.SeedSequence(settings.seed, spawn_key=(i,)) for i in range(len(prompts))]
    streams = [torch.Generator().manual_seed(int(s.generate_state(1)[0])) for s in seeds]
    pieces = [_Pieces(tokenizer, ids) for ids in encoded]
    rows = torch.arange(len(prompts))
    for step in range(settings.max_new_tokens):
        each = reading.log_probs().cpu()
        mixed = log_mean(each)
        unsure = Uncertainty.of(mixed, entropy(each.exp()))
        chosen = mixed if settings.decode == "mixture" else each[follows, rows]
        # ids beyond the tokenizer's pad the vocabulary
        known = chosen[:, : tokenizer.vocab_size]
        probs = restricted(known, settings.temperature, settings.top_k, settings.top_p)
        drawn = [torch.multinomial(p, 1, generator=g) for p, g in zip(probs, streams, strict=True)]
        tokens = torch.cat(drawn)
        reading.append(tokens)
        last = step == settings.max_new_tokens - 1
        for i, (text, token) in enumerate(zip(texts, tokens.tolist(), strict=True)):
            numbers = (mixed[i, token], unsure.total[i], unsure.aleatoric[i], unsure.epistemic[i])
            text.draw_log_probs += each[:, i, token].double()
            text.tokens.append(Token(token, pieces[i].add(token, last), *map(float, numbers)))
        yield texts


def restricted(
    log_probs: Tensor, temperature: float, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """Probabilities [..., V] that tokens are drawn with, from `log_probs` [..., V].

    `temperature` divides the log-probabilities; then the `top_k` most probable tokens are kept;
    then of these the smallest set that holds a probability of `top_p` (nucleus sampling, Holtzman
    et al. 2020, https://arxiv.org/abs/1904.09751). Temperature 0, or one so small that nothing else
    is left, is the most probable token.
    """
    if temperature < COLDEST:
        return torch.nn.functional.one_hot(log_probs.argmax(-1), log_probs.shape[-1]).float()
    scaled = (log_probs - log_probs.amax(-1, keepdim=True)) / temperature
    if top_k is not None and top_k < scaled.shape[-1]:
        smallest = scaled.topk(top_k).values[..., -1:]
        scaled = scaled.masked_fill(scaled < smallest, -torch.inf)
    if top_p is not None and top_p < 1:
        probs, order = scaled.softmax(-1).sort(descending=True, stable=True)
        before = probs.double().cumsum(-1) - probs
        dropped = torch.zeros_like(probs, dtype=torch.bool).scatter(-1, order, before >= top_p)
        scaled = scaled.masked_fill(dropped, -torch.inf)
    return scaled.softmax(-1)


class _Pieces:
    """What each token adds to a text: a token may hold a part of a character's bytes."""

    def __init__(self, tokenizer: Tokenizer, prompt: list[int]) -> None:
        self._tokenizer = tokenizer
        # one token of context is enough for tokenizers that join words by it
        self._ids = prompt[-1:]

    def add(self, token: int, last: bool) -> str:
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        # no character has more than four bytes: after that many tokens it is none
        if text.endswith(UNFINISHED) and len(self._ids) <= 4 and not last:
            return ""
        shown = len(self._tokenizer.decode(self._ids[:1]))
        self._ids = [token]
        return text[shown:]
