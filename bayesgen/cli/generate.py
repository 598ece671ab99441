"""`bayesgen generate`: text from a posterior, coloured by how much its draws disagree."""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING

from bayesgen.cli.command import SOURCE, Command, Given, typed
from bayesgen.config.jobs import GenerateSettings
from bayesgen.errors import UserError

if TYPE_CHECKING:
    from bayesgen.predictive import GeneratedText
    from bayesgen.workflow.generation import Generation

LEVELS = ((0.01, "default"), (0.03, "green"), (0.1, "yellow"), (math.inf, "red"))
"""Colours by epistemic uncertainty: the first whose bound, in nats, it stays below."""


def _run(given: Given[GenerateSettings]) -> str | None:
    from bayesgen.workflow.generation import generate

    name = given.words["source"]
    try:
        generation = generate(name, given.settings)
        if given.settings.json:
            print(json.dumps(generation.document(), ensure_ascii=False))
            return None
        show(generation)
    except ValueError as error:  # what the library says of a model that cannot do this
        raise UserError(f"'{name}': {error}") from error
    return typed("export", name, "--out", "posterior")


def show(generation: Generation) -> None:
    """Print the first text while it grows, then the others."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True, markup=False)

    def write(text: str, style: str) -> None:
        """Coloured in a terminal; elsewhere as it is, where rich would turn tabs into spaces."""
        if console.is_terminal:
            console.print(Text(text, style=style), end="")
        else:
            console.file.write(text)

    def tokens(text: GeneratedText, first: int = 0) -> None:
        for token in text.tokens[first:]:
            write(token.text, next(c for upper, c in LEVELS if token.epistemic < upper))

    def heading(texts: list[GeneratedText], index: int) -> None:
        text = texts[index]
        if len(texts) > 1:
            follows = "" if text.draw is None else f", draw {generation.place(text)}"
            console.print(f"--- text {index + 1} of {len(texts)}{follows}", style="dim")
        write(text.prompt, "bold")

    def ending(text: GeneratedText) -> None:
        mean = {name: text.mean(name) for name in ("log_prob", "total", "aleatoric", "epistemic")}
        console.print()
        sys.stdout.flush()
        console.print(
            f"\n{len(text.tokens)} tokens; a token: log p {mean['log_prob']:.3f}, entropy"
            f" {mean['total']:.3f} = {mean['aleatoric']:.3f} aleatoric + {mean['epistemic']:.4f}"
            f" epistemic nats; the text: {text.epistemic_per_token:.4f} epistemic nats a token",
            style="dim",
        )

    if console.is_terminal and len(generation.posterior) > 1:
        legend = Text("epistemic uncertainty, nats: ")
        for upper, colour in LEVELS:
            bound = f"below {upper:g}" if upper < math.inf else f"{LEVELS[-2][0]:g} and more"
            legend.append(f"{bound}  ", style=colour)
        console.print(legend, end="\n\n")
    texts: list[GeneratedText] = []
    for texts in generation.stream:
        if len(texts[0].tokens) == 1:
            heading(texts, 0)
        tokens(texts[0], -1)
    ending(texts[0])
    for index, text in enumerate(texts[1:], start=1):
        heading(texts, index)
        tokens(text)
        ending(text)


COMMAND = Command(
    name="generate",
    description="Write text from a run's posterior (or from a checkpoint), and show how sure it is"
    " of every token.",
    settings=GenerateSettings,
    run=_run,
    words={"source": SOURCE},
    own_model=True,
    examples="""
# a paragraph from the mixture of ten draws
bayesgen generate RUN --prompt "First Citizen:" --temperature 0.8
# three texts, each of which follows one draw
bayesgen generate RUN --prompt "ROMEO:" --num-texts 3 --decode per-draw
# the network that the chain started from
bayesgen generate checkpoints/baseline/models/baseline_model_2k.pt --prompt "ROMEO:"
# every token with its numbers, for a program
bayesgen generate RUN --prompt-file prompt.txt --top-k 40 --json
""",
)
