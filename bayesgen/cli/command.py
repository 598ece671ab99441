"""A command, declared once, and the one place that understands a command line.

The settings' dataclasses are the flags. argparse does the parsing; flags that are absent leave no
trace, so that the environment, config.py and the defaults can follow (`config.fields.combine`).
"""

from __future__ import annotations

import argparse
import shlex
import textwrap
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

from bayesgen.config import check_ranges, described
from bayesgen.config.fields import Chosen, Setting, combine, read_config
from bayesgen.config.jobs import BaselineSettings
from bayesgen.errors import UserError, as_flags, nearest
from bayesgen.inference.registry import settings_classes

S = TypeVar("S")
GROUPS = ("model", "data", "prior", "sampler", "training", "text", "run", "evaluation", "settings")
"""Headings of `--help`, in this order."""


class Word(NamedTuple):
    """A positional argument, or a flag that is no setting; `more` are options of `add_argument`."""

    metavar: str | tuple[str, ...]
    help: str
    group: str = "run"
    more: Mapping[str, Any] = {}


CONFIG = Word("FILE", "presets to use (default: ./config.py)")
SOURCE = Word("RUN", "a run's folder, or a checkpoint")


@dataclass(frozen=True)
class Given(Chosen[S]):
    """A command line that was understood: the settings, and where each value came from.

    Attributes:
        command: the command that these words made of the one that was called (see `adapt`).
        words: positional arguments and flags that are no settings, by name.
        flags: settings that were given as flags, by name.
    """

    command: Command[S]
    words: Mapping[str, Any]
    flags: Mapping[str, Any]


@dataclass(frozen=True)
class Command(Generic[S]):
    """What `bayesgen NAME ...` takes and does.

    Attributes:
        run: does the work and prints; returns the next command to type, if there is one.
        examples: lines of a shell, each with a comment above.
        words: positional arguments and flags that are no settings, by name.
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
    words: Mapping[str, Word] = field(default_factory=dict)
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
        """The settings that `argv` chooses."""
        command = self.adapt(self, argv)
        given = parsed(command, argv)
        preset, source = dict[str, Any](), ""
        if command.preset is not None:
            presets, file = read_config(given.pop("config", None), preset_classes())
            preset, source = presets.get(command.preset, {}), f"{file} {command.preset}"
        known = described(command.settings)
        words = {name: given.pop(name) for name in [*given] if name not in known}
        base = command.defaults({**preset, **given})
        without = {"model"} if command.own_model else set[str]()
        chosen = combine(command.settings, given, preset, source, base, without)
        check_ranges(chosen.settings)
        return Given(chosen.settings, chosen.sources, command, words, given)


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "))


def parsed(command: Command[Any], argv: Sequence[str]) -> dict[str, Any]:
    """The words and flags in `argv`, by name; an unknown flag is refused, naming the nearest.

    Raises:
        SystemExit: the help was asked for, and was printed.
    """
    places = [word.metavar for name, word in command.words.items() if not name.startswith("-")]
    parser = Parser(
        prog=f"bayesgen {command.name}",
        usage=" ".join(["bayesgen", command.name, *map(str, places), "[flags]"]),
        description=textwrap.fill(command.description, 100),
        epilog="examples:" + textwrap.indent(command.examples, "  "),
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=28),
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
    )
    settings = described(command.settings)
    others = (setting.group for setting in settings.values() if setting.group not in GROUPS)
    titles = dict.fromkeys([*others, *GROUPS, "help"])  # one without flags is not shown
    groups = {title: parser.add_argument_group(title) for title in titles}
    config = {} if command.preset is None else {"--config": CONFIG}
    for name, word in {**command.words, **config}.items():
        where = groups[word.group] if name.startswith("-") else parser
        where.add_argument(name, metavar=word.metavar, help=word.help, **word.more)
    # the names that a text may be are not asked for in vain: packages that add some are imported
    asked = any(text.startswith(("-h", "--help")) for text in argv)
    usual = command.defaults({}) if asked else {}
    for name, setting in settings.items():
        hidden = name in command.hidden or (setting.advanced and "--help-all" not in argv)
        shown = asked and not hidden
        what = _help(setting, usual.get(name, setting.default)) if shown else argparse.SUPPRESS
        groups[setting.group].add_argument(_flag(name), dest=name, help=what, **_takes(setting))
    more = groups["help"]
    more.add_argument("-h", "--help", action="help", help="the flags that most people need")
    more.add_argument("--help-all", action="help", help="all flags")

    known, unknown = parser.parse_known_args(argv)
    for text in unknown:
        if text.startswith("-"):
            flag = text.split("=")[0]
            why = command.elsewhere(flag.removeprefix("--").replace("-", "_"))
            near = nearest(flag, parser._option_string_actions)
            raise UserError(f"{flag} {why}" if why else f"unknown flag {flag}{near} (see --help)")
    if unknown:
        raise UserError(f"unexpected argument '{unknown[0]}' (see --help)")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in vars(known).items()}


def early(argv: Sequence[str], *names: str) -> dict[str, Any]:
    """The values of these flags, before it is known which others there are; None where absent."""
    parser = Parser(add_help=False, allow_abbrev=False)
    for name in names:
        parser.add_argument(_flag(name))
    return vars(parser.parse_known_args(argv)[0])


def preset_classes() -> dict[str, type]:
    """The settings class of every preset that config.py may hold."""
    classes: dict[str, type] = {"CONFIG_BASELINE": BaselineSettings}
    for name, cls in settings_classes().items():
        classes |= {f"CONFIG_{name.upper()}{kind}": cls for kind in ("", "_LABELLED")}
    return classes


def _help(setting: Setting, default: Any) -> str:
    """What a flag does, the names that it takes, and its default."""
    text = setting.help
    if setting.names is not None:
        text += f": {', '.join(setting.names.known())}"
    text = as_flags(text).replace("%", "%%")
    if default is None or default is False:
        return text
    return f"{text} (default: {' '.join(default) if setting.many else default})"


def _takes(setting: Setting) -> dict[str, Any]:
    """What a flag may be followed by, as options of `add_argument`."""
    if setting.kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if setting.choices:
        return {"choices": setting.choices, **({"nargs": "+"} if setting.many else {})}
    if setting.many:
        # a text may be followed by a word that is none of it: one at a time
        return {"action": "append", "metavar": "TEXT"}
    return {"type": partial(_value, setting), "metavar": _kind(setting)}


def _value(setting: Setting, text: str) -> Any:
    """A flag's value: a number, a text, or a word that stands beside a number."""
    if text in setting.words:
        return text
    try:
        return setting.kind(text)
    except ValueError:
        must = f"invalid {setting.kind.__name__} value: '{text}'"
        if setting.words:
            must = f"must be {_kind(setting)}, not '{text}'"
        raise argparse.ArgumentTypeError(must) from None


def _kind(setting: Setting) -> str:
    """What a flag takes, in a word or two."""
    return "|".join((setting.kind.__name__.upper(), *setting.words))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


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
