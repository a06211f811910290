"""The page's main table: a column per task, a line per variant with its rank, a cell per score."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from kick.analysis import ranking
from kick.report import select, wording

APART = 10_000  # more places than a page has
RUN_TIME = "sparse at run time"  # a family of its own in the filter
KINDS = {"": "dense", "p": "pruned", "q": "quantized", "pq": "pruned and quantized", "o": "other"}


@dataclass(frozen=True)
class ScoreCell:
    """A score in the main table. `order` is what it sorts by: larger is better; None sorts it last.

    remark: what must be said beside it, of a cell that ended early or of one that differs in no item.
    """

    score: str
    interval: str
    gap: str
    gap_interval: str
    verdict: str
    mark: str
    order: float | None
    remark: str
    orders: str = ""


@dataclass(frozen=True)
class Column:
    """A task in the main table."""

    title: str
    metric: str
    direction: str
    n: str
    detectable: str
    noise: str


@dataclass(frozen=True)
class Size:
    """A size in the main table; `order` is what it sorts by: smaller is better; `note`: what it is of."""

    text: str
    order: float | None
    note: str = ""

    @classmethod
    def of(cls, size: float, note: str = "") -> Size:
        """The size of so many bytes; NaN if it is not known."""
        return cls(wording.megabytes(size), -float(size) if wording.known(size) else None, note)


@dataclass(frozen=True)
class VariantLine:
    """A variant in the main table. `rank`: the interval of its rank; `kept`: of dense's scores, on average;
    `place`: what its rank sorts by, those that are ranked `apart` after the others."""

    label: str
    name: str
    kind: str
    dense: bool
    replica: bool
    rank: str
    kept: str
    place: float | None
    apart: bool
    shipped: Size
    packed: Size
    remark: str
    cells: tuple[ScoreCell | str | None, ...]  # text: why the task is not applicable to the variant


def column(rows: pd.DataFrame) -> Column:
    dense = rows[rows["dense"]]
    first = select.whole_row(select.records(dense if len(dense) else rows))
    return Column(
        title=wording.task_label(first),
        metric=wording.metric_label(first["metric"]),
        direction="higher is better" if first["higher_is_better"] else "lower is better",
        n=wording.count(first["n"], first.get("units"), first["of"]),
        detectable=_detectable(rows, first),
        noise=_noise(rows, first),
    )


def _detectable(rows: pd.DataFrame, first: Mapping[str, Any]) -> str:
    """The smallest difference that the variant nearest dense could have shown; "" if it is not known.

    Of a variant far from dense it says little: the spread of its differences is that of its own loss.
    """
    ours = rows[~rows["dense"] & rows["replica"].eq("") & rows["detectable"].gt(0)]
    if ours.empty:
        return ""
    least = ours.sort_values("gap", key=abs, kind="stable")["detectable"].iloc[0]
    return wording.number(least, first["unit"]) if wording.known(least) else ""


REPLICAS = {"batch": "batch size", "dtype": "bfloat16"}


def _noise(rows: pd.DataFrame, first: Mapping[str, Any]) -> str:
    """The noise with the dense replica that showed it: "24.5 (bfloat16)"; "" if none was measured."""
    if not wording.known(first["noise"]):
        return ""
    text = wording.number(first["noise"], first["unit"])
    replicas = rows[rows["replica"].ne("") & rows["gap"].notna()]
    if not first["noise"] or replicas.empty:
        return text
    largest = str(replicas.sort_values("gap", key=abs, kind="stable")["replica"].iloc[-1])
    return f"{text} ({REPLICAS.get(largest, largest)})"


def lines(
    frame: pd.DataFrame, columns: Sequence[pd.DataFrame], ranks: Mapping[str, ranking.Rank]
) -> Iterable[VariantLine]:
    """The lines of a section: dense, the variants by rank, those without one, dense replicas."""
    made = list(_lines(frame, columns, ranks))
    end = len(made)
    return sorted(
        made, key=lambda line: (not line.dense, line.replica, -line.place if line.place is not None else end)
    )


def _lines(
    frame: pd.DataFrame, columns: Sequence[pd.DataFrame], ranks: Mapping[str, ranking.Rank]
) -> Iterable[VariantLine]:
    found = [select.by_label(part) for part in columns]
    for label, row in select.by_label(select.variant_order(frame)).items():
        yield VariantLine(
            label=str(label),
            name=row["variant"],
            kind=_kind(row),
            dense=bool(row["dense"]),
            replica=bool(row["replica"]),
            rank=ranks[label].text if label in ranks else "",
            kept=wording.number(ranks[label].kept, "share") if label in ranks else "",
            place=_place(ranks[label]) if label in ranks else None,
            apart=label in ranks and ranks[label].apart,
            shipped=Size.of(row["shipped_bytes"], row["shipped_as"]),
            packed=Size.of(row["bytes"]),
            remark=_line_remark(row, [part[label] for part in found if label in part]),
            cells=tuple(
                score_cell(part[label]) if label in part else wording.not_applicable(row, part)
                for part in found
            ),
        )


def _place(rank: ranking.Rank) -> float:
    return -float(rank.place) - APART * rank.apart


def _line_remark(row: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> str:
    imported = f"imported: answers of {row['imported']}" if row["imported"] else ""
    share = f"{wording.number(row['removed'], 'share')} % of the blocks' weights removed"
    removed = share if row["removed"] > 0 else ""
    said = (imported, removed, *wording.unlike(row), wording.alike_everywhere(cells))
    return "; ".join(filter(None, said))


def _kind(row: Mapping[str, Any]) -> str:
    if row["dense"] or row["replica"]:
        return KINDS[""]
    parts = ("p" if row["sparsity"] > 0 or row["structured"] else "") + (
        "q" if wording.known(row["bits"]) else ""
    )
    if row["runtime"]:
        return f"{KINDS[parts]}, {RUN_TIME}" if parts else RUN_TIME
    return KINDS[parts or "o"]


def score_cell(row: Mapping[str, Any]) -> ScoreCell:
    """Contents of a row of the frame, in words."""
    unit, verdict = row["unit"], wording.verdict(row) or wording.apart(row)
    order = None  # an estimate within a wide interval has no place among scores
    if math.isfinite(row["value"]) and not row["stopped"]:
        order = float(row["value"]) * (1 if row["higher_is_better"] else -1)
    dense = bool(row["dense"])
    return ScoreCell(
        score=wording.number(row["value"], unit),
        interval=wording.span(row["low"], row["high"], unit),
        gap="" if dense else wording.number(row["gap"], unit, signed=True),
        gap_interval="" if dense else wording.signed_span(row["gap_low"], row["gap_high"], unit),
        verdict=verdict,
        mark=wording.MARKS[verdict],
        order=order,
        remark=wording.remark(row),
        orders=wording.orders(row),
    )
