"""LLM-KICK's tables 2 and 3 (arXiv 2310.01382), from our results."""

from __future__ import annotations

import pandas as pd

from kick.report import select
from kick.report.tables.cells import crossed
from kick.report.tables.entry import Table, table


def _four(frame: pd.DataFrame) -> pd.DataFrame:
    names = ("factoid_qa", "mcr_qa", "icra_qa_open", "summarization", "instruction_following")
    return pd.concat([select.family(select.headlines(frame), name) for name in names])


@table("eight_bit", "8-bit methods", paper="Table 2")
def eight_bit(frame: pd.DataFrame) -> Table:
    """The paper's table 2: what 8 bits cost."""
    rows = select.level(_four(frame), "bits")
    rows = rows[rows["dense"] | (rows["bits"] == 8)]
    select.wanted(rows[~rows["dense"]], "8-bit variant")
    return crossed(rows, "8 bits")


@table("pruning_by_task", "Unstructured pruning by task, to 50 %", paper="Table 3")
def pruning_by_task(frame: pd.DataFrame) -> Table:
    """The paper's table 3: pruning on four tasks."""
    rows = select.level(_four(frame), "sparsity")
    rows = rows[rows["sparsity"] <= 0.5]
    select.wanted(rows[~rows["dense"]], "unstructured variant of at most 50 %")
    return crossed(rows, "Unstructured pruning by task")
