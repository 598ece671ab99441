"""A command, declared once, and the one place that understands a command line."""

from __future__ import annotations

import argparse
import shlex
import textwrap
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from bayesgen.cli.options import Parser, add_flags, parse
from bayesgen.config import check_ranges
from bayesgen.config.provenance import Chosen, combine, read_config
from bayesgen.inference.registry import settings_classes

S = TypeVar("S")
CONFIG = {"metavar": "FILE", "help": "presets to use (default: ./config.py)", "group": "run"}
SOURCE = {"metavar": "RUN", "help": "a run's folder, or a checkpoint"}


@dataclass(frozen=True)
class Given(Generic[S]):
    """A command line that was understood.

    Attributes:
        command: the command that these words made of the one that was called (see `adapt`).
        words: positional arguments and flags that are no settings, by name.
        flags: settings that were given as flags, by name.
        chosen: the settings, and where each value came from.
    """

    command: Command[S]
    words: Mapping[str, Any]
    flags: Mapping[str, Any]
    chosen: Chosen[S]

    @property
    def settings(self) -> S:
        return self.chosen.settings


@dataclass(frozen=True)
class Command(Generic[S]):
    """What `bayesgen NAME ...` takes and does.

    Attributes:
        run: does the work and prints; returns the next command to type, if there is one.
        examples: lines of a shell, each with a comment above.
        words: positional arguments and flags that are no settings: name -> options of
            `add_argument`, and the "group" to list it in.
        hidden: settings that have no effect here and that help leaves out.
        defaults: that stand in the place of the class's own, given config.py's values and flags.
        preset: which of config.py's presets applies; None for none.
        elsewhere: says of the name of a setting that does not exist here where it does.
        own_model: whether a run brings its model: MODEL_PATH is that of new runs.
        adapt: the command that these words make of this one.
    """

    name: str
    description: str
    settings: type[S]
    run: Callable[[Given[S]], str | None]
    examples: str
    words: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    hidden: Container[str] = ()
    defaults: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda _: {}
    preset: str | None = None
    elsewhere: Callable[[str], str | None] = lambda _: None
    own_model: bool = False
    adapt: Callable[[Command[S], Sequence[str]], Command[S]] = lambda command, _: command

    def __call__(self, argv: Sequence[str]) -> int:
        """Parse, run, and name the next command."""
        given = self.understand(argv)
        following = given.command.run(given)
        if following is not None:
            print(f"next: {following}")
        return 0

    def understand(self, argv: Sequence[str]) -> Given[S]:
        """The settings that `argv` chooses.

        Raises:
            UserError: an unknown flag (naming the nearest), a stray word, or a bad value.
            SystemExit: the help was asked for, and was printed.
        """
        command = self.adapt(self, argv)
        given = parse(command.parser("--help-all" in argv), argv, command.elsewhere)
        names = {name.lstrip("-").replace("-", "_") for name in command.words}
        words = {name: given.pop(name) for name in names & given.keys()}
        preset: Mapping[str, Any] = {}
        source = ""
        if command.preset is not None:
            presets, source = read_config(given.pop("config", None), settings_classes())
            preset = presets.get(command.preset, {})
        chosen = combine(
            command.settings,
            given,
            preset,
            f"{source} {command.preset}",
            command.defaults({**preset, **given}),
            {"model"} if command.own_model else (),
        )
        check_ranges(chosen.settings)
        return Given(command, words, given, chosen)

    def parser(self, everything: bool) -> Parser:
        """The flags that most people need, or all of them."""
        places = [name for name in self.words if not name.startswith("-")]
        shown = "".join(f" {self.words[name]['metavar']}" for name in places)
        parser = Parser(
            prog=f"bayesgen {self.name}",
            usage=f"bayesgen {self.name}{shown} [flags]",
            description=textwrap.fill(self.description, 100),
            epilog="examples:" + textwrap.indent(self.examples, "  "),
            formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=28),
            allow_abbrev=False,
            add_help=False,
        )
        flags = {**self.words, **({} if self.preset is None else {"--config": CONFIG})}
        for name, options in flags.items():
            plain = {key: value for key, value in options.items() if key != "group"}
            where = parser.group(options["group"]) if name.startswith("-") else parser
            where.add_argument(name, **({"default": argparse.SUPPRESS} | plain))
        add_flags(parser, self.settings, self.defaults({}), self.hidden, everything)
        more = parser.group("help")
        more.add_argument("-h", "--help", action="help", help="the flags that most people need")
        more.add_argument("--help-all", action="help", help="all flags")
        return parser


def typed(*words: object) -> str:
    """A command line of these words, quoted as a shell needs it."""
    return shlex.join(["bayesgen", *map(str, words)])


def scored_next(task: str, run: object) -> str:
    """What to type after a run was scored."""
    if task == "causal-lm":
        return typed("generate", run)
    if task.startswith("sentence-"):
        return typed("similarity", run, "--pair", "a cat", "a kitten")
    if task == "sequence-classification":
        return typed("export", run, "--out", "posterior")
    return typed("evaluate", run, "--help")
