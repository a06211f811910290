"""What training brought back of what pruning took, and what the training took."""

from __future__ import annotations

import pandas as pd

from kick.report import select, wording
from kick.report.tables.entry import Table, table

NOTE = (
    "Brought back: (recovered - pruned) / (dense with the same training - pruned), with a 95 % interval over "
    "the items that all three were asked; none of fewer than ten items, and none where pruning is not shown "
    "to take anything. Items, not seeds: the spread over seeds of one form is the noise floor."
)
TOOK = (
    "Tokens are those that were trained on, share is of the model's parameters. Held out: nats per token on "
    "text of the same corpus, before and after. Memory is the process's peak so far."
)


@table("recovered", "What training brought back", place=7)
def recovered(frame: pd.DataFrame) -> Table:
    """The recovered share by variant and task, beside the three scores that it is made of."""
    rows = select.headlines(frame)
    rows = select.wanted(
        rows[rows["recovered_of"] != ""], "recovered variant beside the pruned one and dense trained alike"
    )
    rows = select.variant_order(rows)
    cells = tuple(
        (
            str(row["label"]),
            wording.task_label(row),
            *(wording.number(row[n], row["unit"]) for n in ("pruned_value", "value", "trained_dense_value")),
            wording.number(row["recovered"], "share"),
            wording.span(row["recovered_low"], row["recovered_high"], "share")
            if wording.known(row["recovered_low"])
            else wording.NOTHING,
            str(row["n"]),
        )
        for row in select.records(rows)
    )
    heads = ("variant", "task", "pruned", "recovered", "dense trained", "brought back (%)", "interval", "n")
    return Table("What training brought back", heads, cells, rows, NOTE)


@table("training", "What the training took", place=8)
def training(frame: pd.DataFrame) -> Table:
    """Tokens, steps, share of parameters, held-out loss, time, memory and seed of each trained variant."""
    rows = frame[frame["trained_tokens"].notna()]
    rows = select.variant_order(select.wanted(rows, "trained variant")).drop_duplicates("label")
    cells = tuple(
        (
            str(row["label"]),
            row["trained_text"],
            f"{row['trained_tokens']:,.0f}",
            f"{row['trained_steps']:,.0f}",
            f"{100 * row['trained_share']:.3g}",
            f"{row['trained_lr']:g}",
            f"{row['heldout_before']:.3f} to {row['heldout_after']:.3f}",
            f"{row['trained_seconds'] / 60:.1f}",
            f"{row['trained_memory'] / 1e9:.1f}",
            f"{row['trained_seed']:g}",
        )
        for row in select.records(rows)
    )
    heads = (
        "variant", "text", "tokens", "steps", "trained (%)", "learning rate", "held out",
        "CPU minutes", "memory (GB)", "seed",
    )  # fmt: skip
    return Table("What the training took", heads, cells, rows, TOOK)
