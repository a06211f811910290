"""Doubts about a task's scores, as sentences for the head of a page and of a run's scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from kick.analysis.cells import StoredCell
from kick.analysis.headlines import info
from kick.printable import plain
from kick.stats import metrics

SHOWN = 3  # variants named in a sentence


def doubts(frame: pd.DataFrame, cells: Iterable[StoredCell] = ()) -> list[str]:
    """Tasks without a dense model to compare with, on which the dense model scores 0, variants all of whose
    answers on a task are empty, records of stopped cells that their samples do not confirm, and margins that
    differ within a matrix.

    Cells of which their record says so already (`kick.tasks.signs`) are left to `signs`.
    """
    whole = frame[(frame["group"] == "") & ~frame["task"].str.contains("|", regex=False)]
    told = [cell.run.key for cell in cells if any("empty" in warning for warning in cell.run.warnings)]
    empty = _all_empty(whole[~whole["key"].isin(told)])
    return [*_without_dense(whole), *_dense_at_zero(whole), *empty, *_unconfirmed(whole), *_margins(whole)]


def signs(cells: Iterable[StoredCell]) -> list[str]:
    """Warnings in the records of these cells, each sentence once with the variants that it is of."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for cell in cells:
        for warning in cell.run.warnings:
            found.setdefault((info(cell.run).title, warning), {})[cell.label] = None
    return [plain(f"{title}: {warning} ({_listed(list(of))}).") for (title, warning), of in found.items()]


def _without_dense(frame: pd.DataFrame) -> Iterator[str]:
    """Tasks of which the dense model's cell is not there, while cells of variants are."""
    for (matrix, base), section in frame.groupby(["matrix", "base"], sort=False):
        there = section.groupby(["title", "setting"], sort=False)["dense"].transform("any")
        own = section["imported"].eq("")
        lost = list(dict.fromkeys(section.loc[~there & own, "title"]))
        if lost:
            yield (
                f"The matrix {matrix} has no answers of the dense model {base} on {_listed(lost)}: nothing "
                "is compared there and no variant has a verdict. Run the matrix again to have them."
            )
        alone = [one for one in dict.fromkeys(section.loc[~there, "title"]) if one not in lost]
        if alone:
            yield (
                f"The matrix {matrix} has imported answers alone on {_listed(alone)}: nothing is compared "
                "there and no variant has a verdict. A dense model's answers are imported as the variant "
                "dense."
            )


def _dense_at_zero(frame: pd.DataFrame) -> Iterator[str]:
    rows = frame[frame["dense"] & frame["primary"] & frame["value"].eq(0) & frame["higher_is_better"]]
    for title, base, name in dict.fromkeys(zip(rows["title"], rows["base"], rows["metric"], strict=True)):
        metric = metrics.describe(name)
        if metric.compared:
            yield (
                f"{title}: the dense model {base} scores 0 ({metric.label}). No loss can show there and no "
                "variant has a verdict: look at its answers, the prompt and what is scored as right."
            )


def _all_empty(frame: pd.DataFrame) -> Iterator[str]:
    rows = frame[frame["metric"].eq("empty") & frame["value"].eq(1)]
    for title, part in rows.groupby("title", sort=False):
        labels = list(dict.fromkeys(part["label"]))
        yield f"{title}: every answer is empty of {_listed(labels)}."


def _unconfirmed(frame: pd.DataFrame) -> Iterator[str]:
    """Cells that ended early, of whose record the samples say something else."""
    rows = frame[frame["doubt"].ne("")]
    for label, title, doubt in zip(rows["label"], rows["title"], rows["doubt"], strict=True):
        yield f"{label} on {title} ended early, but {doubt}: measure it again before it is believed."


def _margins(frame: pd.DataFrame) -> Iterator[str]:
    """Matrices whose cells were measured under several margins."""
    for name, part in frame[~frame["dense"]].groupby("matrix", sort=False):
        margins = sorted(set(part["margin"].dropna()))
        if len(margins) > 1:
            found = " and ".join(f"{100 * margin:g} %" for margin in margins)
            yield f"Cells of the matrix {name} have margins of {found}: each verdict is by its own cell's."


def _listed(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else ""
    return ", ".join(labels[:SHOWN]) + more
