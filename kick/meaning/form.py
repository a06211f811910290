"""The canonical form of code: lists, strings and numbers that are equal for equal meaning."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kick.meaning.names import bound, imports, root_name
from kick.meaning.source import PACKAGE, Source, exempt, file_of, origin, read, versions

# arguments that are words for people, or counted elsewhere in a key: positions and keywords, by function
PROSE = {
    "option": frozenset({0, "help"}),
    "method": frozenset(
        {0, "title", "paper", "version", "place", "bits", "chooses", "trains", "task_data", "serves", "look"}
        | {"feeds_forward", "last", "rotates", "calibrates"}
    ),
    "runtime": frozenset({0, "title", "paper", "version", "place", "affects", "look"}),
    "protocol": frozenset({0, "title", "version"}),
}
_DROPPED = frozenset(
    {"ctx", "kind", "type_comment", "type_params", "returns", "annotation", "simple", "level"}
)


def closure(start: list[tuple[Source, str]], counted: bool = True) -> list[Any]:
    """The forms of definitions and of those they use, in the order of first use.

    `counted`: with the VERSIONs of other files.
    """
    known = {(source.file, name): place for place, (source, name) in enumerate(start)}
    todo, forms = list(start), []
    for source, name in todo:  # grows while it is walked
        form = _Form(source, known, todo, counted)
        forms.append([form.statement(one, {}) for one in source.definitions[name]])
    return forms


def hashed(form: Any) -> str:
    """16 hex digits of the sha256 of a form."""
    text = json.dumps(form, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


Names = dict[str, list[Any]]  # what a name of an inner scope stands for


class _Form:
    """Turns the statements of one definition into lists, strings and numbers."""

    def __init__(
        self,
        source: Source,
        known: dict[tuple[Path, str], int],
        todo: list[tuple[Source, str]],
        counted: bool,
    ) -> None:
        self.source, self.known, self.todo, self.counted = source, known, todo, counted
        self.locals = 0

    # -- names

    def name(self, name: str, names: Names) -> list[Any]:
        if name in names:
            meant = names[name]
            if meant == ["local"]:  # numbered at its first use
                self.locals += 1
                meant += [self.locals]
            return list(meant) if meant[0] != "import" else self.imported(*meant[1:])
        if name in self.source.definitions:
            return self.own(self.source, name)
        if name in self.source.imported:
            return self.imported(*self.source.imported[name])
        return ["name", name]

    def own(self, source: Source, name: str) -> list[Any]:
        place = (source.file, name)
        if place not in self.known:
            self.known[place] = len(self.todo)
            self.todo.append((source, name))
        return ["own", self.known[place]]

    def imported(self, module: str, name: str) -> list[Any]:
        """What an import stands for: a user's file beside this one by its content, kick's modules by their
        versions and the last part of the name, all others by their full name."""
        beside = self.source.file.parent / f"{module}.py"
        if "." not in module and beside.is_file() and PACKAGE not in beside.parents:
            other = read(beside)
            if name in other.definitions:
                return self.own(other, name)
            return ["beside", str(beside), hashed(closure([(other, one) for one in other.definitions]))]
        if module.partition(".")[0] != "kick":
            return ["import", f"{module}.{name}" if name else module]
        target, last = origin(module, name)
        return self.of_kick(target, last) if last else ["module", target]

    def of_kick(self, module: str, name: str) -> list[Any]:
        counts = self.counted and not exempt(module) and file_of(module) is not None
        return ["kick", name, *(versions(module) if counts else ())]

    def attribute(self, node: ast.Attribute, names: Names) -> list[Any]:
        value = self.node(node.value, names)
        match value:
            case ["beside", file, _] if node.attr in read(Path(file)).definitions:
                return self.own(read(Path(file)), node.attr)
            case ["import", whole]:
                return ["import", f"{whole}.{node.attr}"]
            case ["module", module]:
                target, last = origin(module, node.attr)
                return self.of_kick(target, last) if last else ["module", target]
        return ["Attribute", value, node.attr]

    # -- nodes

    def statement(self, node: ast.AST, names: Names) -> Any:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                return [self.defined(node.name, names), *self.function(node, names)]
            case ast.ClassDef():
                return [self.defined(node.name, names), *self.a_class(node, names)]
            case ast.AnnAssign():
                target = self.node(node.target, names)
                return ["Assign", [target], self.node(node.value, names)] if node.value else None
            case ast.Assign():
                return ["Assign", [self.node(t, names) for t in node.targets], self.node(node.value, names)]
            case ast.Raise(exc=ast.Call() as call):
                told = [a for a in call.args if not _is_text(a)]
                return ["Raise", self.node(call.func, names), *(self.node(a, names) for a in told)]
            case ast.Import() | ast.ImportFrom() | ast.Pass() | ast.Global() | ast.Nonlocal():
                return None
            case ast.Expr(value=ast.Constant()):
                return None
            case ast.Expr(value=ast.Call() as call) if self.is_log(call, names):
                return None
        return self.generic(node, names)

    def node(self, node: Any, names: Names) -> Any:
        match node:
            case None:
                return None
            case ast.Name():
                return self.name(node.id, names)
            case ast.Attribute():
                return self.attribute(node, names)
            case ast.Constant(value=str() as text):
                return ["str", text]
            case ast.Constant():
                return [type(node.value).__name__, repr(node.value)]
            case ast.JoinedStr():
                return ["text", *self.parts(node.values, names)]
            case ast.Lambda():
                inner = {arg.arg: ["local"] for arg in _arguments(node.args)}
                return ["Lambda", self.node(node.args, names | inner), self.node(node.body, names | inner)]
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                fresh = bound([ast.Expr(node)], comprehensions=True)
                return self.generic(node, names | {name: ["local"] for name in fresh})
            case ast.arg():
                return names.get(node.arg) and self.name(node.arg, names)
            case ast.Call():
                return self.call(node, names)
            case ast.stmt():
                return self.statement(node, names)
            case ast.AST():
                return self.generic(node, names)
        return node

    def generic(self, node: ast.AST, names: Names) -> list[Any]:
        form: list[Any] = [type(node).__name__]
        for name, value in ast.iter_fields(node):
            if name in _DROPPED:
                continue
            if isinstance(value, list):
                made = [self.node(one, names) for one in value]
                value = [one for one in made if one is not None] if name in _BODIES else made
            else:
                value = self.bound_name(name, value, names)
            if value is not None and value not in ([], ["text"]):  # an empty format is written in two ways
                form.append([name, value])
        return form

    def bound_name(self, field: str, value: Any, names: Names) -> Any:
        """A field's value; a name bound by `except ... as` or by a pattern is a plain text in the tree."""
        if field in ("name", "rest") and isinstance(value, str):
            return self.name(value, names)
        return self.node(value, names)

    def call(self, node: ast.Call, names: Names) -> list[Any]:
        function = self.node(node.func, names)
        words = PROSE.get(function[1], frozenset()) if function[0] == "kick" else frozenset()
        args = [self.node(one, names) for place, one in enumerate(node.args) if place not in words]
        given = [[one.arg, self.node(one.value, names)] for one in node.keywords if one.arg not in words]
        return ["Call", function, args, given]

    def parts(self, values: list[ast.expr], names: Names) -> Iterator[Any]:
        """The parts of an f-string, neighbouring texts as one: Python versions cut them differently."""
        text = ""
        for value in values:
            if isinstance(value, ast.Constant):
                text += str(value.value)
                continue
            if text:
                yield text
            text = ""
            yield self.node(value, names)
        if text:
            yield text

    def is_log(self, call: ast.Call, names: Names) -> bool:
        """Whether a call only writes to a log: its root is `logging`, `warnings` or a logger of this file."""
        root = root_name(ast.Expr(call))
        if root is None or root in names or not isinstance(call.func, ast.Attribute):
            return False
        if self.source.imported.get(root, ("", ""))[0] in ("logging", "warnings"):
            return True
        return any("getLogger" in ast.dump(one) for one in self.source.definitions.get(root, ()))

    def function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, names: Names) -> list[Any]:
        inner: Names = {}
        for name in bound(node.body):
            inner[name] = ["local"]
        for statement in ast.walk(node):
            if isinstance(statement, ast.Import | ast.ImportFrom):
                inner |= {name: ["import", *target] for name, target in imports(statement).items()}
        inner |= {arg.arg: ["parameter", arg.arg] for arg in _arguments(node.args)}
        for statement in node.body:
            if isinstance(statement, ast.Global):
                inner = {name: meant for name, meant in inner.items() if name not in statement.names}
            if isinstance(statement, ast.Nonlocal):
                inner |= {name: names[name] for name in statement.names if name in names}
        decorators = [self.node(one, names) for one in node.decorator_list]
        every = names | inner
        args = self.generic(node.args, every)
        body = [form for one in node.body if (form := self.statement(one, every)) is not None]
        return [type(node).__name__, decorators, args, body]

    def defined(self, name: str, names: Names) -> Any:
        """How a definition is named: by its number inside a function, not at all at the top level."""
        return self.name(name, names) if name in names else ""

    def a_class(self, node: ast.ClassDef, names: Names) -> list[Any]:
        body = []
        inside = names | {name: ["attribute", name] for name in bound(node.body)}
        for one in node.body:
            if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef):
                form: Any = ["method", one.name, self.function(one, names)]
            elif isinstance(one, ast.AnnAssign):
                form = ["field", self.node(one.target, inside), self.node(one.value, inside)]
            else:
                form = self.statement(one, inside)
            body += [form] if form is not None else []
        bases = [self.node(one, names) for one in node.bases]
        given = [[one.arg, self.node(one.value, names)] for one in node.keywords]
        decorators = [self.node(one, names) for one in node.decorator_list]
        return ["ClassDef", decorators, bases, given, body]


_BODIES = frozenset({"body", "orelse", "finalbody"})


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _arguments(args: ast.arguments) -> list[ast.arg]:
    every = [*args.posonlyargs, *args.args, *args.kwonlyargs]
    return every + [one for one in (args.vararg, args.kwarg) if one]
