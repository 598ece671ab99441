"""`bayesgen baseline`: train the network that posteriors start from."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from bayesgen.cli.options import Parser, add_flags, flag, parse
from bayesgen.config import GPU_RECIPE, BaselineSettings, check_ranges, described
from bayesgen.config.provenance import Chosen, combine, read_config
from bayesgen.errors import UserError
from bayesgen.inference.registry import settings_classes

EXAMPLES = """
examples:
  nanoGPT's CPU recipe on TinyShakespeare, validation loss about 1.88:
    python scripts/train_baseline.py --corpus shakespeare
  the built-in corpus, nothing to download:
    python scripts/train_baseline.py
  nanoGPT's GPU recipe (10.65 M parameters):
    python scripts/train_baseline.py --recipe gpu --corpus shakespeare --device cuda
  a warm start inside a longer schedule, to be handed to a sampler:
    python scripts/train_baseline.py --corpus shakespeare --max-iters 6000 --stop-at 3000
  a small Llama over GPT-2's byte pairs, as a Hugging Face model:
    python scripts/train_baseline.py --architecture llama --tokenizer gpt2 --corpus shakespeare
"""


def choose(argv: list[str]) -> Chosen[BaselineSettings]:
    """Settings from the command line."""
    parser = Parser(
        prog="train_baseline.py",
        description="Train the deterministic baseline: nanoGPT's recipe, step for step.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="presets to use (default: ./config.py)")
    add_flags(parser, BaselineSettings)
    samplers = {
        flag(name): "is a setting of bayesian_training_script.py, not of the baseline"
        for cls in settings_classes().values()
        for name in described(cls)
    }
    flags = parse(parser, argv, samplers)
    presets, source = read_config(flags.pop("config", None), settings_classes())
    config = presets.get("CONFIG_BASELINE", {})
    recipe = flags.get("recipe", config.get("recipe", "cpu"))
    chosen = combine(
        BaselineSettings,
        flags,
        config,
        f"{source} CONFIG_BASELINE",
        base=GPU_RECIPE if recipe == "gpu" else None,
    )
    check_ranges(chosen.settings)
    if chosen.settings.architecture == "gpt2" and "bias" in flags:
        raise UserError("--bias: a gpt2 always has biases; leave the flag out")
    return chosen


def main(argv: list[str]) -> int:
    run_baseline(choose(argv).settings)
    return 0


def run_baseline(settings: BaselineSettings) -> Path:
    """Train and report; returns the checkpoint's path, a file or a folder."""
    from bayesgen.data.corpora import load_corpus
    from bayesgen.data.tokenizers import CharTokenizer, write_meta
    from bayesgen.models.device import resolve_device
    from bayesgen.workflow.baseline import checkpoint_path, train_baseline

    began = time.monotonic()
    path = checkpoint_path(settings, Path(settings.base_dir))
    data_dir = Path(settings.data_dir) if settings.data_dir else None
    corpus = load_corpus(settings.corpus, tokenizer_kind=settings.tokenizer, data_dir=data_dir)
    report = train_baseline(settings, corpus, path, resolve_device(settings.device))
    if settings.architecture == "nanogpt" and isinstance(corpus.tokenizer, CharTokenizer):
        write_meta(path.with_name(f"{path.stem}_meta.pkl"), corpus.tokenizer)
    for step, train, val in report.curve:
        print(f"step {step}: train loss {train:.4f}, val loss {val:.4f}")
    print(
        f"{path}: step {report.best_step}, validation loss {report.best_val_loss:.4f}"
        f" ({time.monotonic() - began:.0f} s)"
    )
    return path
