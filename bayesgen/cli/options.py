"""Settings from flags, environment, config.py and defaults, in this order of precedence.

The dataclasses of `bayesgen.settings` are the flags; argparse does the parsing.
"""

from __future__ import annotations

import argparse
import difflib
import os
import runpy
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, NoReturn, TypeVar, get_args, get_origin

from bayesgen.errors import UserError
from bayesgen.settings import SAMPLERS, BaselineSettings, Setting, described

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

ENVIRONMENT = {
    "base_dir": "BASE_DIR",
    "model": "MODEL_PATH",
    "meta_path": "META_PATH",
    "data_dir": "DATA_DIR",
    "device": "DEVICE",
    "wandb": "WANDB_AVAILABLE",
}
"""Settings that an environment variable can give."""

TRUE, FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


@dataclass(frozen=True)
class Chosen(Generic[T_co]):
    """Settings, and where each value that is not the default came from."""

    settings: T_co
    sources: dict[str, str]


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "))


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint in words, or nothing where no name is near."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


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
        options: dict[str, Any] = {"help": setting.help.replace("%", "%%") + shown, "dest": name}
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


def combine(
    cls: type[T],
    flags: Mapping[str, Any],
    config: Mapping[str, Any],
    config_name: str,
    base: Mapping[str, Any] | None = None,
    without: Container[str] = (),
) -> Chosen[T]:
    """Flags over the environment over config.py over `base` over the defaults.

    Args:
        without: settings that no environment variable gives.
    """
    known = described(cls)
    environment = {
        name: _from_text(os.environ[variable], known[name].kind, variable)
        for name, variable in ENVIRONMENT.items()
        if name in known and name not in without and os.environ.get(variable)
    }
    given = {name: value for name, value in flags.items() if name in known}
    settings = cls(**{**(base or {}), **config, **environment, **given})
    sources = (
        dict.fromkeys(config, config_name)
        | {name: f"environment {ENVIRONMENT[name]}" for name in environment}
        | {name: f"flag {flag(name)}" for name in given}
    )
    usual = {name: (base or {}).get(name, known[name].default) for name in sources}
    changed = {n: s for n, s in sources.items() if getattr(settings, n) != usual[n]}
    return Chosen(settings, changed)


def read_config(path: str | None) -> tuple[dict[str, dict[str, Any]], str]:
    """The presets of `path`, or of config.py in the working directory: name -> settings.

    Raises:
        UserError: the file is missing or broken, or holds a preset or a key that does not exist.
    """
    file = Path(path or "config.py")
    if not file.is_file():
        if path is not None:
            raise UserError(f"--config: no file at '{path}'")
        return {}, ""
    try:
        content = runpy.run_path(str(file))
    except Exception as error:  # whatever the user's own file raises
        line = getattr(error, "lineno", None)
        where = f" line {line}" if line else ""
        raise UserError(f"'{file}'{where}: {type(error).__name__}: {error}") from error
    presets = {k: v for k, v in content.items() if k.startswith("CONFIG_")}
    classes: dict[str, type] = {f"CONFIG_{name.upper()}": cls for name, cls in SAMPLERS.items()}
    classes |= {f"{name}_LABELLED": cls for name, cls in classes.items()}
    classes["CONFIG_BASELINE"] = BaselineSettings
    for name, preset in presets.items():
        if name not in classes:
            raise UserError(f"'{file}': unknown preset {name}{nearest(name, classes)}")
        if not isinstance(preset, dict):
            raise UserError(f"'{file}': {name} must be a dict of settings, not {preset!r}")
        known = described(classes[name])
        for key, value in preset.items():
            if key not in known:
                hint = nearest(str(key), known)
                raise UserError(f"'{file}': {name} has no setting '{key}'{hint}")
            preset[key] = _checked(value, known[key], f"'{file}': {name}['{key}']")
    return presets, file.name


def _checked(value: Any, setting: Setting, where: str) -> Any:
    """`value` as config.py gave it, if it has the setting's type."""
    kind = setting.kind
    if (value is None and setting.optional) or value in setting.words:
        return value
    if get_origin(kind) is Literal:
        if value in get_args(kind):
            return value
        raise UserError(f"{where} must be one of {', '.join(get_args(kind))}, not {value!r}")
    if get_origin(kind) is tuple:
        each = setting._replace(kind=get_args(kind)[0])
        if not isinstance(value, list | tuple):
            raise UserError(f"{where} must be a list, not {value!r}")
        return tuple(_checked(v, each, where) for v in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        raise UserError(f"{where} must be of type {kind.__name__}, not {value!r}")
    return value


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


def _from_text(text: str, kind: Any, variable: str) -> Any:
    """An environment variable's value."""
    if kind is not bool:
        return text
    if text.lower() not in TRUE | FALSE:
        raise UserError(f"{variable} must be true or false, not '{text}'")
    return text.lower() in TRUE


def _show(value: Any) -> str:
    return " ".join(value) if isinstance(value, tuple) else str(value)
