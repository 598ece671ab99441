"""Samplers, tasks, priors and metrics by name: ours, those of installed packages, and the user's.

Ours are named by where they lie and imported when they are first asked for, so that a list of names
costs nothing. A package adds its own by an entry point, of the group "bayesgen.samplers", say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, Protocol, TypeVar, cast

from bayesgen.errors import UserError, nearest


class Named(Protocol):
    """What a registry holds."""

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


def resolved(reference: Any) -> Any:
    """What "module:attribute" names, imported now; anything but a string is itself."""
    if not isinstance(reference, str):
        return reference
    module, _, attribute = reference.partition(":")
    return getattr(import_module(module), attribute)


class Registry(Mapping[str, T], Generic[T]):
    """Name -> item, in the order: built-in, of installed packages, registered.

    Args:
        setting: that names an item, for errors: `sampler`.
        built_in: name -> the item itself, or "module:attribute".
    """

    def __init__(self, setting: str, built_in: Mapping[str, str | T]) -> None:
        self.setting = setting
        self._built_in = built_in

    @cached_property
    def _items(self) -> dict[str, Any]:
        """Name -> item, or what names it until it is asked for."""
        installed = entry_points(group=f"bayesgen.{self.setting}s")
        return dict(self._built_in) | {p.name: p for p in installed if p.name not in self._built_in}

    def register(self, item: T) -> T:
        """Add `item` under its own name, in the place of one of that name; returns it."""
        self._items[item.name] = item
        return item

    def __getitem__(self, name: str) -> T:
        """The item called `name`; UserError, which names the nearest, where there is none."""
        if name not in self._items:
            raise UserError(
                f"`{self.setting}`: unknown {self.setting} '{name}'{nearest(name, self)}"
                f" ({', '.join(self)})"
            )
        item = self._items[name]
        self._items[name] = item = item.load() if isinstance(item, EntryPoint) else resolved(item)
        return cast(T, item)

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)
