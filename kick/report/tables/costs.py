"""What each variant costs to run, as `kick cost` measured it."""

from __future__ import annotations

import pandas as pd

from kick.report import select, wording
from kick.report.tables.entry import Table, table

NOTE = (
    "Rates are tokens per second of the engine, device and shapes named; peak memory is of the process while "
    "it answered, or of the accelerator. Quantization by kick is simulated on dequantized weights: it has no "
    "speed."
)


@table("costs", "Costs", place=5)
def costs(frame: pd.DataFrame) -> Table:
    """Load time, peak memory, prefill and decode rates, energy per generated token."""
    rows = frame[(frame["replica"] == "") & (frame["cost_of"].ne("") | frame["simulated"])]
    select.wanted(frame[frame["cost_of"].ne("")], "cost of a variant (`kick cost`)")
    rows = select.variant_order(rows).drop_duplicates("label")
    cells = tuple(
        (
            str(row["label"]),
            wording.number(row["load_seconds"], "ratio"),
            wording.megabytes(row["run_memory"]) or wording.NOTHING,
            wording.number(row["prefill"], "tokens"),
            wording.number(row["decode"], "tokens"),
            wording.number(row["joules"], "ratio"),
            "simulated" if row["simulated"] else row["cost_of"],
        )
        for row in select.records(rows)
    )
    heads = (
        "variant",
        "load, s",
        "peak memory",
        "prefill, tokens/s",
        "decode, tokens/s",
        "J per token",
        "of",
    )
    return Table("Costs of the variants", heads, cells, rows, NOTE)
