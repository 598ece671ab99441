"""What a field of a settings class says, and where its value comes from: flags, environment,
config.py and defaults, in this order of precedence."""

from __future__ import annotations

import math
import os
import types
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from inspect import get_annotations
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from bayesgen.errors import UserError, nearest

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


class Range(NamedTuple):
    """Values that a number may take: from `low` (itself excluded if `above`) to `high`."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False

    def refusal(self, value: float) -> str | None:
        """Why `value` is not allowed, or None."""
        if not math.isfinite(value):
            return f"must be a finite number, not {value}"
        if value < self.low or (self.above and value == self.low):
            return f"must be {'above' if self.above else 'at least'} {self.low:g}, not {value}"
        return f"must be at most {self.high:g}, not {value}" if value > self.high else None


class Names(NamedTuple):
    """Marks a text that must be one of some names; they are asked for when they are needed, since
    users and other packages add to them."""

    known: Callable[[], Sequence[str]]

    def refusal(self, value: str) -> str | None:
        """Why `value` is not allowed, or None."""
        known = self.known()
        if value in known:
            return None
        return f"must be one of {', '.join(known)}, not '{value}'{nearest(value, known)}"


class Advanced:
    """Marks a setting that few people need: `--help` leaves it to `--help-all`."""


Count = Annotated[int, Range(1)]
Steps = Annotated[int, Range(0)]
Seed = Annotated[int, Range(0, 2**63 - 1)]
Width = Annotated[float, Range(1e-12, 1e12)]
Positive = Annotated[float, Range(0, above=True)]
NonNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
Nucleus = Annotated[float, Range(0, 1, above=True)]
Splits = Literal["val", "train", "test"]


class Setting(NamedTuple):
    """One field of a settings class, as a command line needs it.

    `kind` is bool, int, float, str, a Literal, or a tuple of str or of a Literal; `optional` says
    that None is a value too, `words` which words stand beside a number, `names` which a text may
    be, and `group` under which heading `--help` lists it: the attribute `group` of the class that
    declares the field first.
    """

    kind: Any
    optional: bool
    help: str
    range: Range
    default: Any
    words: tuple[str, ...] = ()
    names: Names | None = None
    group: str = "settings"
    advanced: bool = False

    @property
    def text(self) -> str:
        """The help, with the names that there are."""
        return self.help if self.names is None else f"{self.help}: {', '.join(self.names.known())}"

    @property
    def many(self) -> bool:
        return get_origin(self.kind) is tuple

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of a Literal, or of each element of a tuple of them."""
        kind = get_args(self.kind)[0] if self.many else self.kind
        return get_args(kind) if get_origin(kind) is Literal else ()

    def refusal(self, value: Any) -> str | None:
        """Why `value`, of the right type, cannot be used; None if it can."""
        if value is None or value in self.words:
            return None
        if self.names is not None:
            return self.names.refusal(value)
        for one in (value if self.many else (value,)) if self.choices else ():
            if one not in self.choices:
                return f"must be one of {', '.join(self.choices)}, not {one!r}"
        return self.range.refusal(value) if self.kind in {int, float} else None


def described(cls: type) -> Mapping[str, Setting]:
    """Every field of a settings class, by name."""
    return _described(cls)


@cache
def _described(cls: type) -> Mapping[str, Setting]:
    hints = get_type_hints(cls, include_extras=True)
    result = {}
    for field in fields(cls):
        kind, extras = _unwrap(hints[field.name])
        optional, words = False, ()
        if get_origin(kind) in (Union, types.UnionType):
            optional = type(None) in get_args(kind)
            inner, *literals = (arg for arg in get_args(kind) if arg is not type(None))
            words = tuple(word for literal in literals for word in get_args(literal))
            kind, more = _unwrap(inner)
            extras += more
        text = next(e for e in extras if isinstance(e, str))
        allowed = next((e for e in extras if isinstance(e, Range)), Range())
        names = next((e for e in extras if isinstance(e, Names)), None)
        owner = [c for c in cls.__mro__ if field.name in get_annotations(c)][-1]
        group = getattr(owner, "group", "settings")
        result[field.name] = Setting(
            kind, optional, text, allowed, field.default, words, names, group, Advanced in extras
        )
    return result


def _unwrap(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    return (hint.__origin__, hint.__metadata__) if get_origin(hint) is Annotated else (hint, ())


def check_ranges(settings: Any) -> None:
    """Refuse numbers out of their range and words that are no choice, naming the setting.

    Raises:
        UserError: a value cannot be used.
    """
    for name, setting in described(type(settings)).items():
        refusal = setting.refusal(getattr(settings, name))
        if refusal:
            raise UserError(f"`{name}` {refusal}")


def refuse_idle(given: Mapping[str, Any], idle: Mapping[str, str]) -> None:
    """Refuse settings that were given and would change nothing.

    Args:
        given: settings that were chosen, by name.
        idle: those without effect, and why.

    Raises:
        UserError: a setting is in both.
    """
    for name, why in idle.items():
        if name in given:
            raise UserError(f"`{name}` {why}")


@dataclass(frozen=True)
class Chosen(Generic[T_co]):
    """Settings, and where each value that is not the default came from."""

    settings: T_co
    sources: dict[str, str]


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
        | by_flag(given)
    )
    usual = {name: (base or {}).get(name, known[name].default) for name in sources}
    changed = {n: s for n, s in sources.items() if getattr(settings, n) != usual[n]}
    return Chosen(settings, changed)


def by_flag(names: Iterable[str]) -> dict[str, str]:
    """The source of settings that were given as flags."""
    return {name: f"flag --{name.replace('_', '-')}" for name in names}


def read_config(
    path: str | None, classes: Mapping[str, type]
) -> tuple[dict[str, dict[str, Any]], str]:
    """The presets of `path`, or of config.py in the working directory: name -> settings.

    Args:
        classes: the settings class of each preset.

    Raises:
        UserError: the file is missing or broken, or holds a preset or a key that does not exist.
    """
    import runpy  # here, since few commands read a file

    file = Path(path or "config.py")
    if not file.is_file():
        if path is not None:
            raise UserError(f"`config`: no file at '{path}'")
        return {}, ""
    try:
        content = runpy.run_path(str(file))
    except Exception as error:  # whatever the user's own file raises
        line = getattr(error, "lineno", None)
        where = f" line {line}" if line else ""
        raise UserError(f"'{file}'{where}: {type(error).__name__}: {error}") from error
    presets = {k: v for k, v in content.items() if k.startswith("CONFIG_")}
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
    if setting.many:
        if not isinstance(value, list | tuple):
            raise UserError(f"{where} must be a list, not {value!r}")
        value = tuple(value)
    elif kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    elif not setting.choices and (
        not isinstance(value, kind) or (kind is not bool and isinstance(value, bool))
    ):
        raise UserError(f"{where} must be of type {kind.__name__}, not {value!r}")
    refusal = setting.refusal(value)
    if refusal:
        raise UserError(f"{where} {refusal}")
    return value


def _from_text(text: str, kind: Any, variable: str) -> Any:
    """An environment variable's value."""
    if kind is not bool:
        return text
    if text.lower() not in TRUE | FALSE:
        raise UserError(f"{variable} must be true or false, not '{text}'")
    return text.lower() in TRUE
