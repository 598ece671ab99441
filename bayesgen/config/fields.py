"""What a field of a settings class says, and where its value comes from: flags, the environment,
config.py and defaults, in this order of precedence."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from inspect import get_annotations
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

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


@dataclass(frozen=True)
class Range:
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


@dataclass(frozen=True)
class Names:
    """Marks a text that must be one of some names; they are asked for when they are needed, since
    users and other packages add to them."""

    known: Callable[[], Sequence[str]]


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
Precision = Literal["fp32", "bf16"]
Splits = Literal["val", "train", "test"]


@dataclass(frozen=True)
class Setting:
    """One field of a settings class, as a command line needs it.

    Attributes:
        kind: bool, int, float, str, a Literal, or (`many`) a tuple of str or of a Literal.
        choices: the values of a Literal, or of each element of a tuple of them.
        optional: whether None is a value too.
        words: that stand beside a number.
        group: the heading under which `--help` lists it: the attribute `group` of the class that
            declares the field first.
    """

    kind: Any
    many: bool
    choices: tuple[str, ...]
    optional: bool
    words: tuple[str, ...]
    help: str
    range: Range
    names: Names | None
    advanced: bool
    group: str
    default: Any

    def refusal(self, value: Any) -> str | None:
        """Why `value`, of the right type, cannot be used; None if it can."""
        if value is None or value in self.words:
            return None
        if self.names is not None:
            known = self.names.known()
            listed = f"must be one of {', '.join(known)}, not '{value}'"
            return None if value in known else f"{listed}{nearest(value, known)}"
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
    return {f.name: _setting(cls, f.name, hints[f.name], f.default) for f in fields(cls)}


def _setting(cls: type, name: str, hint: Any, default: Any) -> Setting:
    whole, *extras = get_args(hint)
    one_kind = get_origin(whole) in {None, tuple, Literal}
    first, *others = (whole,) if one_kind else get_args(whole)  # a number | None, or | words
    kind, *more = get_args(first) if get_origin(first) is Annotated else (first,)
    extras += more
    many = get_origin(kind) is tuple
    element = get_args(kind)[0] if many else kind
    declared_by = [c for c in cls.__mro__ if name in get_annotations(c)][-1]
    return Setting(
        kind,
        many,
        choices=get_args(element) if get_origin(element) is Literal else (),
        optional=type(None) in others,
        words=tuple(word for other in others for word in get_args(other)),
        help=next(e for e in extras if isinstance(e, str)),
        range=next((e for e in extras if isinstance(e, Range)), Range()),
        names=next((e for e in extras if isinstance(e, Names)), None),
        advanced=Advanced in extras,
        group=getattr(declared_by, "group", "settings"),
        default=default,
    )


def check_ranges(settings: Any) -> None:
    """Refuse numbers out of their range and words that are no choice, naming the setting."""
    for name, setting in described(type(settings)).items():
        refusal = setting.refusal(getattr(settings, name))
        if refusal:
            raise UserError(f"`{name}` {refusal}")


def refuse_idle(given: Container[str], idle: Mapping[str, str]) -> None:
    """Refuse settings that were given although they would change nothing: `idle` says why."""
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
    base: Mapping[str, Any],
    without: Container[str] = (),
) -> Chosen[T]:
    """Flags over the environment (but for `without`) over config.py over `base` over defaults."""
    known = described(cls)
    environment = {
        name: _from_text(os.environ[variable], known[name].kind, variable)
        for name, variable in ENVIRONMENT.items()
        if name in known and name not in without and os.environ.get(variable)
    }
    settings = cls(**{**base, **config, **environment, **flags})
    sources = (
        dict.fromkeys(config, config_name)
        | {name: f"environment {ENVIRONMENT[name]}" for name in environment}
        | by_flag(flags)
    )
    usual = {**{name: setting.default for name, setting in known.items()}, **base}
    changed = {n: source for n, source in sources.items() if getattr(settings, n) != usual[n]}
    return Chosen(settings, changed)


def by_flag(names: Iterable[str]) -> dict[str, str]:
    """The source of settings that were given as flags."""
    return {name: f"flag --{name.replace('_', '-')}" for name in names}


def read_config(
    path: str | None, classes: Mapping[str, type]
) -> tuple[dict[str, dict[str, Any]], str]:
    """The presets of `path`, or of config.py in the working directory (name -> settings), and the
    file's name; `classes` are those of all presets that there may be."""
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
            preset[key] = checked(value, known[key], f"'{file}': {name}['{key}']")
    return presets, file.name


def checked(value: Any, setting: Setting, where: str) -> Any:
    """`value` as Python code gave it, if it has the setting's type; `where` names it in errors."""
    kind, switch = setting.kind, isinstance(value, bool)
    if (value is None and setting.optional) or value in setting.words:
        return value
    if setting.many:
        if not isinstance(value, list | tuple):
            raise UserError(f"{where} must be a list, not {value!r}")
        value = tuple(value)
    elif kind is float and isinstance(value, int) and not switch:
        value = float(value)
    elif not setting.choices and (not isinstance(value, kind) or (kind is int and switch)):
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
