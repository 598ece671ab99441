"""`bayesgen similarity`: how alike two texts are, and how sure the posterior is of it."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayesgen.cli.options import Parser, add_flags, parse
from bayesgen.config import SimilaritySettings, check_ranges
from bayesgen.config.provenance import combine
from bayesgen.errors import UserError, warn
from bayesgen.tasks import TASKS, tasks_that

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor

    from bayesgen.models.functional import Batch
    from bayesgen.predictive.embedding import EmbeddingSpread, SimilaritySpread
    from bayesgen.workflow.sources import Source

EXAMPLES = """
examples:
  how alike are two sentences, and how sure is the posterior of it?
    python scripts/similarity.py RUN --pair "A man plays a guitar." "Someone makes music."
  the pairs of a file, with intervals that hold 95 %, for a program:
    python scripts/similarity.py RUN --pairs-file pairs.tsv --level 0.95 --json
  mean and sd of every embedding:
    python scripts/similarity.py RUN --pairs-file pairs.tsv --out embeddings.safetensors
  an encoder alone, through the same door:
    python scripts/similarity.py models/all-MiniLM-L6-v2 --pair "a cat" "a kitten"
"""
BATCH_SIZE = 64
DEFAULT_LENGTH = 512
"""Tokens of the longest text where the model has no limit of its own."""
Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Compared:
    """What is told: the texts, each once, and the pairs of them.

    Attributes:
        places: of the two texts of each pair.
        noiseless: why a score has no predicted interval, or None.
    """

    source: Source
    num_draws: int
    texts: list[str]
    places: list[tuple[int, int]]
    spread: EmbeddingSpread
    similarity: SimilaritySpread
    noiseless: str | None


def choose(argv: list[str]) -> tuple[str, Pairs | None, SimilaritySettings]:
    """The source that was named, the pairs of the command line, and the settings."""
    parser = Parser(
        prog="similarity.py",
        usage="similarity.py RUN (--pair A B | --pairs-file FILE) [flags]",
        description="Compare texts under every draw of a run (or by a sentence model alone): their"
        " similarity, its uncertainty, and that of their embeddings.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("source", metavar="RUN", help="a run's folder, or a model's")
    parser.add_argument(
        "--pair", nargs=2, action="append", metavar=("A", "B"), default=argparse.SUPPRESS,
        help="two texts; may be given again",
    )  # fmt: skip
    add_flags(parser, SimilaritySettings)
    flags = parse(parser, argv, {})
    source = str(flags.pop("source"))
    given = flags.pop("pair", None)
    # a run knows its own model: MODEL_PATH is that of new runs
    settings = combine(SimilaritySettings, flags, {}, "", without={"model"}).settings
    check_ranges(settings)
    if settings.level >= 1:
        raise UserError(f"--level {settings.level:g}: choose a probability below 1")
    if (given is None) == (settings.pairs_file is None):
        raise UserError("--pair and --pairs-file: give one of them")
    pairs = None if given is None else [(str(first), str(second)) for first, second in given]
    if pairs is not None and not all(text.strip() for pair in pairs for text in pair):
        raise UserError("--pair: a text is empty; give two texts")
    if settings.out is not None and Path(settings.out).exists():
        raise UserError(f"--out: '{settings.out}' is there already; name a file that is not")
    return source, pairs, settings


def main(argv: list[str]) -> int:
    name, pairs, settings = choose(argv)

    from bayesgen.data.texts import read_pairs

    if pairs is None:
        assert settings.pairs_file is not None
        pairs = read_pairs(Path(settings.pairs_file))
    source = _open(name, settings)
    found = _compare(source, pairs, settings)
    if settings.out is not None:
        _write(Path(settings.out), found)
    if settings.json:
        print(json.dumps(document(found, settings.level), ensure_ascii=False))
    else:
        _show(found, settings.level)
    return 0


def _open(name: str, settings: SimilaritySettings) -> Source:
    """The run or model, if it makes embeddings.

    Raises:
        UserError: it does not, or is not there; or it has fewer draws than are asked for.
    """
    from bayesgen.runs import Run
    from bayesgen.workflow.sources import open_source

    if (Path(name) / "run.json").is_file():
        task = Run.open(name).record().settings["task"]
        if not TASKS[task].can("similarity"):
            makers = " and ".join(tasks_that("similarity"))
            raise UserError(f"'{name}' is a run of {task}; embeddings are made by {makers}")
    source = open_source(
        name, model=settings.model, device=settings.device, task=_own_task(Path(name))
    )
    there = len(source.posterior)
    if settings.num_draws is not None and settings.num_draws > there:
        raise UserError(f"--num-draws {settings.num_draws}: '{name}' has only {there} draws")
    return source


def _own_task(folder: Path) -> str:
    """What a sentence model in `folder` was made for; any other encoder compares texts."""
    comparing = next(name for name in tasks_that("similarity") if TASKS[name].compares)
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return comparing
    task = config.get("task") if isinstance(config, dict) else None
    return task if task in tasks_that("similarity") else comparing


def _compare(source: Source, pairs: Pairs, settings: SimilaritySettings) -> Compared:
    import torch

    from bayesgen.evaluation.walk import progress_bar
    from bayesgen.models.frozen import frozen_encoder
    from bayesgen.predictive.embedding import compare, gives_scores

    model, posterior = source.model, source.posterior.thin(settings.num_draws)
    if len(posterior) > 1 and frozen_encoder(model.module, model.layout) is not None:
        warn(f"no draw of '{source.name}' moves the encoder: every embedding is the same")
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    place = {text: i for i, text in enumerate(texts)}
    places = [(place[first], place[second]) for first, second in pairs]
    batches = _batches(source, texts)
    with progress_bar("embedding", (len(posterior) + 1) * len(texts), "text") as advance:
        spread, similarity = compare(model, posterior, batches, torch.tensor(places), advance)
    noiseless = None
    if not gives_scores(model):
        noiseless = f"a {model.info.task} model gives no scores"
    elif source.run is None and model.info.config.get("noise_std") is None:
        noiseless = "the model was not trained on scores"
    return Compared(source, len(posterior), texts, places, spread, similarity, noiseless)


def _batches(source: Source, texts: list[str]) -> list[Batch]:
    """`texts` in the model's tokens, cut as where it was trained.

    Raises:
        UserError: the model has no tokenizer, or it cannot encode a text.
    """
    from bayesgen.models.hf_tokenizer import HuggingFaceTokenizer

    model = source.model
    if not isinstance(model.tokenizer, HuggingFaceTokenizer):
        raise UserError(f"--model: '{model.info.name}' has no tokenizer; save it into the folder")
    tokenizer = model.tokenizer.tokenizer
    limits = [model.block_size, model.tokenizer.max_length]
    longest = min((n for n in limits if n is not None), default=DEFAULT_LENGTH)
    if source.run is not None:
        longest = source.run.record().block_size
    shape: Any = {"padding": True, "truncation": True, "max_length": longest}
    batches: list[Batch] = []
    cut = 0
    for start in range(0, len(texts), BATCH_SIZE):
        part = texts[start : start + BATCH_SIZE]
        try:
            whole = tokenizer(part, verbose=False)["input_ids"]
            batches.append(dict(tokenizer(part, return_tensors="pt", **shape)))
        except Exception as error:  # tokenizers raises nothing more particular
            why = " ".join(str(error).split())
            raise UserError(
                f"the tokenizer of '{model.info.name}' cannot encode the texts ({why})"
            ) from error
        cut += sum(len(ids) > longest for ids in whole)
    if cut:
        warn(f"{cut} of {len(texts)} texts were cut to {longest} tokens")
    return batches


def document(found: Compared, level: float) -> dict[str, Any]:
    """What --json prints; `texts` of a pair are places in the list of texts."""
    spread, similarity = found.spread, found.similarity
    ends = [_rows(similarity.interval(level)), _rows(_predicted(found, level))]
    numbers = zip(
        similarity.deterministic.tolist(), similarity.mean.tolist(), similarity.sd.tolist(),
        strict=True,
    )  # fmt: skip
    largest = spread.largest.tolist()
    return {
        "source": found.source.name,
        "task": found.source.model.info.task,
        "num_draws": found.num_draws,
        "level": level,
        "unit": _unit(found),
        "noise_std": None if found.noiseless else similarity.noise_std,
        "no_predicted": found.noiseless,
        "pairs": [
            {
                "texts": list(places),
                "deterministic": deterministic,
                "mean": mean,
                "sd": sd,
                "interval": ends[0][i] if ends[0] else None,
                "predicted": ends[1][i] if ends[1] else None,
            }
            for i, (places, (deterministic, mean, sd)) in enumerate(
                zip(found.places, numbers, strict=True)
            )
        ],
        "texts": [
            {
                "text": text,
                "relative_sd": relative,
                "largest_sd": {"dimension": dimension, "sd": float(spread.sd[i, dimension])},
            }
            for i, (text, relative, dimension) in enumerate(
                zip(found.texts, spread.relative_sd.tolist(), largest, strict=True)
            )
        ],
    }


def _unit(found: Compared) -> str:
    return "score" if found.noiseless is None else "cosine"


def _predicted(found: Compared, level: float) -> tuple[Tensor, Tensor] | None:
    return None if found.noiseless else found.similarity.predicted(level)


def _rows(ends: tuple[Tensor, Tensor] | None) -> list[list[float]] | None:
    if ends is None:
        return None
    return [[float(low), float(high)] for low, high in zip(*ends, strict=True)]


def _show(found: Compared, level: float) -> None:
    """A row for each pair, and one for each text."""
    from bayesgen.data.tables import short
    from bayesgen.reports.tables import show

    told = document(found, level)
    table = _table(
        ("first", "second"),
        ("deterministic", "mean", "sd", f"{100 * level:g} %", f"{100 * level:g} % with noise"),
    )
    for pair in told["pairs"]:
        table.add_row(
            *(short(told["texts"][i]["text"]) for i in pair["texts"]),
            *(f"{pair[name]:.4f}" for name in ("deterministic", "mean", "sd")),
            *(_interval(pair[name]) for name in ("interval", "predicted")),
        )
    show(table)
    table = _table(("text",), ("relative sd", "largest sd", "of dimension"))
    for text in told["texts"]:
        largest = text["largest_sd"]
        table.add_row(
            short(text["text"]),
            f"{text['relative_sd']:.4f}",
            f"{largest['sd']:.4f}",
            str(largest["dimension"]),
        )
    show(table)
    noise = f"noise sd {told['noise_std']:.4f}" if found.noiseless is None else found.noiseless
    draws = f"{found.num_draws} draw{'s' if found.num_draws > 1 else ''}"
    print(f"{found.source.name}: {told['unit']}s of {draws}; {noise}")


def _table(words: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for name in words:
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _interval(ends: list[float] | None) -> str:
    return "-" if ends is None else f"[{ends[0]:.4f}, {ends[1]:.4f}]"


def _write(path: Path, found: Compared) -> None:
    """Mean and sd of every embedding, [n, H] each, with the texts as metadata."""
    from bayesgen.runs import atomic_save

    tensors = {"mean": found.spread.mean, "sd": found.spread.sd}
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    atomic_save(path, tensors, {"texts": json.dumps(found.texts), "source": found.source.name})
