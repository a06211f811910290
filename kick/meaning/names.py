"""Which names a piece of code binds, for `kick.meaning`."""

from __future__ import annotations

import ast
from collections.abc import Iterable

_OWN_SCOPE = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)


def bound(body: Iterable[ast.AST], comprehensions: bool = False) -> set[str]:
    """The names that statements bind in their own scope: not those of functions and classes inside them.

    `comprehensions`: the names that the outermost comprehensions bind, instead of leaving them out.
    """
    found: set[str] = set()
    todo: list[tuple[ast.AST, bool]] = [(node, comprehensions) for node in body]
    while todo:
        node, inside = todo.pop()
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                found.add(node.name)
            case ast.Name(ctx=ast.Store() | ast.Del()):
                found.add(node.id)
            case ast.ExceptHandler(name=str() as name) | ast.MatchAs(name=str() as name):
                found.add(name)
            case ast.MatchStar(name=str() as name) | ast.MatchMapping(rest=str() as name):
                found.add(name)
        if isinstance(node, _OWN_SCOPE):
            continue
        if isinstance(node, _COMPREHENSIONS) and not inside:
            todo += [(one, False) for one in ast.walk(node) if isinstance(one, ast.NamedExpr)]
            continue
        inner_of = inside and not isinstance(node, _COMPREHENSIONS)
        todo += [(child, inner_of) for child in ast.iter_child_nodes(node)]
    return found


def imports(node: ast.Import | ast.ImportFrom) -> dict[str, tuple[str, str]]:
    """The names that an import binds: (module, name in it), the latter "" for the module itself."""
    if isinstance(node, ast.ImportFrom):
        return {one.asname or one.name: (node.module or "", one.name) for one in node.names}
    return {
        one.asname or one.name.partition(".")[0]: (one.name if one.asname else one.name.partition(".")[0], "")
        for one in node.names
    }


def root_name(node: ast.AST) -> str | None:
    """The name that an expression or the target of an assignment begins with: `a` of `a.b[0].c()`."""
    match node:
        case ast.Name():
            return node.id
        case ast.Expr() | ast.Attribute() | ast.Subscript() | ast.Starred():
            return root_name(node.value)
        case ast.Call():
            return root_name(node.func)
        case ast.Assign():
            return root_name(node.targets[0])
        case ast.AugAssign() | ast.AnnAssign():
            return root_name(node.target)
    return None
