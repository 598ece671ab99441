"""`bayesgen similarity`: how alike two texts are, and how sure the posterior is of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from bayesgen.cli.command import Command, Given, Word, typed
from bayesgen.config.jobs import SimilaritySettings
from bayesgen.errors import UserError

if TYPE_CHECKING:
    from bayesgen.workflow.similarity import Compared


def _run(given: Given[SimilaritySettings]) -> str | None:
    settings, name = given.settings, given.words["source"]
    pairs = given.words.get("pair")
    if (pairs is None) == (settings.pairs_file is None):
        raise UserError("`pair` and `pairs_file`: give one of them")
    if not all(text.strip() for pair in pairs or () for text in pair):
        raise UserError("`pair`: a text is empty; give two texts")
    if settings.level >= 1:
        raise UserError(f"`level={settings.level:g}`: choose a probability below 1")
    if settings.out is not None and Path(settings.out).exists():
        raise UserError(f"`out`: '{settings.out}' already exists; name a file that does not")

    from bayesgen.data.corpora import read_pairs
    from bayesgen.workflow.similarity import compare_texts, open_encoder

    if pairs is None:
        pairs = read_pairs(Path(str(settings.pairs_file)))
    source = open_encoder(name, settings.model, settings.device)
    found = compare_texts(source, pairs, settings.num_draws)
    if settings.out is not None:
        found.write(Path(settings.out), name)
    if settings.json:
        print(json.dumps(found.document(name, settings.level), ensure_ascii=False))
        return None
    _show(name, found, settings.level)
    return None if source.run is None else typed("evaluate", name)


def _show(name: str, found: Compared, level: float) -> None:
    """A row for each pair, and one for each text."""
    from bayesgen.data.tables import short
    from bayesgen.reports.tables import empty_table, show

    def interval(ends: list[float] | None) -> str:
        return "-" if ends is None else f"[{ends[0]:.4f}, {ends[1]:.4f}]"

    document, held = found.document(name, level), f"{100 * level:g} %"
    numbers = ("deterministic", "mean", "sd")
    table = empty_table(("first", "second"), (*numbers, held, f"{held} with noise"), wide=True)
    for pair in document["pairs"]:
        table.add_row(
            *(short(found.texts[i]) for i in pair["texts"]),
            *(f"{pair[name]:.4f}" for name in numbers),
            *(interval(pair[name]) for name in ("interval", "predicted")),
        )
    show(table)
    table = empty_table(("text",), ("relative sd", "largest sd", "of dimension"), wide=True)
    for text in document["texts"]:
        relative, largest = text["relative_sd"], text["largest_sd"]
        spread = (f"{relative:.4f}", f"{largest['sd']:.4f}", str(largest["dimension"]))
        table.add_row(short(text["text"]), *spread)
    show(table)
    noise = found.noiseless or f"noise sd {document['noise_std']:.4f}"
    draws = f"{found.num_draws} draw{'s' if found.num_draws > 1 else ''}"
    print(f"{name}: {found.unit}s of {draws}; {noise}")


COMMAND = Command(
    name="similarity",
    description="Compare texts under every draw of a run (or by a sentence model alone): their"
    " similarity, its uncertainty, and that of their embeddings.",
    settings=SimilaritySettings,
    run=_run,
    words={
        "source": Word("RUN", "a run's folder, or a model's"),
        "--pair": Word(
            ("A", "B"), "two texts; may be repeated", more={"nargs": 2, "action": "append"}
        ),
    },
    own_model=True,
    examples="""
# how alike are two sentences, and how sure is the posterior of it?
bayesgen similarity RUN --pair "A man plays a guitar." "Someone makes music."
# the pairs of a file, with intervals that hold 95 %, for a program
bayesgen similarity RUN --pairs-file pairs.tsv --level 0.95 --json
# mean and sd of every embedding
bayesgen similarity RUN --pairs-file pairs.tsv --out embeddings.safetensors
# an encoder alone
bayesgen similarity models/all-MiniLM-L6-v2 --pair "a cat" "a kitten"
""",
)
