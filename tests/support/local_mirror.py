"""A mirror of hub data sets, made for a test."""

import json

import pyarrow as pa
import pyarrow.parquet as pq


def mirror(root, file, rows):
    """Write `rows` to <root>/<file>, a .parquet or .jsonl file; gives the root as text."""
    target = root / file
    target.parent.mkdir(parents=True, exist_ok=True)
    if file.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), target)
    else:
        target.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(root)
