"""Settings as flags.

The settings' dataclasses are the flags. argparse does the parsing; flags that are absent leave no
trace, so that the environment, config.py and the defaults can follow (`config.provenance`).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

from bayesgen.config import Setting, described
from bayesgen.errors import UserError, as_flags, nearest

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


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, and whose flags stand in groups."""

    def format_help(self) -> str:
        order = {title: place for place, title in enumerate(GROUPS)}
        self._action_groups.sort(key=lambda group: order.get(str(group.title), -1))
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "))

    def group(self, title: str) -> argparse._ArgumentGroup:
        """The group of this title, which is made where there is none."""
        found = (group for group in self._action_groups if group.title == title)
        return next(found, None) or self.add_argument_group(title)


def add_flags(
    parser: Parser,
    cls: type,
    base: Mapping[str, Any],
    hidden: Container[str],
    everything: bool,
) -> None:
    """One flag per field, in the groups of their classes.

    Args:
        base: defaults that stand in the place of the class's own.
        hidden: settings that have no effect and that help leaves out.
        everything: whether help shows advanced settings, too.
    """
    for name, setting in described(cls).items():
        default = base.get(name, setting.default)
        text = as_flags(setting.text).replace("%", "%%")
        if default is not None and default is not False:
            text += f" (default: {' '.join(default) if setting.many else default})"
        if name in hidden or (setting.advanced and not everything):
            text = argparse.SUPPRESS
        options: dict[str, Any] = {"help": text, "dest": name}
        if setting.kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif setting.choices:
            options |= {"choices": setting.choices, **({"nargs": "+"} if setting.many else {})}
        elif setting.many:
            # a text may be followed by a word that is none of it: one at a time
            options |= {"action": "append", "metavar": "TEXT"}
        else:
            options |= {"type": partial(_value, setting), "metavar": _kind(setting)}
        parser.group(setting.group).add_argument(_flag(name), default=argparse.SUPPRESS, **options)


def parse(
    parser: Parser, argv: Sequence[str], elsewhere: Callable[[str], str | None]
) -> dict[str, Any]:
    """What was given, by setting name.

    Args:
        elsewhere: says of the name of a setting that does not exist here where it does.

    Raises:
        UserError: an unknown flag (naming the nearest), a stray word, or a bad value.
    """
    known, unknown = parser.parse_known_args(argv)
    for word in unknown:
        if not word.startswith("-"):
            continue
        name = word.split("=")[0]
        why = elsewhere(name.removeprefix("--").replace("-", "_"))
        if why:
            raise UserError(f"{name} {why}")
        own = [o for action in parser._actions for o in action.option_strings]
        raise UserError(f"unknown flag {name}{nearest(name, own)} (see --help)")
    if unknown:
        raise UserError(f"unexpected argument '{unknown[0]}' (see --help)")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in vars(known).items()}


def early(argv: Sequence[str], *names: str) -> dict[str, Any]:
    """The values of these flags, before it is known which others there are; None where absent."""
    parser = Parser(add_help=False, allow_abbrev=False)
    for name in names:
        parser.add_argument(_flag(name))
    return vars(parser.parse_known_args(argv)[0])


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
