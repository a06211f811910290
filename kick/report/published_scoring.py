"""The table of LLM-KICK's published scores beside ours, and what each of their defects adds."""

from __future__ import annotations

from dataclasses import asdict

import pandas as pd

from kick.analysis.frame import Results
from kick.analysis.published_scoring import DEFECTS, scores
from kick.errors import KickError
from kick.report import select, wording
from kick.report.tables.entry import Table

NOTE = (
    "From the same stored answers, in % of items; answers are compared with the first accepted answer alone, "
    "since no other is stored. On word borders: the expected answer occurs in the answer. As published: for "
    "facts it occurs in prompt and answer together, without blanks; for reading either contains the other. "
    "Then what each defect adds to the former by itself, in points; together they can add less, or more."
)


def table(results: Results) -> Table:
    """A line per variant and task with a published rule. Raises KickError if no task has one."""
    found = list(scores(results.cells))
    if not found:
        raise KickError(
            "--scoring published: these results have no task of facts or of reading by generation"
        )
    order = list(dict.fromkeys(select.variant_order(results.frame)["label"]))
    titles = list(dict.fromkeys(one.title for one in found))
    found.sort(key=lambda one: (titles.index(one.title), order.index(one.label)))
    heads = ("variant", "task", "n", "on word borders", "as published", *DEFECTS.values())
    lines = [
        (
            one.label,
            one.title,
            str(one.n),
            wording.number(one.ours, "share"),
            wording.number(one.published, "share"),
            *(
                wording.number(one.defects[name], "share", signed=True) if name in one.defects else ""
                for name in DEFECTS
            ),
        )
        for one in found
    ]
    rows = pd.json_normalize([asdict(one) for one in found])
    return Table("Published scoring, and the size of each defect", heads, tuple(lines), rows, NOTE)
