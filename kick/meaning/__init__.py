"""Digests of what code means, for keys: equal for equal meaning, whatever the code looks like or where it is.

    digest(function)              16 hex digits of a function or class and of all it uses in its own file
    module_digest(file)           the same of a whole file
    versions("kick.tasks.text")   the VERSIONs that code in another file of kick counts by

A comment, a docstring, an annotation, the formatting, the text of a raised error, a log message, the name of
a local or of a helper, an unused or reordered import, the name and place of a module change nothing. Names
of parameters, attributes and keyword arguments are kept, since callers use them.

Code in another file of kick counts by its module's `VERSION` (an integer at the module's top level, absent
at first) and by those of the modules that it imports. tests/test_meaning.py records each module's digest
beside its version and fails if one changes without the other. Standard library only; nothing is imported to
be read.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from kick.meaning.form import closure, hashed
from kick.meaning.source import file_of, read, used_modules, versions

__all__ = ["digest", "file_of", "module_digest", "used_modules", "versions"]


def digest(thing: Any) -> str:
    """16 hex digits of the meaning of a function or class defined at the top level of a file.

    Raises:
        ValueError: it has no source file, or is not defined at its file's top level.
    """
    thing = inspect.unwrap(thing)
    try:
        file, name = inspect.getsourcefile(thing), thing.__qualname__.partition(".")[0]
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{thing!r} has no source: {error}") from error
    if file is None:
        raise ValueError(f"{thing!r} has no source file")
    source = read(Path(file))
    if name not in source.definitions:
        raise ValueError(f"{name!r} is not defined at the top level of {file}")
    return hashed(closure([(source, name)]))


def module_digest(file: Path) -> str:
    """16 hex digits of the meaning of all definitions of a file, in whatever order they are.

    Its own VERSION and those of other files are left out.
    """
    source = read(file)
    names = [name for name in source.definitions if name != "VERSION"]
    return hashed(sorted(hashed(closure([(source, name)], counted=False)) for name in names))
