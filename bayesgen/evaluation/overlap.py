"""Generated texts beside references (BLEU, ROUGE) and beside each other (distinct-n, self-BLEU).

BLEU is on sacrebleu's scale, 0 to 100; everything else lies between 0 and 1. What cannot be
computed is None with a reason, so that 0 always means that nothing matched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer
from sacrebleu import BLEU, extract_word_ngrams

from bayesgen.evaluation.intervals import RESAMPLES, Undefined, percentile_interval

CHARACTERS = "char"
WORDS = "13a"
ROUGE_WORDS = {"rouge1": 1, "rouge2": 2, "rougeL": 1}
"""ROUGE's kinds, and the words that a reference must have to be compared with."""


@dataclass(frozen=True)
class Estimate:
    """A number over `num_texts` texts with its 95 % interval; `reason` says why one is None."""

    estimate: float | None
    low: float | None
    high: float | None
    num_texts: int
    reason: str | None = None


@dataclass(frozen=True)
class Bleu:
    """Corpus BLEU, 0 to 100 (Papineni et al. 2002, https://aclanthology.org/P02-1040).

    Attributes:
        tokenizer: `char` (characters other than white space) or `13a` (words).
        signature: sacrebleu's (Post 2018, https://arxiv.org/abs/1804.08771); None without texts.
    """

    tokenizer: str
    signature: str | None
    score: Estimate


@dataclass(frozen=True)
class Rouge:
    """Mean F-measures, 0 to 1 (Lin 2004, https://aclanthology.org/W04-1013).

    Attributes:
        version: rouge-score's.
        f_measure: `rouge1`, `rouge2` and `rougeL`, each over the texts whose reference is long
            enough to be compared with.
    """

    version: str
    tokenizer: str
    stemming: bool
    f_measure: dict[str, Estimate]


@dataclass(frozen=True)
class Overlap:
    """How much of the references is found again; `bleu` by the name of the tokenizer."""

    num_texts: int
    resamples: int
    bleu: dict[str, Bleu]
    rouge: Rouge

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Distinct:
    """Distinct n-grams over all `num_ngrams`; it falls as these grow, so compare like with like."""

    ratio: float | None
    num_ngrams: int
    reason: str | None = None


@dataclass(frozen=True)
class SelfBleu:
    """Mean sentence BLEU, 0 to 100, of each of the `num_texts` texts with words against the rest.

    The signature names the tokenizer and the number of references; None without a score.
    """

    score: float | None
    signature: str | None
    num_texts: int
    reason: str | None = None


@dataclass(frozen=True)
class Diversity:
    """How texts differ among themselves: high distinct-n and low self-BLEU are diverse."""

    num_texts: int
    distinct_1: Distinct
    distinct_2: Distinct
    self_bleu: SelfBleu

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def overlap(hypotheses: Sequence[str], references: Sequence[str], *, seed: int = 0) -> Overlap:
    """Compare each hypothesis with the reference in the same place.

    BLEU pools the n-grams of all texts, empty ones too; it is None where no hypothesis has four
    tokens or every reference is empty. ROUGE leaves out the texts whose reference has no n-gram;
    a hypothesis without one scores 0. Intervals are percentile bootstraps: 2,000 times as many
    texts are drawn with replacement and scored. They are None with fewer than two texts, or where
    a resample has no score.

    Raises ValueError unless there are as many hypotheses as references.
    """
    _check(hypotheses, references)
    return Overlap(
        num_texts=len(references),
        resamples=RESAMPLES,
        bleu={name: _bleu(name, [hypotheses], references, seed) for name in (CHARACTERS, WORDS)},
        rouge=_rouge(ROUGE_WORDS, [hypotheses], references, seed),
    )


def paired_overlap(
    first: Sequence[str], second: Sequence[str], references: Sequence[str], *, seed: int = 0
) -> Overlap:
    """BLEU of characters and ROUGE-L of `first` minus those of `second`, on the same references.

    Texts are resampled together with both their continuations.

    Raises ValueError unless there are as many of each as references.
    """
    _check(first, references)
    _check(second, references)
    return Overlap(
        num_texts=len(references),
        resamples=RESAMPLES,
        bleu={CHARACTERS: _bleu(CHARACTERS, [first, second], references, seed)},
        rouge=_rouge(["rougeL"], [first, second], references, seed),
    )


def diversity(texts: Sequence[str]) -> Diversity:
    """distinct-1, distinct-2 and self-BLEU.

    distinct-n divides by the number of n-grams, pooled over texts, so that 1 means that all
    differ; Li et al. 2016 (https://arxiv.org/abs/1510.03055) divide by the number of words, for
    every n. Words are split at white space. Self-BLEU (Zhu et al. 2018,
    https://arxiv.org/abs/1802.01886) takes words by `13a`; texts without any are left out.
    """
    return Diversity(len(texts), _distinct(texts, 1), _distinct(texts, 2), _self_bleu(texts))


Score = Callable[[np.ndarray], float]


def _check(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")


def _bleu(
    tokenizer: str, predictors: list[Sequence[str]], references: Sequence[str], seed: int
) -> Bleu:
    # forced, sacrebleu does not log its suspicion that texts ending in " ." are tokenized
    metric = BLEU(tokenize=tokenizer, force=True)
    if not references:
        return Bleu(tokenizer, None, Estimate(None, None, None, 0, "no texts"))
    stats = [np.array(metric._extract_corpus_statistics(h, [references])) for h in predictors]
    order = metric.max_ngram_order

    def score(sums: np.ndarray) -> float:
        _, reference_length, *counts = integers = sums.tolist()
        total = counts[order:]
        if reference_length == 0:
            raise Undefined("every reference is empty")
        if total[-1] == 0:
            raise Undefined(
                f"no hypothesis has {order} tokens" if total[0] else "every hypothesis is empty"
            )
        return float(metric._compute_score_from_stats(integers).score)

    return Bleu(tokenizer, str(metric.get_signature()), _estimate(stats, score, seed))


def _rouge(
    kinds: Iterable[str], predictors: list[Sequence[str]], references: Sequence[str], seed: int
) -> Rouge:
    tokenizer = DefaultTokenizer(use_stemmer=False)
    # given none, the scorer logs through absl, which configures the root logger
    scorer = RougeScorer(list(kinds), tokenizer=tokenizer)
    words = [len(tokenizer.tokenize(reference)) for reference in references]
    scores = [
        [scorer.score(reference, h) for h, reference in zip(hypotheses, references, strict=True)]
        for hypotheses in predictors
    ]

    def f_measure(kind: str) -> Estimate:
        kept = [i for i, count in enumerate(words) if count >= ROUGE_WORDS[kind]]
        if not kept:
            reason = f"no reference has {ROUGE_WORDS[kind]} of rouge-score's words"
            return Estimate(None, None, None, 0, reason if references else "no texts")
        stats = [np.array([[own[i][kind].fmeasure] for i in kept]) for own in scores]
        return _estimate(stats, lambda sums: float(sums[0]) / len(kept), seed)

    return Rouge(
        version=version("rouge-score"),
        tokenizer="rouge-score's default: lower case, words are runs of a-z and 0-9",
        stemming=False,
        f_measure={kind: f_measure(kind) for kind in kinds},
    )


def _estimate(stats: list[np.ndarray], score: Score, seed: int) -> Estimate:
    """The score of one predictor, or the first's minus the second's, with its interval.

    Args:
        stats: what `score` needs of every text, [texts, K] for each predictor.
        score: of the sums over texts, [K]; raises Undefined.
    """
    count = len(stats[0])

    def of_texts(index: np.ndarray, axis: int = -1) -> np.ndarray:
        """Scores [...] of the texts in `index`, [..., texts]."""
        rows = index.reshape(-1, count)
        each = [np.array([score(sums) for sums in own[rows].sum(axis=1)]) for own in stats]
        return (each[0] if len(each) == 1 else each[0] - each[1]).reshape(index.shape[:-1])

    try:
        estimate = float(of_texts(np.arange(count)))
    except Undefined as why:
        return Estimate(None, None, None, count, str(why))
    if count < 2:
        return Estimate(estimate, None, None, count, "an interval needs two texts")
    try:
        found = percentile_interval(of_texts, (np.arange(count),), seed=seed)
    except Undefined as why:
        return Estimate(estimate, None, None, count, f"no interval: in a resample {why}")
    return Estimate(found.estimate, found.low, found.high, count)


def _distinct(texts: Sequence[str], n: int) -> Distinct:
    ngrams: Counter[str] = Counter()
    for text in texts:
        ngrams.update(extract_word_ngrams(text.split(), n))
    if not ngrams:
        words = "a word" if n == 1 else f"{n} words"
        return Distinct(None, 0, f"no text has {words}" if texts else "no texts")
    return Distinct(len(ngrams) / ngrams.total(), ngrams.total())


def _self_bleu(texts: Sequence[str]) -> SelfBleu:
    """The mean of BLEU.sentence_score(text, all others), in time linear in the texts' n-grams.

    Matches are clipped at the largest count of an n-gram in one reference. Its two largest counts
    over all texts give this for every choice of the text that is left out.
    """
    metric = BLEU(tokenize=WORDS, effective_order=True, force=True)
    lines = [line for text in texts if (line := metric._preprocess_segment(text).strip())]
    if len(lines) < 2:
        reason = "self-BLEU needs two texts with words"
        return SelfBleu(None, None, len(lines), reason if texts else "no texts")
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
        others = {
            "ref_ngrams": {
                ngram: second[ngram] if count == largest[ngram] else largest[ngram]
                for ngram, count in info["ref_ngrams"].items()
            },
            "ref_lens": lengths[:i] + lengths[i + 1 :],
        }
        stats = metric._compute_segment_statistics(line, others)
        total += metric._compute_score_from_stats(stats).score
    metric.num_refs = len(lines) - 1  # which the signature states
    return SelfBleu(total / len(lines), str(metric.get_signature()), len(lines))
