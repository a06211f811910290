"""What variants cost to run: costs.json in a matrix's folder, written by `kick cost`; no cell needs it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from kick.store.files import Files

log = logging.getLogger("kick.store")
FILE = "costs.json"
_CELL = re.compile(r"[0-9a-f]{16}")


def read(files: Files, folder: str = "") -> list[dict[str, Any]]:
    """The records of every costs.json at and under a folder; a damaged file is left out and said."""
    found: list[dict[str, Any]] = []
    for path in _paths(files, folder):
        try:
            data = json.loads(files.read(path))
        except FileNotFoundError:
            continue
        except ValueError as error:
            log.warning("%s is damaged and left out (%s); `kick cost` measures again", path, error)
            continue
        records = data.get("costs") if isinstance(data, dict) else None
        found += [one for one in records if isinstance(one, dict)] if isinstance(records, list) else []
    return found


def _paths(files: Files, folder: str) -> list[str]:
    """The folder's own file, and those of the matrices in it."""
    inside = [name for name in files.names(folder) if not _CELL.fullmatch(name) and "." not in name]
    folders = [folder, *(f"{folder}/{name}" if folder else name for name in inside)]
    return [f"{one}/{FILE}" if one else FILE for one in folders]


def text(records: Sequence[Mapping[str, Any]]) -> str:
    """The content of a costs.json."""
    return json.dumps({"costs": list(records)}, indent=1, sort_keys=True)


def add(files: Files, folder: str, records: Sequence[Mapping[str, Any]]) -> None:
    """Keep these records beside those that are there, each once. Raises StoreError."""
    found: list[Mapping[str, Any]] = [*read(files, folder)]
    write(files, folder, [*found, *(one for one in records if one not in found)])


def write(files: Files, folder: str, records: Sequence[Mapping[str, Any]]) -> None:
    """Keep these records in place of the ones before. Raises StoreError."""
    files.write(f"{folder}/{FILE}" if folder else FILE, text(records).encode())
