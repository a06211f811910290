"""Tables of named things: a name is taken once, and an unknown name is answered with its neighbours."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")


def near(name: str, names: Iterable[str], most: int = 3) -> list[str]:
    """Up to `most` of `names` that look like `name`, nearest first; empty where none does."""
    return difflib.get_close_matches(name, list(names), n=most, cutoff=0.5)


MOST = 24  # names that a message lists


def unknown(kind: str, name: str, names: Iterable[str]) -> str:
    """The message for a name that is in no table: what was got, and what would be right."""
    names = sorted(set(names))
    close = near(name, names)
    if close:
        return f"unknown {kind} {name!r}; did you mean {' or '.join(map(repr, close))}?"
    shown = ", ".join(names[:MOST]) + (f" and {len(names) - MOST} more" if len(names) > MOST else "")
    return f"unknown {kind} {name!r}; there is {shown or 'none'}"


class UnknownName(KeyError):
    """A name that is not in the table; its message names the neighbours."""

    def __str__(self) -> str:
        return str(self.args[0])


class NameTaken(ValueError):
    """A name that another module has entered already."""


class Registry(Mapping[str, T]):
    """A mapping from names to things of one kind, filled while modules are imported.

    >>> methods = Registry("method")
    >>> methods.add("rtn", object())
    >>> "rtn" in methods
    True
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._items: dict[str, T] = {}
        self._origins: dict[str, str] = {}

    def add(self, name: str, item: T, origin: str = "") -> None:
        """Enter `item` under `name`.

        `origin` is the module that enters it: one that is imported anew may replace what it entered before.
        Raises NameTaken where another module has taken the name.
        """
        if name in self._items and not (origin and self._origins[name] == origin):
            raise NameTaken(f"the {self.kind} name {name!r} is taken by {self._origin(name)}; choose another")
        self._items[name], self._origins[name] = item, origin

    def _origin(self, name: str) -> str:
        """Who entered the name, for people: a module of kick, or a file."""
        origin = self._origins[name] or repr(self._items[name])
        module = sys.modules.get(origin)
        return origin if origin.startswith("kick.") else getattr(module, "__file__", None) or origin

    def __getitem__(self, name: str) -> T:
        """The thing of that name. Raises UnknownName with the nearest names."""
        try:
            return self._items[name]
        except KeyError:
            raise UnknownName(unknown(self.kind, name, self._items)) from None

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._items))

    def __len__(self) -> int:
        return len(self._items)


def import_files(package: ModuleType) -> None:
    """Import every file of a package's folder, so that what is registered there is in its table."""
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
