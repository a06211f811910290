"""What a full run of `demo-full` answered, item by item, in a file small enough to commit.

    python benchmarks/verdicts_record.py RESULTS        # a folder that `kick run demo-full --stop off` filled

Writes benchmarks/replay/demo-full.parquet: a row per item of every right/wrong task, in the order of asking,
with dense's score, the item's stratum of dense's margin and a column per variant, 1 right and 0 wrong.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from kick.analysis.stopping import Stopping
from kick.records import Result
from kick.stats.sequential import Rule
from kick.store import Store, opened

FOLDER = Path(__file__).parent / "replay"
ITEMS = FOLDER / "demo-full.parquet"


def record(store: Store) -> pd.DataFrame:
    """The rows of all right/wrong tasks."""
    by_task: dict[str, dict[str, Result]] = {}
    for run in store.runs():
        if run.cell.variant.replica is None and not run.cell.task.stop:
            by_task.setdefault(run.cell.task.name, {})[run.cell.variant.name] = run
    rows = []
    for task, runs in by_task.items():
        table = _table(store, runs)
        if table is not None:
            rows.append(table.assign(task=task))
    return pd.concat(rows, ignore_index=True)


def _table(store: Store, runs: Mapping[str, Result]) -> pd.DataFrame | None:
    """A task's items; None if its headline is not right or wrong."""
    dense = next(run for run in runs.values() if run.cell.variant.dense)
    waves = Stopping.of(dense, store.samples(dense.key), Rule())
    order, design, metric = waves.order, waves.design, waves.metric
    if not metric.support.of(design.dense).binary:
        return None
    table = pd.DataFrame({"item": order, "dense": design.dense, "stratum": design.strata.astype(np.int8)})
    for name, run in runs.items():
        if run is dense:
            continue
        found = {one.item: one for one in store.samples(run.key)}
        scores = [
            found[item].scores.get(metric.column, math.nan) if item in found else math.nan for item in order
        ]
        table[name] = np.array(scores, dtype=np.float32)
    return table


def main() -> None:
    """Read the folder, write the file."""
    items = record(opened(sys.argv[1]))
    FOLDER.mkdir(exist_ok=True)
    items.to_parquet(ITEMS, compression="zstd", index=False)
    print(f"{len(items)} items, {len(items.columns) - 4} variants, {ITEMS.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
