"""Scoring the draws of a run: what `--eval` does, and `bayesgen evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray
from torch import Tensor

from bayesgen.config import ScoringSettings
from bayesgen.data.corpora import Corpus, WholeText, load_whole_text
from bayesgen.data.windows import Rows, Windows
from bayesgen.draws import Draws
from bayesgen.errors import UserError
from bayesgen.evaluation import evaluate_split, run_passes
from bayesgen.evaluation.cache import TokenCache
from bayesgen.evaluation.ood import detect_shift
from bayesgen.evaluation.texts import sample_texts, score_texts
from bayesgen.evaluation.walk import evenly_spaced
from bayesgen.models import FunctionalModel
from bayesgen.predictive import Predictive, scoring_precision
from bayesgen.runs import Run

CACHE = "token_scores"
HELD_IN = 512
"""Rows that a temperature is fitted on at least, where there are so many."""
R = TypeVar("R", bound=Rows)


@dataclass(frozen=True)
class Material:
    """What is scored, read before anything is computed."""

    scored: Mapping[str, Rows]  # by split
    held_in: Rows  # that a temperature is fitted on: training text, or validation rows
    far: Rows | None  # out of distribution
    texts: dict[str, Any]  # what the evaluation file says of the texts


def read_material(
    model: FunctionalModel,
    corpus: Corpus,
    train: Callable[[], Rows],
    tiled: Callable[[NDArray[Any], str], Rows],
    folder: Path | None,
    settings: ScoringSettings,
    text: str | None = None,
) -> Material:
    """The windows that `settings` ask for; `text` names one that is scored whole, as the split
    `text`. `train` makes windows of what the run fitted, `tiled` of tokens, side by side, with a
    name for errors."""
    assert model.tokenizer is not None
    if settings.ood_data is not None:
        raise UserError(
            "`ood_data` is for classifiers, and this run is of a language model; give `ood_corpus`"
        )
    if settings.eval_num_text_samples and not model.task.can("generate"):
        raise UserError(
            f"`eval_num_text_samples`: a {model.info.task} model cannot generate text; leave it out"
        )
    held_in = train()
    scored = _chosen({"train": held_in, "val": tiled(corpus.val, "val")}, settings)
    texts: dict[str, Any] = {"corpus": {"name": corpus.name, **corpus.fingerprint}}
    if text is not None:
        whole = load_whole_text(text, model.tokenizer, folder, "`text`")
        if whole.kept < 1:
            raise UserError(
                f"`text={text}`: {1 - whole.kept:.2%} of its characters are not in the model's"
                " vocabulary; take a text without them, or give it as `ood_corpus`, which leaves"
                " them out"
            )
        scored["text"] = tiled(whole.tokens, "`text`")
        texts["text"] = _described(whole)
    far = None
    if settings.ood_corpus is not None:
        elsewhere = load_whole_text(settings.ood_corpus, model.tokenizer, folder, "`ood_corpus`")
        far = tiled(elsewhere.tokens, "`ood_corpus`")
        texts["ood_corpus"] = _described(elsewhere)
        _require_two("`ood_corpus`", "windows of each text", scored, far, settings)
    for name, windows in scored.items():
        if isinstance(windows, Windows):  # those that are continued have no padding
            whole_ones = int((windows.starts + windows.block_size < len(windows.tokens)).sum())
            if settings.eval_num_text_samples > whole_ones:
                raise UserError(
                    f"`eval_num_text_samples={settings.eval_num_text_samples}`: {name} has only"
                    f" {whole_ones} whole windows of {windows.block_size} tokens"
                )
    return Material(scored, held_in, far, texts)


def read_examples(
    name: str,
    fingerprint: Mapping[str, Any],
    splits: Mapping[str, Rows],
    far_rows: Callable[[str], tuple[Rows, dict[str, Any]]],
    settings: ScoringSettings,
    text: str | None = None,
) -> Material:
    """The labelled examples that `settings` ask for; `far_rows` reads `--ood-data`: its rows, and
    what the evaluation file says of them."""
    idle = {
        "`text`": text,
        "`ood_corpus`": settings.ood_corpus,
        "`eval_num_text_samples`": settings.eval_num_text_samples,
    }
    given = next((setting for setting, value in idle.items() if value), None)
    if given is not None:
        way_out = "; give `ood_data`" if given == "`ood_corpus`" else ""
        raise UserError(f"{given} is for language models, and this run has labelled data{way_out}")
    texts: dict[str, Any] = {"corpus": {"name": name, **fingerprint}}
    scored = _chosen(splits, settings)
    far = None
    if settings.ood_data is not None:
        if splits["train"].num_classes is None:
            raise UserError(
                "`ood_data` is for classifiers, and the labels of this run are real numbers; leave"
                " it out"
            )
        far, texts["ood_data"] = far_rows(settings.ood_data)
        _require_two("`ood_data`", "rows of each set", scored, far, settings)
    # a classifier that fits its training rows looks calibrated there: the temperature is fitted on
    # rows that it has not seen (Guo et al. 2017)
    return Material(scored, splits["val"], far, texts)


def _require_two(
    setting: str, what: str, scored: Mapping[str, Rows], far: Rows, settings: ScoringSettings
) -> None:
    """Refuse to compare what is too few for an interval."""
    few = [name for name, rows in {**scored, setting: far}.items() if len(rows) < 2]
    if few or settings.eval_max_samples == 1:
        which = few[0] if few else "`eval_max_samples=1`"
        raise UserError(f"{setting} needs two {what}: not so {which}")


def _chosen(splits: Mapping[str, R], settings: ScoringSettings) -> dict[str, R]:
    """The splits that are asked for; by default test, or val where there is none."""
    wanted = settings.eval_splits or ("test" if "test" in splits else "val",)
    for name in wanted:
        if name not in splits:
            raise UserError(
                f"`eval_splits={name}`: the data have no such split ({', '.join(splits)})"
            )
    return {str(name): splits[name] for name in wanted}


def check_draws(settings: ScoringSettings, there: int) -> None:
    """Refuse to score more draws than there are, or will be."""
    wanted = settings.eval_num_posterior_samples
    if wanted is not None and wanted > there:
        raise UserError(f"`eval_num_posterior_samples={wanted}`: there are only {there} draws")


def score_run(
    run: Run,
    model: FunctionalModel,
    settings: ScoringSettings,
    material: Material,
    draws: Draws | None = None,
) -> dict[str, Any]:
    """Score `draws`, by default all of the run's; the content of the evaluation file that it
    writes."""
    every = draws or Draws.load(run.path)
    check_draws(settings, len(every))
    posterior = every.thin(settings.eval_num_posterior_samples)
    predictive = Predictive(model, posterior, scoring_precision(settings.eval_precision, model))
    # a temperature is fitted on no more than is scored, but enough for one number
    most = settings.eval_max_samples and max(settings.eval_max_samples, HELD_IN)
    cache = TokenCache(run.path / CACHE)
    options: dict[str, Any] = {
        "held_in": material.held_in.take(evenly_spaced(len(material.held_in), most).numpy()),
        "batch_size": settings.eval_batch_size,
        "max_windows": settings.eval_max_samples,
        "cache": cache,
    }
    reports: dict[str, Any] = {}
    texts: dict[str, Any] = {}
    window_nll: dict[str, Tensor] = {}
    far, far_key = None, ""
    with cache.locked():
        if material.far is not None:
            title = "scoring out-of-distribution data"
            far = run_passes(predictive, material.far, progress=title, **options)
            far_key = cache.key(far[1], options["held_in"], predictive)
        for name, windows in material.scored.items():
            report = evaluate_split(predictive, windows, progress=f"scoring {name}", **options)
            reports[name] = report.content
            window_nll |= {f"{name}.{who}": nll for who, nll in report.window_nll.items()}
            window_nll[f"{name}.tokens"] = report.window_tokens
            window_nll[f"{name}.rows"] = evenly_spaced(len(windows), settings.eval_max_samples)
            if far is not None:
                detect = partial(detect_shift, run_passes(predictive, windows, **options), far)
                reports[name]["ood"] = cache.plain(f"{report.key}.far-{far_key}", detect)
            number = settings.eval_num_text_samples
            if number and isinstance(windows, Windows):
                title = f"continuing texts of {name}"
                make = partial(_continued, predictive, windows, number, title)
                made = cache.plain(f"{report.key}.texts-{number}", make)
                texts[name] = made["texts"]
                reports[name] |= made["scores"]
        content = {
            "run": str(run.path),
            **material.texts,
            "precision": predictive.forward.precision,
            "splits": reports,
        }
        file = _free_name(run)
        if texts:
            run.write_json(f"{file}_texts.json", texts)
        run.write_tensors(f"{file}.safetensors", window_nll)
        run.write_json(f"{file}.json", content)
    return content


def _continued(
    predictive: Predictive, windows: Windows, count: int, progress: str
) -> dict[str, Any]:
    """Texts of a split, continued, and how good they are."""
    samples = sample_texts(predictive, windows, count, progress=progress)
    return {"texts": samples, "scores": score_texts(samples)}


def _free_name(run: Run) -> str:
    """Name of a new evaluation: the time, and a number where there is one of that second."""
    stamped = f"bayesian_eval_{datetime.now():%Y%m%d-%H%M%S}"
    names = chain([stamped], (f"{stamped}_{number}" for number in count(2)))
    return next(name for name in names if not (run.path / f"{name}.json").exists())


def _described(text: WholeText) -> dict[str, Any]:
    return {"name": text.name, "sha256": text.sha256, "characters_kept": text.kept}
