"""`bayesgen quickstart`: from nothing to a posterior and its perplexity, in a few minutes."""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from bayesgen.cli.options import Chosen, Parser, add_flags, combine, parse
from bayesgen.settings import BaselineSettings, Count, Seed, SGHMCSettings, Steps, check_ranges


@dataclass(frozen=True)
class QuickstartSettings:
    corpus: Annotated[str, "python-docs, shakespeare, a text file, or a nanoGPT data folder"] = (
        "python-docs"
    )
    data_dir: Annotated[str | None, "cache and search place for corpora"] = None
    base_dir: Annotated[str, "folder that checkpoints/ lies in"] = "."
    device: Annotated[str, "cpu, cuda, mps, or auto"] = "auto"
    baseline_iters: Annotated[Count, "steps of the baseline"] = 2000
    warmup_steps: Annotated[Steps, "steps before the first draw can be collected"] = 1200
    sampling_steps: Annotated[Count, "steps after warm-up"] = 800
    thinning: Annotated[Count, "steps from one draw to the next"] = 40
    text_tokens: Annotated[Count, "length of the generated paragraph"] = 400
    seed: Annotated[Seed, "of everything random"] = 0


def main(argv: list[str]) -> int:
    parser = Parser(
        prog="quickstart.py",
        description="Train nanoGPT's CPU baseline on the built-in corpus, sample its posterior by"
        " SGHMC, score both, and write a paragraph. What is there already is not made again.",
        epilog="examples:\n  python scripts/quickstart.py\n"
        "  python scripts/quickstart.py --corpus shakespeare",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_flags(parser, QuickstartSettings)
    settings = combine(QuickstartSettings, parse(parser, argv, {}), {}, "").settings
    check_ranges(settings)

    folder = Path(settings.base_dir) / "checkpoints" / "quickstart"
    name = f"{_corpus_name(settings.corpus)}_{settings.baseline_iters}_seed{settings.seed}"
    steps = f"{settings.warmup_steps}+{settings.sampling_steps}by{settings.thinning}"
    checkpoint, out = folder / f"{name}.pt", folder / f"{name}_sghmc_{steps}"
    _baseline(settings, checkpoint)
    evaluation = _posterior(settings, checkpoint, out)
    _report(settings, checkpoint, out, evaluation)
    return 0


def _corpus_name(corpus: str) -> str:
    """A name for folders: that of a built-in corpus, or of a file with a hash of its path."""
    path = Path(corpus)
    if not path.exists():
        return corpus
    return f"{path.stem}-{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"


def _baseline(settings: QuickstartSettings, checkpoint: Path) -> None:
    if checkpoint.is_file():
        print(f"1/4 baseline: {checkpoint} is there already")
        return
    print("1/4 baseline: nanoGPT's CPU recipe")
    from bayesgen.cli.baseline import run_baseline

    run_baseline(
        BaselineSettings(
            corpus=settings.corpus,
            data_dir=settings.data_dir,
            device=settings.device,
            max_iters=settings.baseline_iters,
            seed=settings.seed,
            out=str(checkpoint),
        )
    )


def _posterior(settings: QuickstartSettings, checkpoint: Path, out: Path) -> Path:
    """The evaluation file of the run in `out`, which is made, continued or used as it is."""
    from bayesgen.cli.session import train
    from bayesgen.runs import Run

    run = Run(out)
    if run.finished:
        print(f"2/4 posterior: {out} is there already\n3/4 scores: there already")
    else:
        print("2/4 posterior: SGHMC from the baseline; 3/4 scores: every validation token")
        chosen = Chosen(
            SGHMCSettings(
                model=str(checkpoint),
                corpus=settings.corpus,
                data_dir=settings.data_dir,
                device=settings.device,
                out=str(out),
                warmup_steps=settings.warmup_steps,
                sampling_steps=settings.sampling_steps,
                thinning=settings.thinning,
                seed=settings.seed,
                eval=True,
            ),
            {},
        )
        train("sghmc", chosen, run if (out / "run.json").is_file() else None)
    return max(out.glob("bayesian_eval_*.json"))


def _report(settings: QuickstartSettings, checkpoint: Path, out: Path, evaluation: Path) -> None:
    import json

    from bayesgen.data.corpora import load_corpus
    from bayesgen.inference.job import resolve_device
    from bayesgen.models import load_model
    from bayesgen.posterior import Posterior
    from bayesgen.predictive import Predictive
    from bayesgen.reports.tables import predictor_caption, predictor_table, show

    content = json.loads(evaluation.read_text())
    show(predictor_table(content))
    print(predictor_caption(content))
    print("\n4/4 a paragraph from the mixture of 5 draws\n")
    model = load_model(checkpoint, device=str(resolve_device(settings.device)))
    data_dir = Path(settings.data_dir) if settings.data_dir else None
    corpus = load_corpus(settings.corpus, tokenizer=model.tokenizer, data_dir=data_dir)
    assert model.tokenizer is not None
    prompt = model.tokenizer.decode(corpus.val[:32])
    predictive = Predictive(model, Posterior.load(out).thin(5))
    text = predictive.generate(
        prompt, max_new_tokens=settings.text_tokens, temperature=0.8, seed=settings.seed
    )
    print(text)
    print(
        f"\nbaseline    {checkpoint}\ndraws       {out / 'draws'}\nscores      {evaluation}"
        f"\nsummary     {out / 'sghmc_summary.txt'}"
    )
