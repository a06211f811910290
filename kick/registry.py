"""Tables of named things: a name is taken once, and an unknown name is answered with its neighbours.

Registry       filled while modules are imported
FileRegistry   its names and facts are read off decorators in files; a file is imported when it is needed
"""

from __future__ import annotations

import ast
import difflib
import importlib
import pkgutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")


def near(name: str, names: Iterable[str], most: int = 3) -> list[str]:
    """Up to `most` of `names` that look like `name`, nearest first; empty if none does."""
    return difflib.get_close_matches(name, list(names), n=most, cutoff=0.5)


MOST = 24  # names that a message lists


def unknown(kind: str, name: str, names: Iterable[str]) -> str:
    """The message for a name that is in no table: what was got, and what is expected."""
    names = sorted(set(names))
    close = near(name, names)
    hint = " (a method of your own comes with --plugins FILE_OR_FOLDER)" if kind == "method" else ""
    if close:
        return f"unknown {kind} {name!r}; did you mean {' or '.join(map(repr, close))}?{hint}"
    shown = ", ".join(names[:MOST]) + (f" and {len(names) - MOST} more" if len(names) > MOST else "")
    return f"unknown {kind} {name!r}; there is {shown or 'none'}{hint}"


class UnknownName(KeyError):
    """A name that is not in the table; its message names the neighbours."""

    def __str__(self) -> str:
        return str(self.args[0])


class NameTaken(ValueError):
    """A name that is in the table already."""


_tables: list[Registry[Any]] = []


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
        _tables.append(self)

    def add(self, name: str, item: T, origin: str = "") -> None:
        """Enter `item` under `name`.

        `origin` is the module that enters it, which `forget` takes back. Raises NameTaken if the name is
        taken.
        """
        if name in self._items:
            raise NameTaken(f"the {self.kind} name {name!r} is taken by {self._origin(name)}; choose another")
        self._items[name], self._origins[name] = item, origin

    def forget(self, origin: str) -> None:
        """Take out what that module has entered."""
        for name in [name for name, known in self._origins.items() if known == origin]:
            del self._items[name], self._origins[name]

    def _origin(self, name: str) -> str:
        """The one that entered the name, for people: a module of kick, or a file."""
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


def forget(origin: str) -> None:
    """Take out of every table what a module has entered, before it is imported anew."""
    for table in _tables:
        table.forget(origin)


def import_files(package: ModuleType) -> None:
    """Import every file of a package's folder, so that what is registered there is in its table."""
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


@dataclass(frozen=True)
class Declared:
    """A decorator with its arguments, all of them plain values, and the file that it is in."""

    file: Path
    line: int
    values: tuple[Any, ...]
    options: dict[str, Any]


def declared(folder: Path, decorator: str) -> Iterator[Declared]:
    """The classes and functions of a folder's files that have a decorator of that name; nothing is imported.

    Raises ValueError if an argument is not written out as a plain value.
    """
    for file in sorted(folder.rglob("*.py")):
        text = file.read_text("utf-8")
        if f"@{decorator}(" not in text:  # parsing takes longer
            continue
        for node in ast.parse(text, str(file)).body:
            for call in getattr(node, "decorator_list", ()):
                if (
                    isinstance(call, ast.Call)
                    and isinstance(call.func, ast.Name)
                    and call.func.id == decorator
                ):
                    yield _declared(file, call)


def _declared(file: Path, call: ast.Call) -> Declared:
    try:
        values = tuple(ast.literal_eval(one) for one in call.args)
        options = {str(one.arg): ast.literal_eval(one.value) for one in call.keywords}
    except (ValueError, TypeError) as error:
        name = ast.unparse(call.func)
        raise ValueError(
            f"{file}:{call.lineno}: the arguments of @{name} must be written out as plain values: {error}"
        ) from error
    return Declared(file, call.lineno, values, options)


class FileRegistry(Registry[T]):
    """A Registry of what the files of a package declare with a decorator named after their kind.

    Args:
        kind: what the things are, and the decorator's name.
        package: the package whose folder is searched, such as "kick.tasks".
        facts: the class that the decorator's arguments make; its first field is the name.

    Names and facts are known before any file is imported; `self[name]` imports the one that declares it.
    Things from elsewhere are entered by `enter`, as their modules are imported.
    """

    def __init__(self, kind: str, package: str, facts: type):
        super().__init__(kind)
        self.package = package
        self._make = facts
        self._entered: dict[str, Any] = {}

    @cached_property
    def _files(self) -> dict[str, tuple[str, Any]]:
        """The module and the facts of each name that a file of the package declares."""
        folder = Path(__file__).parents[1].joinpath(*self.package.split("."))
        found: dict[str, tuple[str, Any]] = {}
        for one in declared(folder, self.kind):
            facts = self._make(*one.values, **one.options)
            inner = one.file.relative_to(folder).with_suffix("").parts
            module = ".".join([self.package, *(inner[:-1] if inner[-1] == "__init__" else inner)])
            if facts.name in found:
                raise ValueError(f"the {self.kind} name {facts.name!r} is taken by {found[facts.name][0]}")
            found[facts.name] = (module, facts)
        return found

    def enter(self, facts: Any, item: T, origin: str) -> None:
        """Enter `item`, which the module `origin` defines, under its facts' name.

        Raises ValueError if another module has taken the name.
        """
        module, _ = self._files.get(facts.name, (origin, None))
        if module != origin:
            raise ValueError(f"the {self.kind} name {facts.name!r} is taken by {module}; choose another")
        self.add(facts.name, item, origin)
        self._entered[facts.name] = facts

    def facts(self) -> dict[str, Any]:
        """The facts of every name, sorted by name; nothing is imported."""
        known = {name: facts for name, (_, facts) in self._files.items()} | self._entered
        return dict(sorted(known.items()))

    def __getitem__(self, name: str) -> T:
        """The thing of that name, its file imported. Raises UnknownName with the nearest names."""
        if name not in self._items and name in self._files:
            importlib.import_module(self._files[name][0])
        if name not in self._items:
            raise UnknownName(unknown(self.kind, name, self))
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        return name in self._items or name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self.facts())

    def __len__(self) -> int:
        return len(self.facts())
