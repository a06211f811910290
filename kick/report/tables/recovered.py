"""What training brought back of what pruning took, and what the training took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from kick.analysis.recovered import FORM
from kick.report import select, wording
from kick.report.tables.entry import Table, table

HEADS = ("pruned", "recovered", "dense trained", "brought back (%)", "interval", "n")
NOTE = (
    "Brought back: (recovered - pruned) / (dense with the same training - pruned), with a 95 % interval over "
    "the items that all three were asked; none of fewer than ten items, and none if pruning is not shown to "
    "take anything. No share if the trained dense model is not better than the pruned one. Intervals are of "
    "items, not seeds: the spread over seeds of one form is the noise floor."
)
FORM_NOTE = (
    "Shares of answers that fail by form: not in the form that was asked for, empty, cut by the token limit, "
    "or repeating themselves. Only those that pruning is shown to change; all are in the page's CSV."
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
    cells = tuple((str(row["label"]), wording.task_label(row), *_share(row)) for row in select.records(rows))
    return Table("What training brought back", ("variant", "task", *HEADS), cells, rows, NOTE)


@table("recovered_form", "What training brought back of form", place=8)
def recovered_form(frame: pd.DataFrame) -> Table:
    """The recovered share of answers that fail by form; the headline metrics are content."""
    rows = frame[frame["metric"].isin(FORM) & frame["recovered_low"].notna()]
    rows = select.wanted(rows, "recovered variant with a failure of form that pruning is shown to change")
    rows = select.variant_order(rows)
    cells = tuple(
        (str(row["label"]), str(row["title"]), wording.metric_label(row["metric"]), *_share(row))
        for row in select.records(rows)
    )
    heads = ("variant", "task", "metric", *HEADS)
    return Table("What training brought back of form", heads, cells, rows, FORM_NOTE)


def _share(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells below HEADS."""
    low, high = row["recovered_low"], row["recovered_high"]
    return (
        *(wording.number(row[n], row["unit"]) for n in ("pruned_value", "value", "trained_dense_value")),
        wording.number(row["recovered"], "share"),
        wording.span(low, high, "share") if wording.known(low) else wording.NOTHING,
        str(row["n"]),
    )


@table("training", "What the training took", place=9)
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
