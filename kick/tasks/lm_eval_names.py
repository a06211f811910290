"""The names of lm-eval's own tasks, groups and tags, without importing or indexing lm-eval.

Indexing its 14,000 task files takes it 15 seconds. Here they are read as text once per version of lm-eval,
and the names kept in `<cache>/lm-eval-<version>-names.txt`.
"""

from __future__ import annotations

import logging
import os
import re
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from kick.errors import KickError
from kick.paths import cache_root, keep

log = logging.getLogger(__name__)

# `task: name`, `- group: name`, and the items of lists, which hold tags and members of groups
_KEY = r"^[ \t]*(?:- *)?['\"]?(?:task|group|tag)['\"]?[ \t]*:[ \t]*"
_WORD = r"[^\s'\"#,:\[\]{}]+"
_NAMED = re.compile(rf"{_KEY}['\"]?({_WORD})", re.MULTILINE)
_ITEM = re.compile(rf"^[ \t]*- *['\"]?({_WORD})['\"]?[ \t]*(?:#.*)?$", re.MULTILINE)
_SHORT_LIST = re.compile(rf"{_KEY}\[([^\]]*)\]", re.MULTILINE)
_SUFFIXES = ("", ".yaml")  # included files have no suffix


def names() -> frozenset[str]:
    """The names that lm-eval may know; some are those of its members and lists that cannot be asked for."""
    file = cache_root() / f"lm-eval-{version('lm_eval')}-names.txt"
    if file.is_file():
        return frozenset(file.read_text("utf-8").split("\n"))
    log.warning("reading the names of lm-eval's tasks, once for this version: a few seconds")
    found = _read()
    keep(file, "\n".join(sorted(found)))
    return found


def _read() -> frozenset[str]:
    package = find_spec("lm_eval")  # not imported: that takes seconds
    if package is None or not package.submodule_search_locations:
        raise KickError("lm_eval is not installed; run: pip install lm_eval")
    folder = package.submodule_search_locations[0]
    found: set[str] = set()
    for place, _, files in os.walk(Path(folder) / "tasks"):
        for name in files:
            if os.path.splitext(name)[1] in _SUFFIXES:
                text = Path(place, name).read_text("utf-8")
                found.update(_NAMED.findall(text), _ITEM.findall(text))
                for several in _SHORT_LIST.findall(text):
                    found.update(re.findall(_WORD, several))
    return frozenset(found)
