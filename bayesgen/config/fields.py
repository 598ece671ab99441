"""What a field of a settings class says: its type, its help, the values that it may take."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from inspect import get_annotations
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from bayesgen.errors import UserError, nearest


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
