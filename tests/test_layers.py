"""The shape of the code: imports point down, no cycles, no torch where none is needed, nothing too large."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = [
    "errors",
    "printable",
    "meaning",
    "records",
    "registry",
    "catalog",
    "plugins",
    "paths",
    "hub",
    "provenance",
    "stats",
    "model",
    "store",
    "tasks",
    "compress",
    "recover",
    "runtime",
    "engine",
    "matrix",
    "judge",
    "analysis",
    "sweep",
    "report",
    "interop",
    "study",
    "api",
    "cli",
]
LIGHT = {
    "errors",
    "printable",
    "meaning",
    "records",
    "registry",
    "catalog",
    "plugins",
    "paths",
    "hub",
    "stats",
    "store",
    "tasks",
    "engine.backend",
    "runtime.entry",
    "matrix",
    "analysis",
    "report",
    "sweep.contract",
    "sweep.loop",
    "sweep.interrupts",
    "sweep.progress",
    "api",
    "cli",
    "cli.running",
    "cli.reading",
    "cli.about",
    "cli.study",
    "cli.terminal",
    "cli.plan",
}
HEAVY = {"torch", "transformers", "accelerate", "compressed_tensors"}
OTHERS_CODE = ("kick.sweep.executors", "kick.sweep.worker", "kick.sweep.together", "kick.plugins")  # is run
LINES, FUNCTION_LINES, PARAMETERS = 400, 50, 7


def module_name(file: Path) -> str:
    """kick/engine/__init__.py -> kick.engine"""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in sorted((ROOT / "kick").rglob("*.py"))}
FILES = sorted([*MODULES.values(), *(ROOT / "tests").rglob("*.py")])


@cache
def text(file: Path) -> str:
    return file.read_text("utf-8")


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(text(file), str(file))


@cache
def walked(file: Path) -> tuple[ast.AST, ...]:
    """All nodes of a file."""
    return tuple(ast.walk(tree(file)))


def room(module: str) -> str:
    """kick.engine.prefix -> engine; the package itself has no room."""
    return [*module.split("."), ""][1]


def floor(name: str) -> int:
    assert name in FLOORS, f"kick/{name} has no floor: give it one in {Path(__file__).name}"
    return FLOORS.index(name)


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a module is imported: not those in functions or under TYPE_CHECKING."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from at_import(child)


@cache
def imported(module: str, everywhere: bool = True) -> frozenset[str]:
    """The modules that `module` imports: full names of ours, first names of others."""
    nodes = walked(MODULES[module]) if everywhere else at_import(tree(MODULES[module]))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: write imports in full"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in inner}
    return frozenset(name if name in MODULES else name.split(".")[0] for name in found)


# One test over all files for each rule, not one for each file: thousands of tests would take longer to
# hand out and to report than to run.


def test_imports_point_down():
    wrong = [
        f"{module} imports {other}, which is above it"
        for module in MODULES
        for other in sorted(imported(module) & set(MODULES))
        # of the package itself: its version
        if room(module) and room(other) and room(other) != room(module)
        if floor(room(other)) >= floor(room(module))
    ]
    assert wrong == []


def test_rooms_take_nothing_but_the_version_from_the_package_itself():
    for module in MODULES.keys() - {"kick"}:
        for node in walked(MODULES[module]):
            if isinstance(node, ast.ImportFrom) and node.module == "kick":
                for alias in node.names:
                    assert f"kick.{alias.name}" in MODULES or alias.name == "__version__", module


def test_no_module_imports_itself_by_a_detour():
    graph = {module: imported(module) & set(MODULES) for module in MODULES}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for other in sorted(graph[module] - {module, "kick"}):  # of the package itself: its version
                visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("name", sorted(LIGHT))
def test_reading_results_needs_no_torch(name):
    todo = [module for module in MODULES if f"{module}.".startswith(f"kick.{name}.")]
    if name == "cli":  # its other files are imported by the command that is asked for
        todo = ["kick.cli"]
    seen: set[str] = set(todo)
    while todo:
        module = todo.pop()
        found = imported(module, everywhere=False)
        assert not found & HEAVY, f"{module} imports {found & HEAVY} at its top, and {name} needs {module}"
        parents = {".".join(other.split(".")[:n]) for other in found for n in range(1, other.count(".") + 1)}
        fresh = ((found | parents) & set(MODULES)) - seen
        seen |= fresh
        todo += fresh


def test_files_and_functions_stay_small():
    wrong = [f"{file}: more than {LINES} lines" for file in FILES if len(text(file).splitlines()) > LINES]
    assert [*wrong, *(too_large for module in MODULES for too_large in large_functions(module))] == []


def large_functions(module: str) -> Iterator[str]:
    """What is too long or takes too much among a module's functions, in words."""
    for node in walked(MODULES[module]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            if length > FUNCTION_LINES:
                yield f"{module}: {node.name} has {length} lines"
            names = [a.arg for a in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]]
            names = [name for name in names if name not in ("self", "cls")]
            if len(names) > PARAMETERS and not typer_command(node):
                yield f"{module}: {node.name} takes {len(names)}"


def typer_command(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A command line's options are parameters to Typer: nobody calls such a function by hand."""
    return any(".command" in ast.unparse(decorator) for decorator in node.decorator_list)


def test_nothing_runs_foreign_code_or_swallows_errors():
    assert [found for module in MODULES for found in foreign_or_swallowed(module)] == []


def foreign_or_swallowed(module: str) -> Iterator[str]:
    """What of a module runs code or data as code, or catches all errors, in words."""
    if found := imported(module) & {"pickle", "dill", "marshal", "shelve"}:
        yield f"{module} imports {found}"
    for node in walked(MODULES[module]):
        where = f"{module}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in ("eval", "exec", "torch.load", "yaml.load") and not safe(node):
                yield f"{where}: {name}"
        trusting = isinstance(node, ast.keyword) and node.arg == "trust_remote_code"
        if trusting and ast.unparse(node.value) != "False":
            yield f"{where}: trust_remote_code"
        if isinstance(node, ast.ExceptHandler) and not module.startswith(OTHERS_CODE):
            caught = ast.unparse(node.type) if node.type else "everything"
            if caught in ("everything", "Exception", "BaseException"):
                yield f"{where} catches {caught}"


def test_a_class_name_means_one_thing():
    places: dict[str, list[str]] = {}
    for module, file in MODULES.items():
        for node in tree(file).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(module)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def safe(call: ast.Call) -> bool:
    """yaml.load with a loader whose name says that it is safe, nothing else."""
    loaders = [ast.unparse(given.value) for given in call.keywords if given.arg == "Loader"]
    return ast.unparse(call.func) == "yaml.load" and any("SafeLoader" in name for name in loaders)


def test_reading_results_brings_no_torch_in_by_others_either():
    program = f"import sys, {', '.join(f'kick.{name}' for name in sorted(LIGHT))}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not HEAVY & set(done.stdout.split())


def test_no_two_files_of_tests_have_one_name():
    """pytest imports a test file by its name alone, and collects nothing if two share one."""
    places: dict[str, list[str]] = {}
    for file in (ROOT / "tests").rglob("test_*.py"):
        places.setdefault(file.name, []).append(str(file.parent.relative_to(ROOT)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
