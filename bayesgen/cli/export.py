"""`bayesgen export`: a run's posterior as a folder that transformers loads."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayesgen.cli.options import Parser, add_flags, parse
from bayesgen.config import ExportSettings, check_ranges
from bayesgen.config.provenance import combine
from bayesgen.errors import UserError

if TYPE_CHECKING:
    from bayesgen.runs import Run

EXAMPLES = """
examples:
  all draws of a run, with their network and tokenizer:
    python scripts/export.py checkpoints/samplers/sghmc_sampler/run_20260101-120000 --out posterior
  ten draws, of a run whose model was moved:
    python scripts/export.py RUN --out posterior --num-draws 10 --model models/gpt2
  then, in Python:
    import bayesgen.export
    from transformers import pipeline
    pipeline("text-generation", "posterior")("First Citizen:")
"""


def choose(argv: list[str]) -> tuple[str, Path, ExportSettings]:
    """The source that was named, the folder to write, and the settings."""
    parser = Parser(
        prog="export.py",
        usage="export.py RUN --out FOLDER [flags]",
        description="Write a run's posterior (or a checkpoint) as a Hugging Face model: network,"
        " draws, tokenizer and model card in one folder.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("source", metavar="RUN", help="a run's folder, or a checkpoint")
    add_flags(parser, ExportSettings)
    flags = parse(parser, argv, {})
    source = str(flags.pop("source"))
    # a run knows its own model: MODEL_PATH is that of new runs
    settings = combine(ExportSettings, flags, {}, "", without={"model"}).settings
    check_ranges(settings)
    if settings.out is None:
        raise UserError("--out: name the folder to write")
    out = Path(settings.out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"--out: '{out}' is there already; name a folder that is empty or new")
    return source, out, settings


def main(argv: list[str]) -> int:
    name, out, settings = choose(argv)

    from bayesgen.draws import Draws
    from bayesgen.workflow.sources import open_source

    try:
        from bayesgen.export.gpt2 import as_gpt2
        from bayesgen.export.pretrained import bayesian_class
        from bayesgen.models.hf_tokenizer import HuggingFaceTokenizer
        from bayesgen.models.logging import quiet
    except ImportError as error:
        raise UserError("export needs transformers; pip install 'bayesgen[hf]'") from error

    source = open_source(name, model=settings.model, device="cpu")
    if not source.model.task.can("export"):
        raise UserError(
            f"'{name}' is a run of {source.model.info.task}: causal language models and sequence"
            " classifiers can be exported"
        )
    model = source.model
    posterior: Draws = source.posterior.thin(settings.num_draws)
    if settings.num_draws is not None and settings.num_draws > len(posterior):
        raise UserError(f"--num-draws {settings.num_draws}: '{name}' has {len(posterior)} draws")
    if model.info.family == "nanogpt":
        model, posterior = as_gpt2(model, posterior)
    record = None if source.run is None else source.run.record()
    evaluation = None if source.run is None else _newest_evaluation(source.run)
    made = bayesian_class(model.module).from_posterior(model, posterior, record, evaluation)
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        # the folder is whole or not there
        with tempfile.TemporaryDirectory(prefix=".export-", dir=out.absolute().parent) as scratch:
            folder = Path(scratch) / "model"
            with quiet():
                made.save_pretrained(folder)
            if isinstance(model.tokenizer, HuggingFaceTokenizer):
                model.tokenizer.tokenizer.save_pretrained(folder)
            folder.replace(out)
    except OSError as error:
        raise UserError(f"--out: '{out}' cannot be written ({error.strerror or error})") from error
    size = sum(path.stat().st_size for path in out.iterdir())
    print(
        f"{len(posterior)} draws of {type(made.network).__name__} in {out}, {size / 2**20:.1f} MiB"
    )
    return 0


def _newest_evaluation(run: Run) -> dict[str, Any] | None:
    found = sorted(run.path.glob("bayesian_eval_*[0-9].json"))
    return run.read_json(found[-1].name) if found else None
