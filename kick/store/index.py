"""Data derived of a whole store, each kind in one file; deleting either loses nothing.

index.parquet       every run.json, rebuilt if one changed. One row per cell: path, stamp (changes when the
                    file changes), run (the text of run.json). It saves opening ten thousand small files.
statistics.parquet  what readers computed of the samples: name (of all that it was computed of) and text. It
                    saves ten thousand paired bootstraps, and reading the statistics.json of every cell, where
                    the worker that measured it noted the same.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from kick.store.files import Files, StoreError

log = logging.getLogger("kick.store")
INDEX, STATISTICS, NOTES = "index.parquet", "statistics.parquet", "statistics.json"
SMALL = 200  # cells; below, opening the files themselves costs nothing


def texts(files: Files, folder: str = "") -> Iterator[tuple[str, bytes]]:
    """(path of run.json, its bytes) of each cell under the folder, by path."""
    stamps = files.stamps(folder, "run.json")
    if len(stamps) < SMALL:
        for path in stamps:
            found = _read(files, path)
            if found is not None:
                yield path, found
        return
    table = _fresh(files, folder, stamps)
    for batch in table.to_batches(max_chunksize=1024):
        yield from zip(batch.column("path").to_pylist(), batch.column("run").to_pylist(), strict=True)


def _read(files: Files, path: str) -> bytes | None:
    try:
        return files.read(path)
    except FileNotFoundError:  # removed since it was listed
        return None


def _fresh(files: Files, folder: str, stamps: dict[str, str]) -> pa.Table:
    """The index, with what changed read anew and kept if the store can be written."""
    old = _load(files, _path(folder, INDEX), SCHEMA)
    known = dict(zip(old.column("path").to_pylist(), old.column("stamp").to_pylist(), strict=True))
    changed = [one for one, stamp in stamps.items() if known.get(one) != stamp]
    if not changed and len(known) == len(stamps):
        return old
    gone = set(changed) | (known.keys() - stamps.keys())
    kept = old.filter(pa.array([one not in gone for one in known], pa.bool_()))
    new = [(one, stamps[one], found) for one in changed if (found := _read(files, one)) is not None]
    table = pa.concat_tables([kept, _table(new, SCHEMA)]).sort_by("path")
    _keep(files, _path(folder, INDEX), table)
    return table


def recall(files: Files, folder: str = "") -> dict[str, str]:
    """The texts that `remember` kept under this folder, by name."""
    table = _load(files, _path(folder, STATISTICS), TEXTS)
    return dict(zip(table.column("name").to_pylist(), table.column("text").to_pylist(), strict=True))


def remember(files: Files, texts: Mapping[str, str], folder: str = "") -> None:
    """Keep these texts in place of the ones before, if there are many and the store can be written."""
    if len(texts) >= SMALL:
        _keep(files, _path(folder, STATISTICS), _table(sorted(texts.items()), TEXTS))


def noted(files: Files, folder: str) -> dict[str, str]:
    """The texts in a cell's statistics.json, by name."""
    try:
        found = json.loads(files.read(f"{folder}/{NOTES}"))
    except (FileNotFoundError, ValueError):
        return {}
    texts = found.items() if isinstance(found, dict) else ()
    return {name: text for name, text in texts if isinstance(text, str)}


SCHEMA = pa.schema([("path", pa.string()), ("stamp", pa.string()), ("run", pa.binary())])
TEXTS = pa.schema([("name", pa.string()), ("text", pa.string())])


def _path(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _table(rows: Sequence[tuple[object, ...]], schema: pa.Schema) -> pa.Table:
    if not rows:
        return schema.empty_table()
    return pa.table(dict(zip(schema.names, zip(*rows, strict=True), strict=True)), schema)


def _keep(files: Files, path: str, table: pa.Table) -> None:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=4096)
    try:
        files.write(path, sink.getvalue(), durable=False)
    except StoreError as error:
        log.info("%s is not kept: %s", path, error)


def _load(files: Files, path: str, schema: pa.Schema) -> pa.Table:
    """The stored table; an empty one if there is none or it is damaged."""
    try:
        file = pq.ParquetFile(pa.BufferReader(files.read(path)))
        table = file.read() if file.schema_arrow.equals(schema) else schema.empty_table()
    except FileNotFoundError:
        return schema.empty_table()
    except (pa.ArrowException, OSError) as error:
        log.warning("%s is damaged and made anew: %s", path, error)
        return schema.empty_table()
    names = table.column(0)  # what the rows go by: each is there once
    whole = len(names.unique()) == len(names) and not any(column.null_count for column in table.columns)
    return table if whole else schema.empty_table()
