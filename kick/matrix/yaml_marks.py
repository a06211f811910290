"""YAML as plain values, with the line of every key and item beside them, and its traps refused.

Safe by construction: the document is composed to nodes, and only null, true, false, numbers, text, lists and
mappings are made of them. What YAML does silently is refused: a key given twice (the first would vanish), an
unquoted 2:4 (it reads the number 124), an octal 010. And 1e-5, which YAML 1.1 takes for text, is a number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import yaml

from kick.errors import KickError

T = TypeVar("T")
Path = tuple[str | int, ...]

MOST_NODES = 200_000
_CORE = "tag:yaml.org,2002:"
_EXPONENT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+")
_SEXAGESIMAL = re.compile(r"[-+]?\d{1,99}(:\d{1,2})+(\.\d*)?")
_OCTAL = re.compile(r"[-+]?0[0-7_]+")


@dataclass(frozen=True)
class Marks:
    """Lines of everything in a file. A path is the keys and positions to it: ("variants", 1, "bits").

    `numbered` False: there is no file whose lines a person could look up, so that messages name keys alone.
    """

    source: str
    lines: Mapping[Path, int]
    texts: Mapping[Path, str]  # scalars as they were written
    numbered: bool = True

    def line(self, path: Path) -> int:
        """The line of `path`, or of the nearest thing around it; lines count from 1."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def place(self, path: Path) -> str:
        """The place of `path`, for a message: "line 7", or without lines "variants[1]"."""
        return f"line {self.line(path)}" if self.numbered else spell(path)

    def clean(self, path: Sequence[str | int]) -> Path:
        """`path` without elements that are not in the file (pydantic adds the names of union branches)."""
        found: Path = ()
        for element in path:
            if (*found, element) in self.lines:
                found = (*found, element)
        return found


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a file: what was got and what would be right."""

    path: Path
    message: str


MANY = 3  # places that are listed each for itself


def refusal(marks: Marks, problems: Sequence[Problem]) -> KickError:
    """One error with all the problems, a line each, in the order of the file: `file:line: key: message`.

    If many say the same (a missing folder) only the first is listed.
    """
    ordered = sorted(problems, key=lambda problem: marks.line(problem.path))
    alike: dict[str, dict[str, None]] = {}
    for problem in ordered:
        alike.setdefault(problem.message, {})[spell(problem.path)] = None
    lines: dict[str, None] = {}
    for problem in ordered:
        first, *others = alike[problem.message]
        key = spell(problem.path)
        start = f"{marks.source}:{marks.line(problem.path)}" if marks.numbered else marks.source
        text = f"{start}: {key + ': ' if key else ''}{problem.message}"
        if len(others) < MANY:
            lines[text] = None
        elif key == first:
            lines[f"{text} (and the same of {len(others)} more, to {others[-1]})"] = None
    return KickError("\n".join(lines))


def spell(path: Path) -> str:
    """A path as people write it: variants[1].bits."""
    text = ""
    for element in path:
        text += f"[{element}]" if isinstance(element, int) else f".{element}" if text else element
    return text


def show(value: Any) -> str:
    """A value as YAML has it, cut to a readable length."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        text = repr(value)
    else:
        text = yaml.safe_dump(
            value, default_flow_style=True, width=10_000, sort_keys=False, allow_unicode=True
        )
        text = text.removesuffix("\n").removesuffix("\n...")
    return text if len(text) <= 80 else text[:77] + "..."


def read(text: str, source: str) -> tuple[Any, Marks, list[Problem]]:
    """The document's value, its marks, and the problems found; values with a problem are left plausible.

    Raises KickError if the text is not YAML at all: then there is nothing more to check.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise KickError(f"{source}:{_error_line(error, text)}: not YAML: {_error_text(error)}") from None
    except RecursionError:
        raise KickError(f"{source}:1: nested too deeply for a matrix file") from None
    if node is None:
        raise KickError(
            f"{source}:1: the file is empty; a matrix has at least name, model, tasks and variants"
        )
    walk = _Walk(source)
    value = walk.value(node, ())
    return value, Marks(source, walk.lines, walk.texts), walk.problems


def _error_line(error: yaml.YAMLError, text: str) -> int:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        if mark is not None:
            return int(mark.line) + 1
    position = error.position if isinstance(error, yaml.reader.ReaderError) else 0
    return text[:position].count("\n") + 1


def _error_text(error: yaml.YAMLError) -> str:
    parts = [getattr(error, "context", None), getattr(error, "problem", None)]
    said = "; ".join(part for part in parts if part)
    return said or str(error).split("\n")[0]


class _Walk:
    """Walk from nodes to values that notes lines and problems."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines: dict[Path, int] = {}
        self.texts: dict[Path, str] = {}
        self.problems: list[Problem] = []
        self._open: set[int] = set()  # nodes being walked: an alias to one of them is a ring
        self._scalars = yaml.constructor.SafeConstructor()

    def value(self, node: yaml.Node, path: Path) -> Any:
        """The plain value of `node`, which is at `path`."""
        self.lines.setdefault(path, node.start_mark.line + 1)
        if len(self.lines) > MOST_NODES:
            where = f"{self.source}:{self.lines[path]}"
            raise KickError(
                f"{where}: more than {MOST_NODES} values in one file; are there aliases of aliases?"
            )
        if isinstance(node, yaml.ScalarNode):
            self.texts[path] = node.value
            return self._scalar(node, path)
        if node.tag not in (_CORE + "map", _CORE + "seq"):
            return self._refuse(path, f"tag {_tag(node)} is not allowed; plain values only", None)
        if id(node) in self._open:
            return self._refuse(path, "an alias (*) inside its own anchor (&); write the value out", None)
        self._open.add(id(node))
        try:
            return self._mapping(node, path) if isinstance(node, yaml.MappingNode) else self._list(node, path)
        finally:
            self._open.discard(id(node))

    def _list(self, node: yaml.Node, path: Path) -> list[Any]:
        return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == _CORE + "merge":
                self.lines.setdefault((*path, "<<"), line)
                self._refuse((*path, "<<"), "a key must be plain text; write merged keys (<<) out", None)
                continue
            name = key_node.value
            inner = (*path, name)
            if name in values:
                first = self.lines[inner]
                self.lines[inner] = line
                self._refuse(inner, f"given twice: lines {first} and {line}; keep one", None)
                continue
            self.lines[inner] = line
            values[name] = self.value(value_node, inner)
        return values

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        kind = node.tag.removeprefix(_CORE)
        if kind in ("int", "float") and _SEXAGESIMAL.fullmatch(node.value):
            return self._sexagesimal(node, path)
        if kind == "int" and _OCTAL.fullmatch(node.value):
            right = f"{node.value.lstrip('+-0_') or '0'}, or in quotes if it is text"
            return self._refuse(path, f"got {node.value}, which YAML reads in base 8; write {right}", 0)
        if kind == "str" and node.style is None and _EXPONENT.fullmatch(node.value):
            return self._finite(float(node.value), node, path)
        if kind in ("str", "timestamp"):
            return node.value
        if kind not in ("null", "bool", "int", "float"):
            return self._refuse(path, f"tag {_tag(node)} is not allowed; plain values only", node.value)
        try:
            value = self._scalars.construct_object(node)
        except (ValueError, KeyError, yaml.YAMLError):
            return self._refuse(path, f"got {node.value[:40]!r}; not a valid {kind}", None)
        return self._finite(value, node, path) if kind == "float" else value

    def _sexagesimal(self, node: yaml.ScalarNode, path: Path) -> str:
        number = self._scalars.construct_object(node)
        said = f"got {node.value} without quotes, which YAML reads as the number {number}"
        return self._refuse(path, f'{said}; did you mean "{node.value}" in quotes?', str(node.value))

    def _finite(self, value: float, node: yaml.ScalarNode, path: Path) -> float:
        if math.isfinite(value):
            return value
        return self._refuse(path, f"got {node.value}; expected: a finite number", 0.0)

    def _refuse(self, path: Path, message: str, instead: T) -> T:
        self.problems.append(Problem(path, message))
        return instead


def _tag(node: yaml.Node) -> str:
    return node.tag.replace(_CORE, "!!")
