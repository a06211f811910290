"""Rows of the frame that a table or figure is about."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kick.analysis.frame_rows import SECTION as SECTION
from kick.analysis.frame_rows import headlines as headlines
from kick.analysis.frame_rows import records as records
from kick.analysis.groups import MACRO
from kick.report import wording

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
PAIRED = "|"  # in a task's name: derived of two tasks


class Nothing(Exception):
    """A table or figure that this frame cannot feed; the message says what is missing."""


def wanted(rows: pd.DataFrame, missing: str) -> pd.DataFrame:
    """The rows, or Nothing("there is no " + what is missing)."""
    if rows.empty:
        raise Nothing(f"there is no {missing} in these results")
    return rows


def by_label(rows: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The rows of one task by their variant's label, the first of each."""
    return {row["label"]: row for row in records(rows.drop_duplicates("label"))}


def whole(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of cells that were asked all of their items: of others the score is an estimate."""
    return rows[rows["stopped"] == ""]


def whole_row(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The first row of a cell that was asked all items (dense's comes first), else the one with the most
    items: its number of items is the task's."""
    complete = [row for row in rows if not row["stopped"]]
    return complete[0] if complete else max(rows, key=lambda row: float(row["n"]))


def margin(rows: pd.DataFrame) -> float:
    """The share of dense's score within which a variant matches; the smallest, if the rows differ."""
    return float(rows["margin"].min())


def family(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows of the tasks of a family: a published task's counterparts."""
    return frame[frame["family"] == name]


def level(frame: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Dense rows and those that differ from it in one way: kind "sparsity", "nm" or "bits"."""
    single = frame["method"].str.contains(r" \+ ", regex=True).eq(False) & (frame["replica"] == "")
    if kind == "sparsity":
        chosen = frame["pattern"].isin(["unstructured", "structured"]) & frame["bits"].isna()
    elif kind == "nm":
        chosen = frame["pattern"].str.contains(":", regex=False) & frame["bits"].isna()
    else:
        chosen = frame["bits"].notna() & (frame["sparsity"] == 0)
    rows = frame[single & chosen]
    asked = frame[frame["dense"]].merge(rows[[*SECTION, "task", "setting"]].drop_duplicates())
    return pd.concat([asked, rows]) if len(rows) else rows


def sections(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """(name, rows) of each matrix and base model; the name is "" if there is only one."""
    parts = [(f"{matrix}, {base}", rows) for (matrix, base), rows in frame.groupby(SECTION, sort=False)]
    for name, rows in parts:
        yield (name if len(parts) > 1 else ""), rows


def tasks(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """(task, setting) in the order in which they first occur, two-task rows left out."""
    rows = frame[~frame["task"].str.contains(PAIRED, regex=False)]
    return list(dict.fromkeys(zip(rows["task"], rows["setting"], strict=True)))


def of_task(frame: pd.DataFrame, task: tuple[str, str]) -> pd.DataFrame:
    """The rows of one task and setting."""
    return frame[(frame["task"] == task[0]) & (frame["setting"] == task[1])]


def by_group(frame: pd.DataFrame, *, macro: bool = False) -> pd.DataFrame:
    """The rows by subject, discipline or category, without or with their mean."""
    rows = frame[frame["group"] != ""]
    return rows if macro else rows[rows["group"] != MACRO]


def beside_perplexity(frame: pd.DataFrame) -> pd.DataFrame:
    """Headline rows of all other compared tasks with the variant's perplexity over dense's as `ratio`.

    A variant whose perplexity ended early is left out: its ratio would be a guess within a wide interval.
    Raises Nothing without a perplexity task or without another.
    """
    rows = headlines(frame)
    corpus = whole(rows[rows["metric"].str.endswith("perplexity") & rows["dense_value"].gt(0)])
    corpus = wanted(corpus, "perplexity task").drop_duplicates([*SECTION, "variant"])
    corpus = corpus.assign(ratio=corpus["value"] / corpus["dense_value"])
    others = rows[~rows["metric"].str.endswith("perplexity") & rows["dense_value"].gt(0) & ~rows["dense"]]
    others = others[others["verdict"] != ""]
    joined = others.merge(corpus[[*SECTION, "variant", "ratio"]], on=[*SECTION, "variant"])
    return wanted(joined, "task beside the perplexity task")


def hidden(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of `beside_perplexity` with a shown loss although perplexity rose by at most the margin."""
    lost = [wording.verdict(row) == "worse" for row in records(rows)]
    return rows[np.array(lost, dtype=bool) & (rows["ratio"] <= 1 + rows["margin"])]


def method_order(rows: pd.DataFrame) -> list[str]:
    """The methods of the rows: dense first, then by kind and place, recipes last; what is level by name."""
    found = rows[["method", "place"]].drop_duplicates("method")
    return list(found.sort_values(["place", "method"], kind="stable")["method"])


def _in_order(text: str) -> str:
    """What sorts as the text does, numbers in it by their size."""
    return _NUMBER.sub(lambda found: f"{float(found[0]):016.6f}", text)


def variant_order(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with dense first, then by method, pattern, sparsity upward, bits downward, seed."""
    place = {name: number for number, name in enumerate(method_order(frame))}
    keys = pd.DataFrame(
        {
            "dense": ~frame["dense"],
            "replica": frame["replica"] != "",
            "method": frame["method"].map(place),
            "pattern": frame["pattern"].str.contains(":", regex=False),
            "sparsity": frame["sparsity"],
            "bits": -frame["bits"].fillna(99),
            "seed": frame["seed"].fillna(0),
            "label": frame["label"].map(_in_order),
        },
        index=frame.index,
    )
    return frame.loc[keys.sort_values([*map(str, keys)], kind="stable").index]
