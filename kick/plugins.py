"""Methods, figures and tables from outside: files that register them as they are imported.

    load(["my_methods/", "spread.py"])     what `--plugins` names, beside installed packages

A file is imported by its path, from where the user named it and from nowhere else, under a module name that
follows from the path; it is imported anew only if it or a file beside it has changed. A folder is its
files without those of inner folders; one whose name begins with "_" holds what the others share. Installed
packages take part by an entry point of the group `kick.plugins` that names a module of theirs.
"""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import CodeType

from kick.errors import KickError
from kick.registry import NameTaken, forget

GROUP = "kick.plugins"
PREFIX = "kick_plugin_"


def load(paths: Sequence[str | Path]) -> tuple[str, ...]:
    """Import the plugins of installed packages, and those that `paths` name: files, or folders of files.

    Returns:
        The paths in full, for workers that may be started in another folder.

    Raises:
        KickError: a path that is not there or holds no Python file, or a file that cannot be imported: with
            the file, its line and the cause, on one line.
    """
    _load_packages()
    files = [file for path in paths for file in _files(Path(path))]
    for file in dict.fromkeys(files):
        _load_file(file)
    return tuple(str(Path(path).resolve()) for path in paths)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(file for file in path.glob("*.py") if not file.name.startswith("_"))
        if not files:
            raise KickError(f"--plugins: there is no Python file in the folder {str(path)!r}")
        return [file.resolve() for file in files]
    if not path.is_file():
        raise KickError(
            f"--plugins: {str(path)!r} does not exist; expected a Python file, or a folder of such"
        )
    if path.suffix != ".py":
        raise KickError(f"--plugins: {str(path)!r} is not a Python file; expected a name that ends in .py")
    return [path.resolve()]


class _Loader(SourceFileLoader):
    """Compiles what the file says now: a cached form is told from an old one by its second and size alone."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _load_file(file: Path) -> None:
    """Import the file, unless it is imported already and nothing beside it has changed since."""
    name = f"{PREFIX}{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    state = tuple((one.name, one.stat().st_mtime_ns, one.stat().st_size) for one in _beside(file))
    known = sys.modules.get(name)
    if known is not None and known.__spec__ is not None and known.__spec__.loader_state == state:
        return
    spec = spec_from_loader(name, _Loader(name, str(file)))
    if spec is None or spec.loader is None:
        raise KickError(f"--plugins: {file} cannot be imported as Python")
    spec.loader_state = state
    forget(name)
    module = module_from_spec(spec)
    sys.modules[name] = module  # where inspect looks for the source of a class
    with _imports_from(file.parent):
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # whatever a user's file raises is told as one line, never ignored
            del sys.modules[name]
            forget(name)
            raise KickError(_told(error, file)) from error


def _beside(file: Path) -> list[Path]:
    return sorted(file.parent.glob("*.py"))


@contextmanager
def _imports_from(folder: Path) -> Iterator[None]:
    """Files of the folder can be imported by their names, after everything that is installed.

    Raises KickError if a file of that name, in the folder of another plugin, is imported already.
    """
    others = {
        Path(str(module.__file__)).parent for name, module in sys.modules.items() if name.startswith(PREFIX)
    } - {folder}
    for file in folder.glob("*.py"):
        known = getattr(sys.modules.get(file.stem), "__file__", None)
        if known and Path(known).parent in others:
            raise KickError(f"--plugins: {file} and {known} have one name for imports; rename one of them")
        if known and Path(known).parent == folder:
            del sys.modules[file.stem]  # it may have changed
    before = list(sys.path)
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path[:] = before


def _load_packages() -> None:
    for point in entry_points(group=GROUP):
        try:
            point.load()
        except Exception as error:  # as above
            package = point.dist.name if point.dist else "an installed package"
            raise KickError(f"the plugin {point.name!r} of {package}: {_told(error, None)}") from error


def _told(error: Exception, file: Path | None) -> str:
    """The error at the last line of the user's own files that took part, on one line."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if file is None or Path(frame.filename).parent == file.parent]
    place, line = (own[-1].filename, own[-1].lineno) if own else (str(file), 1)
    text = " ".join(str(error).split())
    if isinstance(error, SyntaxError):
        place, line, text = error.filename or place, error.lineno or 1, error.msg
    kind = "" if isinstance(error, NameTaken | KickError) else f"{type(error).__name__}: "
    return f"{place}:{line}: {kind}{text}"
