"""A parsed file, the modules of kick that it imports, and their versions."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from kick.meaning.names import bound, imports, root_name

PACKAGE = Path(__file__).parents[1]
# top-level modules that hold no number: records and errors, tables of names and facts, paths, text
EXEMPT = frozenset(
    {"errors", "records", "registry", "catalog", "plugins", "paths", "printable", "provenance", "meaning", ""}
)


def versions(module: str) -> list[int]:
    """The VERSIONs of a module of kick and of all that it imports of kick, sorted; absent ones left out."""
    found = (read(file).version for file in used_modules(module).values())
    return sorted(version for version in found if version is not None)


@cache
def used_modules(module: str) -> dict[str, Path]:
    """A module of kick and those of kick that it imports, directly or not, each with its file."""
    found: dict[str, Path] = {}
    todo = [module]
    while todo:
        name = todo.pop()
        file = file_of(name)
        if name in found or file is None or exempt(name):
            continue
        found[name] = file
        todo += read(file).kick_imports
    return found


def exempt(module: str) -> bool:
    return [*module.split("."), ""][1] in EXEMPT


def file_of(module: str) -> Path | None:
    """The file of a module of kick; None where it is none."""
    first, *parts = module.split(".")
    place = PACKAGE.joinpath(*parts)
    files = (place.with_suffix(".py"), place / "__init__.py") if first == "kick" else ()
    return next((file for file in files if file.is_file()), None)


@dataclass(frozen=True, eq=False)
class Source:
    """A parsed file: the statements that make each top-level name, and what its imported names stand for."""

    file: Path
    definitions: dict[str, list[ast.stmt]]
    imported: dict[str, tuple[str, str]]  # name -> (module, name in it or "")
    version: int | None = None
    kick_imports: tuple[str, ...] = field(default=())


def read(file: Path) -> Source:
    """The parsed file, read again when it has changed."""
    return _read(_resolved(file), file.stat().st_mtime_ns)


@cache  # a look at every folder above the file, thousands of times for one plan
def _resolved(file: Path) -> Path:
    return file.resolve()


@cache
def _read(file: Path, _changed: int) -> Source:
    tree = ast.parse(file.read_text("utf-8"))
    definitions: dict[str, list[ast.stmt]] = {}
    imported: dict[str, tuple[str, str]] = {}
    for statement in _top(tree.body):
        if isinstance(statement, ast.Import | ast.ImportFrom):
            imported |= imports(statement)
            continue
        for name in bound([statement]):
            definitions.setdefault(name, []).append(statement)
        root = root_name(statement)  # `table.update(...)` and `table["a"] = 1` add to what `table` is
        if root in definitions and root not in bound([statement]):
            definitions[root].append(statement)
    return Source(file, definitions, imported, _version(definitions), tuple(_kick_imports(tree)))


def _top(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Top-level statements, imports for type checkers left out."""
    for statement in body:
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.dump(statement.test):
            continue
        yield statement


def _version(definitions: dict[str, list[ast.stmt]]) -> int | None:
    for statement in definitions.get("VERSION", ()):
        value = getattr(statement, "value", None)
        if isinstance(value, ast.Constant) and isinstance(value.value, int):
            return value.value
    return None


def _kick_imports(tree: ast.Module) -> dict[str, None]:
    """The modules of kick that a file imports anywhere, functions included."""
    found: dict[str, None] = {}
    for node in ast.walk(ast.Module(list(_top(tree.body)), [])):
        if isinstance(node, ast.Import | ast.ImportFrom):
            targets = [target for target in imports(node).values() if target[0].partition(".")[0] == "kick"]
            found |= {origin(*target)[0]: None for target in targets}
    return {name: None for name in found if file_of(name)}


def origin(module: str, name: str) -> tuple[str, str]:
    """The module of kick that an import is of, and the name in it, "" where the module itself is meant.

    What a package's __init__ only passes on is followed to where it is defined.
    """
    if not name or file_of(f"{module}.{name}"):
        return f"{module}.{name}".rstrip("."), ""
    file = file_of(module)
    passed = read(file).imported.get(name) if file and file.name == "__init__.py" else None
    return origin(*passed) if passed else (module, name)
