"""index.parquet: every run.json of a store in one file, derived, and rebuilt where a run.json changed.

One row a cell: path, stamp (changes when the file changes), run (the text of run.json). It saves opening ten
thousand small files; deleting it loses nothing.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from kick.store.files import Files, StoreError

log = logging.getLogger("kick.store")
INDEX = "index.parquet"
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
    """The index, with what changed read anew and kept where the store can be written."""
    path = f"{folder}/{INDEX}" if folder else INDEX
    old = _load(files, path)
    known = dict(zip(old.column("path").to_pylist(), old.column("stamp").to_pylist(), strict=True))
    changed = [one for one, stamp in stamps.items() if known.get(one) != stamp]
    if not changed and len(known) == len(stamps):
        return old
    gone = set(changed) | (known.keys() - stamps.keys())
    kept = old.filter(pa.array([one not in gone for one in known], pa.bool_()))
    new = [(one, stamps[one], found) for one in changed if (found := _read(files, one)) is not None]
    added = (
        pa.table(dict(zip(SCHEMA.names, zip(*new, strict=True), strict=True)), SCHEMA) if new else kept[:0]
    )
    table = pa.concat_tables([kept, added]).sort_by("path")
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=4096)
    try:
        files.write(path, sink.getvalue(), durable=False)
    except StoreError as error:
        log.info("the index is not kept: %s", error)
    return table


SCHEMA = pa.schema([("path", pa.string()), ("stamp", pa.string()), ("run", pa.binary())])


def _load(files: Files, path: str) -> pa.Table:
    """The stored index; an empty one where there is none or it is damaged."""
    try:
        table = pq.read_table(io.BytesIO(files.read(path)))
    except FileNotFoundError:
        return SCHEMA.empty_table()
    except (pa.ArrowException, OSError) as error:
        log.warning("%s is damaged and made anew: %s", path, error)
        return SCHEMA.empty_table()
    return table if table.schema.equals(SCHEMA) else SCHEMA.empty_table()
