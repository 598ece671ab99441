"""Samplers, tasks, priors and metrics by name: ours, those of installed packages, and the user's.

Ours are named by where they lie and imported when they are first asked for, so that a list of names
costs nothing. A package adds its own by an entry point:

    [project.entry-points."bayesgen.samplers"]
    mysgld = "my_package.mysgld:SAMPLER"
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, Protocol, TypeVar

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
        self._registered: dict[str, T] = {}

    def register(self, item: T) -> T:
        """Add `item` under its own name, in the place of one of that name; returns it."""
        self._registered[item.name] = item
        return item

    def __getitem__(self, name: str) -> T:
        """The item called `name`.

        Raises:
            UserError: there is none; the message names the nearest.
        """
        if name not in self._registered:
            if name in self._built_in:
                self._registered[name] = resolved(self._built_in[name])
            elif name in self._installed:
                self._registered[name] = self._installed[name].load()
            else:
                raise UserError(
                    f"`{self.setting}`: unknown {self.setting} '{name}'{nearest(name, self)}"
                    f" ({', '.join(self)})"
                )
        return self._registered[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def _names(self) -> dict[str, None]:
        return dict.fromkeys((*self._built_in, *self._installed, *self._registered))

    @cached_property
    def _installed(self) -> dict[str, Any]:
        return {point.name: point for point in entry_points(group=f"bayesgen.{self.setting}s")}
