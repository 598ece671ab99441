"""`bayesgen generate`: text from a posterior, coloured by how much its draws disagree."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from bayesgen.cli.options import Parser, add_flags, parse
from bayesgen.config import DecodingSettings, GenerateSettings, check_ranges
from bayesgen.config.provenance import combine
from bayesgen.errors import UserError

if TYPE_CHECKING:
    from bayesgen.draws import Draws
    from bayesgen.models import FunctionalModel
    from bayesgen.predictive import GeneratedText

EXAMPLES = """
examples:
  a paragraph from the mixture of ten draws:
    python scripts/generate.py checkpoints/samplers/sghmc_sampler/run_20260101-120000 \\
        --prompt "First Citizen:" --temperature 0.8
  three texts, each of which follows one draw:
    python scripts/generate.py RUN --prompt "ROMEO:" --num-texts 3 --decode per-draw
  the network that the chain started from, through the same door:
    python scripts/generate.py checkpoints/baseline/models/baseline_model_2k.pt --prompt "ROMEO:"
  every token with its numbers, for a program:
    python scripts/generate.py RUN --prompt-file prompt.txt --top-k 40 --json
"""
DEFAULT_DRAWS = 10
LEVELS = ((0.01, "default"), (0.03, "green"), (0.1, "yellow"), (float("inf"), "red"))
"""Colours by epistemic uncertainty: the first whose bound, in nats, it stays below."""


def choose(argv: list[str]) -> tuple[str, GenerateSettings]:
    """The source that was named, and the settings."""
    parser = Parser(
        prog="generate.py",
        usage="generate.py RUN [flags]",
        description="Write text from a run's posterior (or from a checkpoint), and show how sure it"
        " is of every token.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("source", metavar="RUN", help="a run's folder, or a checkpoint")
    add_flags(parser, GenerateSettings)
    flags = parse(parser, argv, {})
    source = str(flags.pop("source"))
    # a run knows its own model: MODEL_PATH is that of new runs
    settings = combine(GenerateSettings, flags, {}, "", without={"model"}).settings
    check_ranges(settings)
    if settings.prompt is not None and settings.prompt_file is not None:
        raise UserError("--prompt and --prompt-file: give one of them")
    return source, settings


def prompts_of(settings: GenerateSettings) -> list[str]:
    """Every prompt as often as it is continued.

    Raises:
        UserError: a prompt is empty, or the file cannot be read as text.
    """
    if settings.prompt_file is not None:
        try:
            prompts = [Path(settings.prompt_file).read_text("utf-8")]
        except UnicodeDecodeError as error:
            raise UserError(f"--prompt-file: '{settings.prompt_file}' is not UTF-8 text") from error
    else:
        prompts = list(settings.prompt or ("\n",))
    if not all(prompts):
        name = "--prompt" if settings.prompt_file is None else "--prompt-file"
        raise UserError(f"{name}: the prompt is empty; give at least one character")
    return [prompt for prompt in prompts for _ in range(settings.num_texts)]


def main(argv: list[str]) -> int:
    name, settings = choose(argv)
    prompts = prompts_of(settings)

    from bayesgen.predictive import Predictive
    from bayesgen.workflow.sources import open_source

    source = open_source(name, model=settings.model, device=settings.device)
    there = len(source.posterior)
    if settings.num_draws is not None and settings.num_draws > there:
        raise UserError(f"--num-draws {settings.num_draws}: '{name}' has only {there} draws")
    posterior = source.posterior.thin(settings.num_draws or DEFAULT_DRAWS)
    decoding = {f.name: getattr(settings, f.name) for f in fields(DecodingSettings)}
    _check_prompts(source.model, prompts, settings)
    try:
        stream = Predictive(source.model, posterior).stream(prompts, settings.strategy, **decoding)
        if settings.json:
            *_, texts = stream
            print(json.dumps(document(name, posterior, decoding, texts), ensure_ascii=False))
        else:
            show(stream, posterior)
    except ValueError as error:  # what the library says of a model that cannot do this
        raise UserError(f"'{name}': {error}") from error
    return 0


def _check_prompts(model: FunctionalModel, prompts: list[str], settings: GenerateSettings) -> None:
    """Refuse prompts that the model cannot read, naming where they came from."""
    given = settings.prompt is not None or settings.prompt_file is not None
    name = "--prompt" if settings.prompt_file is None else "--prompt-file"
    for prompt in prompts if model.tokenizer is not None else []:
        try:
            assert model.tokenizer is not None
            model.tokenizer.encode(prompt)
        except UserError as error:
            why = "" if given else " (the default, a line break; give one)"
            raise UserError(f"{name}{why}: {error}") from error


def document(
    name: str, posterior: Draws, decoding: dict[str, object], texts: list[GeneratedText]
) -> dict[str, object]:
    """What --json prints; `draw` is the place of a draw in the run."""
    return {
        "source": name,
        "num_draws": len(posterior),
        "settings": decoding,
        "texts": [
            text.to_json() | {"draw": None if text.draw is None else posterior.places[text.draw]}
            for text in texts
        ],
    }


def show(stream: Iterator[list[GeneratedText]], posterior: Draws) -> None:
    """Print the first text while it grows, then the others."""
    console = Console(highlight=False, soft_wrap=True, markup=False)
    if console.is_terminal and len(posterior) > 1:
        legend = Text("epistemic uncertainty, nats: ")
        lower = 0.0
        for upper, colour in LEVELS:
            bound = f"below {upper:g}" if upper < float("inf") else f"{lower:g} and more"
            legend.append(f"{bound}  ", style=colour)
            lower = upper
        console.print(legend, end="\n\n")
    texts: list[GeneratedText] = []
    for texts in stream:
        first = texts[0]
        if len(first.tokens) == 1:
            heading(console, texts, 0, posterior)
        token(console, first, len(first.tokens) - 1)
    ending(console, texts[0])
    for index, text in enumerate(texts[1:], start=1):
        heading(console, texts, index, posterior)
        for position in range(len(text.tokens)):
            token(console, text, position)
        ending(console, text)


def heading(console: Console, texts: list[GeneratedText], index: int, posterior: Draws) -> None:
    text = texts[index]
    if len(texts) > 1:
        follows = "" if text.draw is None else f", draw {posterior.places[text.draw]}"
        console.print(Text(f"--- text {index + 1} of {len(texts)}{follows}", style="dim"))
    write(console, text.prompt, "bold")


def token(console: Console, text: GeneratedText, position: int) -> None:
    newest = text.tokens[position]
    write(console, newest.text, next(c for upper, c in LEVELS if newest.epistemic < upper))


def write(console: Console, text: str, style: str) -> None:
    """Coloured in a terminal; elsewhere as it is, where rich would turn tabs into spaces."""
    if console.is_terminal:
        console.print(Text(text, style=style), end="")
    else:
        console.file.write(text)


def ending(console: Console, text: GeneratedText) -> None:
    mean = {name: text.mean(name) for name in ("log_prob", "total", "aleatoric", "epistemic")}
    console.print()
    sys.stdout.flush()
    console.print(
        Text(
            f"\n{len(text.tokens)} tokens; a token: log p {mean['log_prob']:.3f}, entropy"
            f" {mean['total']:.3f} = {mean['aleatoric']:.3f} aleatoric + {mean['epistemic']:.4f}"
            f" epistemic nats; the text: {text.epistemic_per_token:.4f} epistemic nats a token",
            style="dim",
        )
    )
