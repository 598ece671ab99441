"""`bayesgen quickstart`: from nothing to a posterior and its perplexity, in a few minutes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from bayesgen.cli.command import Command, Given, typed
from bayesgen.config.fields import Chosen
from bayesgen.config.jobs import BaselineSettings, QuickstartSettings
from bayesgen.errors import as_flags
from bayesgen.inference.registry import SAMPLERS

if TYPE_CHECKING:
    from bayesgen.runs import Run

TEXT_DRAWS = 5
PROMPT_TOKENS = 32
SHARED = ("corpus", "data_dir", "device", "seed")
"""Settings of the quickstart that the baseline and the run have, too."""


def _run(given: Given[QuickstartSettings]) -> str:
    from bayesgen.runs import Run
    from bayesgen.workflow.session import show_results

    settings = given.settings
    folder = Path(settings.base_dir) / "checkpoints" / "quickstart"
    name = f"{_corpus_name(settings.corpus)}_{settings.baseline_iters}_seed{settings.seed}"
    steps = f"{settings.warmup_steps}+{settings.sampling_steps}by{settings.thinning}"
    checkpoint, run = folder / f"{name}.pt", Run(folder / f"{name}_sghmc_{steps}")
    if checkpoint.is_file():
        print(f"1/4 baseline: {checkpoint} already exists")
    else:
        print("1/4 baseline: nanoGPT's CPU recipe")
        _baseline(settings, checkpoint)
    if run.finished:
        print(f"2/4 posterior: {run.path} already exists\n3/4 scores: already exist")
    else:
        print("2/4 posterior: SGHMC from the baseline; 3/4 scores: every validation token")
        _posterior(settings, checkpoint, run)
    show_results(run)
    print(f"\n4/4 a paragraph from the mixture of {TEXT_DRAWS} draws\n")
    print(_paragraph(settings, run))
    print(f"\nbaseline    {checkpoint}\nposterior   {run.path}")
    print(f"summary     {run.path / 'sghmc_summary.txt'}")
    return typed("generate", run.path)


def _corpus_name(corpus: str) -> str:
    """A name for folders: that of a built-in corpus, or of a file with a hash of its path."""
    path = Path(corpus)
    if not path.exists():
        return corpus
    return f"{path.stem}-{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"


def _baseline(settings: QuickstartSettings, checkpoint: Path) -> None:
    from bayesgen.workflow.baseline import make_baseline

    # training keeps its best so far under the name it is given: only a finished one counts
    unfinished = checkpoint.with_suffix(".unfinished.pt")
    same = {name: getattr(settings, name) for name in SHARED}
    make_baseline(BaselineSettings(**same, max_iters=settings.baseline_iters, out=str(unfinished)))
    unfinished.replace(checkpoint)


def _posterior(settings: QuickstartSettings, checkpoint: Path, run: Run) -> None:
    from bayesgen.workflow.session import train

    names = (*SHARED, "warmup_steps", "sampling_steps", "thinning")
    same = {name: getattr(settings, name) for name in names}
    cls = SAMPLERS["sghmc"].settings
    chosen = cls(model=str(checkpoint), out=str(run.path), eval=True, **same)
    resumed = run if (run.path / "run.json").is_file() else None
    train("sghmc", Chosen(chosen, {}), resumed, as_flags)


def _paragraph(settings: QuickstartSettings, run: Run) -> str:
    """It continues the first `PROMPT_TOKENS` of the validation text."""
    from bayesgen.data.corpora import load_corpus
    from bayesgen.posterior import Posterior

    posterior = Posterior.load(run.path, device=settings.device)
    data_dir = Path(settings.data_dir) if settings.data_dir else None
    corpus = load_corpus(settings.corpus, tokenizer=posterior.model.tokenizer, data_dir=data_dir)
    prompt = corpus.tokenizer.decode(corpus.val[:PROMPT_TOKENS])
    decoding = {"max_new_tokens": settings.text_tokens, "temperature": 0.8, "seed": settings.seed}
    return str(posterior.generate(prompt, draws=TEXT_DRAWS, **decoding)).strip()


COMMAND = Command(
    name="quickstart",
    description="Train nanoGPT's CPU baseline on the built-in corpus, sample its posterior by"
    " SGHMC, score both, and write a paragraph. What exists already is not made again.",
    settings=QuickstartSettings,
    run=_run,
    examples="""
# the built-in corpus
bayesgen quickstart
# another
bayesgen quickstart --corpus shakespeare
""",
)
