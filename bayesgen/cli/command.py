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
from typing import Any, Generic, NoReturn, TypeVar

from bayesgen.config import BaselineSettings, Setting, check_ranges, described
from bayesgen.config.fields import Chosen, combine, read_config
from bayesgen.errors import UserError, as_flags, nearest
from bayesgen.inference.registry import settings_classes

S = TypeVar("S")
CONFIG = {"metavar": "FILE", "help": "presets to use (default: ./config.py)", "group": "run"}
SOURCE = {"metavar": "RUN", "help": "a run's folder, or a checkpoint"}
GROUPS = (
    "model",
    "data",
    "prior",
    "sampler",
    "training",
    "text",
    "run",
    "evaluation",
    "settings",
    "help",
)
"""Headings of `--help`, in this order."""


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
            SystemExit: the help was asked for, and was printed.
        """
        command = self.adapt(self, argv)
        given = Parser(command, "--help-all" in argv).understand(argv)
        names = [name.lstrip("-").replace("-", "_") for name in command.words]
        words = {name: given.pop(name) for name in names if name in given}
        preset: Mapping[str, Any] = {}
        source = ""
        if command.preset is not None:
            presets, source = read_config(given.pop("config", None), preset_classes())
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
        return Given(chosen.settings, chosen.sources, command, words, given)


class Words(argparse.ArgumentParser):
    """argparse whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "))


class Parser(Words):
    """The words and flags of a command; the help shows advanced settings, or not."""

    def __init__(self, command: Command[Any], everything: bool) -> None:
        places = [name for name in command.words if not name.startswith("-")]
        shown = "".join(f" {command.words[name]['metavar']}" for name in places)
        super().__init__(
            prog=f"bayesgen {command.name}",
            usage=f"bayesgen {command.name}{shown} [flags]",
            description=textwrap.fill(command.description, 100),
            epilog="examples:" + textwrap.indent(command.examples, "  "),
            formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=28),
            allow_abbrev=False,
            add_help=False,
        )
        self.command = command
        config = {} if command.preset is None else {"--config": CONFIG}
        for name, options in {**command.words, **config}.items():
            plain = {key: value for key, value in options.items() if key != "group"}
            where = self.group(options["group"]) if name.startswith("-") else self
            where.add_argument(name, **({"default": argparse.SUPPRESS} | plain))
        for name, setting in described(command.settings).items():
            hidden = name in command.hidden or (setting.advanced and not everything)
            self.group(setting.group).add_argument(
                _flag(name),
                dest=name,
                default=argparse.SUPPRESS,
                help=argparse.SUPPRESS if hidden else None,  # written when it is printed
                **_takes(setting),
            )
        more = self.group("help")
        more.add_argument("-h", "--help", action="help", help="the flags that most people need")
        more.add_argument("--help-all", action="help", help="all flags")

    def group(self, title: str) -> argparse._ArgumentGroup:
        """The group of this title, which is made where there is none."""
        found = (group for group in self._action_groups if group.title == title)
        return next(found, None) or self.add_argument_group(title)

    def understand(self, argv: Sequence[str]) -> dict[str, Any]:
        """What was given, by name; an unknown flag is refused, naming the nearest."""
        known, unknown = self.parse_known_args(argv)
        for word in unknown:
            if not word.startswith("-"):
                continue
            flag = word.split("=")[0]
            why = self.command.elsewhere(flag.removeprefix("--").replace("-", "_"))
            if why:
                raise UserError(f"{flag} {why}")
            own = [o for action in self._actions for o in action.option_strings]
            raise UserError(f"unknown flag {flag}{nearest(flag, own)} (see --help)")
        if unknown:
            raise UserError(f"unexpected argument '{unknown[0]}' (see --help)")
        return {k: tuple(v) if isinstance(v, list) else v for k, v in vars(known).items()}

    def format_help(self) -> str:
        known, base = described(self.command.settings), self.command.defaults({})
        for action in self._actions:
            if action.dest in known and action.help is None:
                setting = known[action.dest]
                action.help = _help(setting, base.get(action.dest, setting.default))
        order = {title: place for place, title in enumerate(GROUPS)}
        self._action_groups.sort(key=lambda group: order.get(str(group.title), -1))
        return super().format_help()


def early(argv: Sequence[str], *names: str) -> dict[str, Any]:
    """The values of these flags, before it is known which others there are; None where absent."""
    parser = Words(add_help=False, allow_abbrev=False)
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
