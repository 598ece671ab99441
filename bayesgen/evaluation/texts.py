"""Generated continuations of a split's own text, beside what really follows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from sacrebleu import BLEU, extract_word_ngrams

from bayesgen.data.windows import Windows
from bayesgen.draws import Draws
from bayesgen.evaluation.metrics import Undefined, percentile_intervals
from bayesgen.evaluation.walk import progress_bar
from bayesgen.likelihoods import IGNORED
from bayesgen.predictive import Predictive

TEXTS_AT_ONCE = 32
MAX_ELEMENTS = 2**26  # logits of one draw's first reading that are held (256 MiB of float32)


def sample_texts(
    predictive: Predictive,
    windows: Windows,
    count: int,
    *,
    seed: int = 0,
    progress: str | None = None,
) -> dict[str, Any]:
    """Continue the first halves of `count` windows, drawn by `seed`; plain data.

    `prompts` are these halves and `references` the second ones; `continuations` are what
    `deterministic` and `bma` make of each prompt, with the same random streams. `settings` say how:
    each `texts_at_once` texts have the seed of the first of them, `seed` plus its number.
    """
    model, tokenizer = predictive.model, predictive.model.tokenizer
    if tokenizer is None:
        raise ValueError("this model has no tokenizer: its texts cannot be compared")
    half = max(1, windows.block_size // 2)
    # windows without padding, each with its last target: block + 1 token ids
    chosen: list[list[int]] = []
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))
    for batch in (windows.batch(index[None]) for index in order):
        labels = batch["labels"][0]
        if bool((labels != IGNORED).all()):
            chosen.append([*batch["input_ids"][0].tolist(), int(labels[-1])])
        if len(chosen) == count:
            break
    else:
        raise ValueError(f"the split has only {len(chosen)} whole windows, not {count}")
    prompts = [ids[:half] for ids in chosen]
    at_once = max(1, min(TEXTS_AT_ONCE, MAX_ELEMENTS // (half * tokenizer.vocab_size)))
    alone = Predictive(model, Draws.from_draws(model.theta[None], model.layout))
    length = windows.block_size + 1 - half
    settings: dict[str, Any] = {"max_new_tokens": length, "temperature": 1.0, "seed": seed}
    continuations: dict[str, list[str]] = {"deterministic": [], "bma": []}
    with progress_bar(progress, 2 * count, "text") as advance:
        for who, found in zip((alone, predictive), continuations.values(), strict=True):
            for start in range(0, count, at_once):
                part = prompts[start : start + at_once]
                # places in a batch have streams of their own, batches seeds of their own
                texts = who.generate_all(part, **(settings | {"seed": seed + start}))
                found += [text.continuation for text in texts]
                advance(len(part))
    return {
        "prompts": [tokenizer.decode(ids) for ids in prompts],
        "references": [tokenizer.decode(ids[half:]) for ids in chosen],
        "continuations": continuations,
        "settings": settings | {"texts_at_once": at_once},
    }


def score_texts(samples: dict[str, Any]) -> dict[str, Any]:
    """BLEU, ROUGE and diversity of what `sample_texts` gives, for a split's report."""
    texts, references = samples["continuations"], samples["references"]
    each = {name: overlap(own, references) for name, own in texts.items()}
    each["bma_minus_deterministic"] = overlap(texts["bma"], references, texts["deterministic"])
    varied = texts | {"reference": references}
    return {
        "num_texts": len(references),
        "decoding": samples["settings"],
        **{kind: {name: own[kind] for name, own in each.items()} for kind in ("bleu", "rouge")},
        "diversity": {name: diversity(own) for name, own in varied.items()},
    }


WORDS = "13a"
ROUGE_WORDS = {"rouge1": 1, "rouge2": 2, "rougeL": 1}
"""ROUGE's kinds, and the words that a reference must have to be compared with."""


def overlap(
    hypotheses: Sequence[str],
    references: Sequence[str],
    minus: Sequence[str] | None = None,
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare each hypothesis with the reference in the same place; plain data.

    `bleu`, by the name of the tokenizer (`char`, characters other than white space, or `13a`,
    words): corpus BLEU, 0 to 100 (Papineni et al. 2002, https://aclanthology.org/P02-1040), as
    `score`, and sacrebleu's `signature` (Post 2018, https://arxiv.org/abs/1804.08771). It pools the
    n-grams of all texts, empty ones too, and is None where no hypothesis has four tokens or every
    reference is empty. `rouge`: mean F-measures, 0 to 1 (Lin 2004,
    https://aclanthology.org/W04-1013), each over the texts whose reference has such an n-gram; a
    hypothesis without one scores 0. Each score has the keys of `_estimate`.

    Of `minus`, other hypotheses, BLEU of characters and ROUGE-L are subtracted, and only these are
    there; texts are then resampled together with both of theirs.
    """
    predictors, tokenizers, kinds = [hypotheses], ["char", WORDS], list(ROUGE_WORDS)
    if minus is not None:
        predictors, tokenizers, kinds = [hypotheses, minus], ["char"], ["rougeL"]
    for texts in predictors:
        if len(texts) != len(references):
            raise ValueError(f"{len(texts)} hypotheses for {len(references)} references")
    return {
        "bleu": {name: _bleu(name, predictors, references, seed) for name in tokenizers},
        "rouge": _rouge(kinds, predictors, references, seed),
    }


def diversity(texts: Sequence[str]) -> dict[str, Any]:
    """How texts differ among themselves: high distinct-n and low self-BLEU are diverse; plain data.

    `distinct_1`, `distinct_2`: distinct n-grams over all `num_ngrams`, pooled over texts, so that 1
    means that all differ; Li et al. 2016 (https://arxiv.org/abs/1510.03055) divide by the number of
    words, for every n. It falls as the n-grams grow, so compare like with like. Words are split at
    white space. `self_bleu` (Zhu et al. 2018, https://arxiv.org/abs/1802.01886): mean sentence
    BLEU, 0 to 100, of each text against the rest, words taken by `13a`; texts without any are left
    out.
    """
    return {
        "num_texts": len(texts),
        "distinct_1": _distinct(texts, 1),
        "distinct_2": _distinct(texts, 2),
        "self_bleu": _self_bleu(texts),
    }


def _bleu(
    tokenizer: str, predictors: list[Sequence[str]], references: Sequence[str], seed: int
) -> dict[str, Any]:
    # forced, sacrebleu does not log its suspicion that texts ending in " ." are tokenized
    metric = BLEU(tokenize=tokenizer, force=True)
    if not references:
        return {"tokenizer": tokenizer, "signature": None, "score": _unknown(0, "no texts")}
    stats = [np.array(metric._extract_corpus_statistics(h, [references])) for h in predictors]
    order = metric.max_ngram_order

    def score(sums: np.ndarray) -> float:
        _, reference_length, *counts = integers = sums.tolist()
        total = counts[order:]
        if reference_length == 0:
            raise Undefined("every reference is empty")
        if total[-1] == 0:
            short = f"no hypothesis has {order} tokens"
            raise Undefined(short if total[0] else "every hypothesis is empty")
        return float(metric._compute_score_from_stats(integers).score)

    found = _estimate(stats, score, seed)
    return {"tokenizer": tokenizer, "signature": str(metric.get_signature()), "score": found}


def _rouge(
    kinds: Iterable[str], predictors: list[Sequence[str]], references: Sequence[str], seed: int
) -> dict[str, Any]:
    # here, since they import nltk, scikit-learn and pandas, which takes a second
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer

    tokenizer = DefaultTokenizer(use_stemmer=False)
    # given none, the scorer logs through absl, which configures the root logger
    scorer = RougeScorer(list(kinds), tokenizer=tokenizer)
    words = [len(tokenizer.tokenize(reference)) for reference in references]
    scores = [list(map(scorer.score, references, hypotheses)) for hypotheses in predictors]

    def f_measure(kind: str) -> dict[str, Any]:
        kept = [i for i, count in enumerate(words) if count >= ROUGE_WORDS[kind]]
        if not kept:
            reason = f"no reference has {ROUGE_WORDS[kind]} of rouge-score's words"
            return _unknown(0, reason if references else "no texts")
        stats = [np.array([[own[i][kind].fmeasure] for i in kept]) for own in scores]
        return _estimate(stats, lambda sums: float(sums[0]) / len(kept), seed)

    return {
        "version": version("rouge-score"),
        "tokenizer": "rouge-score's default: lower case, words are runs of a-z and 0-9",
        "stemming": False,
        "f_measure": {kind: f_measure(kind) for kind in kinds},
    }


def _estimate(
    stats: list[np.ndarray], score: Callable[[np.ndarray], float], seed: int
) -> dict[str, Any]:
    """The score of one predictor, or the first's minus the second's, as `estimate`, with the ends
    `low` and `high` of its 95 % interval, over `num_texts`; `reason` says why one is None.

    The interval is a percentile bootstrap: 2,000 times as many texts are drawn with replacement
    and scored. There is none with fewer than two texts, or where a resample has no score. `stats`
    [texts, K] of each predictor are summed over texts for `score`, which may raise Undefined.
    """
    count = len(stats[0])

    def of_texts(index: np.ndarray, axis: int = -1) -> np.ndarray:
        """Scores [1, ...] of the texts in `index`, [..., texts]."""
        rows = index.reshape(-1, count)
        each = [np.array([score(sums) for sums in own[rows].sum(axis=1)]) for own in stats]
        return (each[0] if len(each) == 1 else each[0] - each[1]).reshape(1, *index.shape[:-1])

    estimate = None
    try:
        estimate = float(of_texts(np.arange(count))[0])
        if count < 2:
            return _unknown(count, "an interval needs two texts", estimate)
        (found,) = percentile_intervals(of_texts, (np.arange(count),), seed=seed)
    except Undefined as why:
        reason = str(why) if estimate is None else f"no interval: in a resample {why}"
        return _unknown(count, reason, estimate)
    return {**vars(found), "num_texts": count, "reason": None}


def _unknown(count: int, why: str, estimate: float | None = None) -> dict[str, Any]:
    """What `_estimate` gives where there is no interval, or no score at all."""
    return {"estimate": estimate, "low": None, "high": None, "num_texts": count, "reason": why}


def _distinct(texts: Sequence[str], n: int) -> dict[str, Any]:
    ngrams: Counter[str] = Counter()
    for text in texts:
        ngrams.update(extract_word_ngrams(text.split(), n))
    words, total = "a word" if n == 1 else f"{n} words", ngrams.total()
    why = None if total else f"no text has {words}" if texts else "no texts"
    return {"ratio": len(ngrams) / total if total else None, "num_ngrams": total, "reason": why}


def _self_bleu(texts: Sequence[str]) -> dict[str, Any]:
    """The mean of BLEU.sentence_score(text, all others), in time linear in the texts' n-grams.

    Matches are clipped at the largest count of an n-gram in one reference. Its two largest counts
    over all texts give this for every choice of the text that is left out.
    """
    metric = BLEU(tokenize=WORDS, effective_order=True, force=True)
    lines = [line for text in texts if (line := metric._preprocess_segment(text).strip())]
    found = {"score": None, "signature": None, "num_texts": len(lines), "reason": None}
    if len(lines) < 2:
        return found | {"reason": "self-BLEU needs two texts with words" if texts else "no texts"}
    infos = [metric._extract_reference_info([line]) for line in lines]
    lengths = [info["ref_lens"][0] for info in infos]
    largest: Counter[tuple[str, ...]] = Counter()
    second: Counter[tuple[str, ...]] = Counter()
    for info in infos:
        for ngram, count in info["ref_ngrams"].items():
            second[ngram] = max(second[ngram], min(count, largest[ngram]))
            largest[ngram] = max(largest[ngram], count)
    total = 0.0
    for i, (line, info) in enumerate(zip(lines, infos, strict=True)):
        own = info["ref_ngrams"]
        clipped = {n: second[n] if count == largest[n] else largest[n] for n, count in own.items()}
        others = {"ref_ngrams": clipped, "ref_lens": lengths[:i] + lengths[i + 1 :]}
        stats = metric._compute_segment_statistics(line, others)
        total += metric._compute_score_from_stats(stats).score
    metric.num_refs = len(lines) - 1  # which the signature states
    return found | {"score": total / len(lines), "signature": str(metric.get_signature())}
