"""`bayesgen quickstart`: from nothing to a posterior and its perplexity, in a few minutes."""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from bayesgen.cli.options import Parser, add_flags, parse
from bayesgen.config import BaselineSettings, Count, Seed, Steps, check_ranges
from bayesgen.config.provenance import Chosen, combine
from bayesgen.errors import as_flags
from bayesgen.inference.registry import SAMPLERS

if TYPE_CHECKING:
    from bayesgen.runs import Run

TEXT_DRAWS = 5
PROMPT_TOKENS = 32


@dataclass(frozen=True)
class QuickstartSettings:
    corpus: Annotated[str, "python-docs, shakespeare, a text file, or a nanoGPT data folder"] = (
        "python-docs"
    )
    data_dir: Annotated[str | None, "cache and search place for corpora"] = None
    base_dir: Annotated[str, "folder that checkpoints/ lies in"] = "."
    device: Annotated[str, "cpu, cuda, mps, or auto"] = "auto"
    baseline_iters: Annotated[Count, "steps of the baseline"] = 2000
    warmup_steps: Annotated[Steps, "steps before the first draw can be collected"] = 1500
    sampling_steps: Annotated[Count, "steps after warm-up"] = 500
    thinning: Annotated[Count, "steps from one draw to the next"] = 25
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
    from bayesgen.workflow.session import show_results

    _baseline(settings, checkpoint)
    run = _posterior(settings, checkpoint, out)
    show_results(run)
    _paragraph(settings, checkpoint, run)
    print(f"\nbaseline    {checkpoint}\nposterior   {out}")
    print(f"summary     {out / 'sghmc_summary.txt'}")
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

    # training keeps its best so far under the name it is given: only a finished one counts
    unfinished = checkpoint.with_suffix(".unfinished.pt")
    run_baseline(
        BaselineSettings(
            corpus=settings.corpus,
            data_dir=settings.data_dir,
            device=settings.device,
            max_iters=settings.baseline_iters,
            seed=settings.seed,
            out=str(unfinished),
        )
    )
    unfinished.replace(checkpoint)


def _posterior(settings: QuickstartSettings, checkpoint: Path, out: Path) -> Run:
    """The run in `out`, which is made, continued or used as it is."""
    from bayesgen.runs import Run
    from bayesgen.workflow.session import train

    run = Run(out)
    if run.finished:
        print(f"2/4 posterior: {out} is there already\n3/4 scores: there already")
        return run
    print("2/4 posterior: SGHMC from the baseline; 3/4 scores: every validation token")
    chosen = Chosen(
        SAMPLERS["sghmc"].settings(
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
    resumed = run if (out / "run.json").is_file() else None
    return train("sghmc", chosen, resumed, as_flags)


def _paragraph(settings: QuickstartSettings, checkpoint: Path, run: Run) -> None:
    from bayesgen.data.corpora import load_corpus
    from bayesgen.predictive import Predictive
    from bayesgen.workflow.sources import open_source

    print(f"\n4/4 a paragraph from the mixture of {TEXT_DRAWS} draws\n")
    source = open_source(str(run.path), device=settings.device)
    data_dir = Path(settings.data_dir) if settings.data_dir else None
    corpus = load_corpus(settings.corpus, tokenizer=source.model.tokenizer, data_dir=data_dir)
    prompt = corpus.tokenizer.decode(corpus.val[:PROMPT_TOKENS])
    predictive = Predictive(source.model, source.posterior.thin(TEXT_DRAWS))
    text = predictive.generate(
        prompt, max_new_tokens=settings.text_tokens, temperature=0.8, seed=settings.seed
    )
    print(str(text).strip())
