"""What run-time methods read, computed and kept, counted on each task."""

from __future__ import annotations

import pandas as pd

from kick.report import select, wording
from kick.report.tables.entry import Table, table

NOTE = (
    "Counted while the answers were given. Keys read: of those that decoding steps could have read, over all "
    "layers and query heads, dense first layers included; prompts: the same of the prompt's tokens. Prompt "
    "computed: of all pairs of a token and a layer. Cache: mean bytes of a sequence at its end, keys and "
    "values, with what the method has to keep beside. The methods are simulated: nothing is said of speed."
)
HEADS = (
    "variant",
    "task",
    "prompt tokens",
    "keys read, %",
    "keys read in prompts, %",
    "prompt computed, %",
    "cache",
    "dense cache",
)


@table("run_time", "Counted at run time", place=6)
def run_time(frame: pd.DataFrame) -> Table:
    """Shares of keys and prompts, and bytes of cache, by variant and task."""
    rows = select.headlines(frame)
    rows = select.wanted(rows[rows["runtime"] != ""], "variant with a run-time method")
    rows = select.variant_order(rows)
    cells = tuple(
        (
            str(row["label"]),
            wording.task_label(row),
            wording.number(row["prompt_tokens"], "tokens"),
            *(wording.number(row[name], "share") for name in SHARES),
            *(wording.megabytes(row[name]) or wording.NOTHING for name in BYTES),
        )
        for row in select.records(rows)
    )
    return Table("Counted at run time", HEADS, cells, rows, NOTE)


SHARES = ("keys_read", "prompt_keys_read", "prompt_computed")
BYTES = ("cache_bytes", "dense_cache_bytes")
