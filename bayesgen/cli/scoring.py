"""Scoring the draws of a run: what `--eval` does, and `bayesgen evaluate`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from bayesgen.cli.sources import chosen_draws
from bayesgen.data.corpora import Corpus, load_far_text
from bayesgen.data.windows import Windows, subset
from bayesgen.errors import UserError
from bayesgen.evaluation import evaluate_split, run_passes
from bayesgen.evaluation.cache import TokenCache
from bayesgen.evaluation.shift import detect_shift
from bayesgen.evaluation.texts import sample_texts
from bayesgen.models import FunctionalModel
from bayesgen.posterior import Posterior
from bayesgen.predictive import Predictive
from bayesgen.predictive.mixture import scoring_precision
from bayesgen.runs import Run
from bayesgen.settings import ScoringSettings

CACHE = "token_scores"


def windows_of(
    corpus: Corpus, block_size: int, train_samples: int | None, seed: int
) -> dict[str, Windows]:
    """The windows of each split that can be asked for; `train` is the data that was fitted."""
    train = (
        Windows.tiled(corpus.train, block_size, split="train")
        if train_samples is None
        else subset(corpus.train, block_size, train_samples, seed)
    )
    return {"train": train, "val": Windows.tiled(corpus.val, block_size, split="val")}


def score_run(
    run: Run,
    model: FunctionalModel,
    corpus: Corpus,
    settings: ScoringSettings,
    splits: dict[str, Windows],
    *,
    text: str | None = None,
    data_dir: str | None = None,
) -> dict[str, Any]:
    """Score the run's draws; writes and returns the content of the evaluation file.

    Args:
        splits: `val` and `train`, of which `eval_splits` are scored.
        text: a corpus that is scored whole, as the split `text`.

    Raises:
        UserError: more draws were asked for than there are, or a text cannot be scored.
    """
    posterior = chosen_draws(
        Posterior.load(run.path),
        settings.eval_num_posterior_samples,
        None,
        "--eval-num-posterior-samples",
    )
    predictive = Predictive(model, posterior, scoring_precision(settings.eval_precision, model))
    cache = TokenCache(run.path / CACHE)
    assert model.tokenizer is not None
    block_size = splits["val"].block_size
    folder = Path(data_dir) if data_dir else None
    scored: dict[str, Windows] = {name: splits[name] for name in settings.eval_splits}
    content: dict[str, Any] = {
        "run": str(run.path),
        "corpus": {"name": corpus.name, **corpus.fingerprint},
        "precision": predictive.forward.precision,
    }
    if text is not None:
        whole = load_far_text(text, model.tokenizer, folder, "--text")
        if whole.kept < 1:
            raise UserError(
                f"--text {text}: {1 - whole.kept:.2%} of its characters are not in the model's"
                " vocabulary; take a text without them, or give it as --ood-corpus, which leaves"
                " them out"
            )
        scored["text"] = Windows.tiled(whole.tokens, block_size, split="text")
        content["text"] = {"name": whole.name, "sha256": whole.sha256}
    far = None
    if settings.ood_corpus is not None:
        elsewhere = load_far_text(settings.ood_corpus, model.tokenizer, folder, "--ood-corpus")
        far = Windows.tiled(elsewhere.tokens, block_size, split="far text")
        content["ood_corpus"] = {
            "name": elsewhere.name,
            "sha256": elsewhere.sha256,
            "characters_kept": elsewhere.kept,
        }
    reports: dict[str, Any] = {}
    texts: dict[str, Any] = {}
    window_nll: dict[str, Tensor] = {}
    for name, windows in scored.items():
        options: dict[str, Any] = {
            "batch_size": settings.eval_batch_size,
            "max_windows": settings.eval_max_samples,
            "cache": cache,
        }
        report = evaluate_split(
            predictive, windows, splits["train"], progress=f"scoring {name}", **options
        )
        reports[name] = report.to_json()
        window_nll |= {f"{name}.{who}": nll for who, nll in report.window_nll.items()}
        window_nll[f"{name}.tokens"] = report.window_tokens
        if far is not None:
            near = run_passes(predictive, windows, splits["train"], **options)
            outside = run_passes(
                predictive, far, splits["train"], progress="scoring the far text", **options
            )
            reports[name]["ood"] = _said(detect_shift, "--ood-corpus", near, outside).to_json()
        if settings.eval_num_text_samples:
            samples = _said(
                sample_texts,
                "--eval-num-text-samples",
                predictive,
                windows,
                settings.eval_num_text_samples,
                progress=f"continuing texts of {name}",
            )
            texts[name] = samples.to_json()
            reports[name] |= samples.scores()
    content["splits"] = reports
    file = f"bayesian_eval_{datetime.now():%Y%m%d-%H%M%S}"
    if texts:
        run.write_json(f"{file}_texts.json", texts)
    run.write_tensors(f"{file}.safetensors", window_nll)
    run.write_json(f"{file}.json", content)
    return content


def _said(function: Any, flag: str, *args: Any, **options: Any) -> Any:
    """What `function` returns; what it refuses, as an error of the flag that asked for it."""
    try:
        return function(*args, **options)
    except ValueError as error:
        raise UserError(f"{flag}: {error}") from error
