"""Settings from flags, environment, config.py and defaults, in this order of precedence.

The dataclasses of `bayesgen.config` are the flags; argparse does the parsing.
"""

from __future__ import annotations

import argparse
from collections.abc import Container, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NoReturn, get_args, get_origin

from bayesgen.config import Setting, described
from bayesgen.errors import UserError, as_flags, nearest


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "))


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def add_flags(
    parser: argparse.ArgumentParser,
    cls: type,
    base: Mapping[str, Any] | None = None,
    hidden: Container[str] = (),
) -> None:
    """One flag per field. Absent flags leave no trace in the parsed namespace.

    Args:
        base: defaults that stand in the place of the class's own.
        hidden: settings that have no effect and that --help leaves out.
    """
    for name, setting in described(cls).items():
        default = (base or {}).get(name, setting.default)
        shown = "" if default in (None, False) else f" (default: {_show(default)})"
        text = as_flags(setting.text).replace("%", "%%") + shown
        options: dict[str, Any] = {"help": text, "dest": name}
        if setting.kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif get_origin(setting.kind) is Literal:
            options["choices"] = get_args(setting.kind)
        elif get_origin(setting.kind) is tuple:
            choices = get_args(get_args(setting.kind)[0])
            # a text may be followed by a word that is none of it: one at a time
            options |= (
                {"nargs": "+", "choices": choices}
                if choices
                else {"action": "append", "metavar": "TEXT"}
            )
        elif setting.words:
            options |= {"type": partial(_number_or_word, setting), "metavar": _kind(setting)}
        else:
            options |= {"type": setting.kind, "metavar": _kind(setting)}
        if name in hidden:
            options["help"] = argparse.SUPPRESS
        parser.add_argument(flag(name), default=argparse.SUPPRESS, **options)


def parse(parser: Parser, argv: Sequence[str], elsewhere: Mapping[str, str]) -> dict[str, Any]:
    """The flags that were given, by setting name.

    Args:
        elsewhere: flags that exist but not here, and why: for a better message.

    Raises:
        UserError: an unknown flag (naming the nearest), a stray word, or a bad value.
    """
    known, unknown = parser.parse_known_args(argv)
    for word in unknown:
        if not word.startswith("-"):
            continue
        name = word.split("=")[0]
        if name in elsewhere:
            raise UserError(f"{name} {elsewhere[name]}")
        own = [o for action in parser._actions for o in action.option_strings]
        raise UserError(f"unknown flag {name}{nearest(name, own)} (see --help)")
    if unknown:
        raise UserError(f"unexpected argument '{unknown[0]}' (see --help)")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in vars(known).items()}


def _number_or_word(setting: Setting, text: str) -> Any:
    """A flag's value where words stand beside a number."""
    if text in setting.words:
        return text
    try:
        return setting.kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be {_kind(setting)}, not '{text}'") from None


def _kind(setting: Setting) -> str:
    """What a flag takes, in a word or two."""
    return "|".join((setting.kind.__name__.upper(), *setting.words))


def _show(value: Any) -> str:
    return " ".join(value) if isinstance(value, tuple) else str(value)
