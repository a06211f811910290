"""Runs and samples -> one tidy DataFrame: one row per cell and metric, with its gap to dense and verdict.

Every variant is compared with the dense cell of its own matrix, base model and task setting, item by item.
A row whose samples are not there keeps its score and plain gap, without interval or verdict.

Columns (NaN or "" if there is nothing):

    matrix, base, variant, label, key, dense    the place of a row; `base` is the base model's name
    method, place, sparsity, pattern, bits, group_size, structured, trains, task_data, replica, runtime,
    checkpoint, recipe, training_seed, corpus, sequences, length, seed, propagate, selection, layer,
    component                                   what was done (`kick.analysis.traits`)
    engine, imported, foreign    the engine that is part of the key; the program whose answers were imported;
                                 whether dense was answered by another engine: then there is no verdict
    task, title, family, asks, setting, shots, limit, chat_template, group    what was asked, "" all items
    metric, primary, higher_is_better, unit     what was measured; `primary` marks a task's headline metric
    value, low, high, stderr, n, units, missing the score, with its 95 % interval over the independent units
    of, stopped, unasked_seconds, doubt         how many items there are; of a cell that ended before all were
                                                asked why, what the rest would take to answer, and what speaks
                                                against its record
    dense_value, gap, gap_low, gap_high, margin      against dense; margin: the share of it that matches
    relative, relative_low, relative_high            the same as a share of dense: variant over dense minus 1
    p, p_holm, test, verdict, lost, won, same, detectable    see `kick.stats.paired`; verdict "dense" of dense
    noise, within_noise                         the largest gap of a dense replica; this gap is inside it
    order_low, order_high, orders, within_orders    the range of the score over orders of the calibration,
        how many (0 for none), and whether it holds the dense score (`kick.analysis.bands`)
    seed_mean, seed_sd, seeds                   over seeds of one recipe, of calibration or of training
    leaked                                      documents of the task that share text with what the variant
                                                was trained on (`kick.recover.leaks`)
    truncated, seconds, compress_seconds, peak_memory, bits_per_weight, achieved_sparsity, parameters,
    load_seconds, run_memory, prefill, decode, joules, cost_of, simulated    see `kick.analysis.cost`
    removed                                     the share of the blocks' weights that structured steps took
                                                out, NaN without such a step or if the result is older
    forwards, backwards, step_cpu, step_seconds, step_memory    what the recipe's steps ran and took, see
                                                `kick.analysis.traits.achieved`
    keys_read, prompt_keys_read, prompt_computed, cache_bytes, dense_cache_bytes, prompt_tokens
                                                what a run-time method read, computed and kept, counted on
                                                this task (`kick.runtime.tally`)
    recovered, recovered_low, recovered_high, pruned_value, trained_dense_value, recovered_of, trained_...,
    heldout_before, heldout_after               what training brought back and took: `kick.analysis.recovered`
    plain_value, guided_value, gain_p, strayed, replaced    of what guided decoding gains, see
                                                `kick.analysis.guided`
    shipped_bytes, shipped_as, bytes            of the files that one would ship, what they are (or why there
                                                are none), and the size in an ideal packed format
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from kick.analysis import (
    bands,
    calibration,
    cost,
    guided,
    lengths,
    pairs,
    recovered,
    stopped,
    stopping,
    wordings,
)
from kick.analysis.bits import Bits
from kick.analysis.cells import Stored, StoredCell, Unreadable, by_asked, describe, gather
from kick.analysis.doubts import doubts
from kick.analysis.ended import Stop
from kick.analysis.frame_rows import SECTION
from kick.analysis.headlines import headline, info
from kick.analysis.kept import StatisticsCache, beside_dense
from kick.analysis.rows import NO_TEST, number, plain_gap
from kick.errors import KickError
from kick.printable import plain
from kick.stats import metrics
from kick.stats.paired import holm

CELL = [*SECTION, "task", "setting"]
COMPARED = [*CELL, "metric", "group"]


@dataclass(frozen=True)
class Results:
    """The frame with the cells that it was made of, what a reader must know about them, and the items' bits
    of right/wrong headline metrics by key (`kick.analysis.bits`)."""

    frame: pd.DataFrame
    cells: tuple[StoredCell, ...]
    notes: tuple[str, ...]
    bits: Mapping[str, Bits] = field(default_factory=dict)


def read(stores: Sequence[Stored], *, paired: bool = True) -> Results:
    """All finished cells of these stores as Results.

    `paired` False leaves the samples unread: scores and plain gaps only. A cell that proves damaged is left
    out and noted. Raises KickError if there is no finished cell.
    """
    cells, notes = gather(stores)
    if not cells:
        raise KickError("these results have no finished cell; `kick run` makes some")
    if not paired:
        notes.append(f"The items of {len(cells)} cells were not read: gaps have no test or verdict.")
    kept = StatisticsCache()
    shares: Mapping[tuple[str, str], Mapping[str, Any]] = {}
    while True:
        try:
            bits: dict[str, Bits] = {}
            asked = by_asked(cells).values()
            rows = [row for part in asked for row in _rows(part, kept if paired else None, bits)]
            if paired:
                shown = bands.rows(cells)
                for derived in (pairs, guided, lengths, calibration, wordings):
                    rows += derived.rows(shown, kept)
                shares = recovered.shares(cells, kept)
            break
        except Unreadable as error:
            notes.append(_left_out(error))
            cells = [cell for cell in cells if cell is not error.cell]
            if not cells:
                raise
    kept.save()
    frame = recovered.add(cost.add(_complete(pd.DataFrame(rows)), cells), cells, shares)
    frame = frame.copy()  # one block per type: a column at a time leaves a hundred, of which pandas warns
    return Results(frame, tuple(cells), (*doubts(frame, cells), *notes), bits)


def _left_out(error: Unreadable) -> str:
    cell = error.cell
    task = info(cell.run).title
    lost = "; without it the task has no differences and no verdicts" if cell.variant.dense else ""
    return f"Left out: {cell.traits['label']} on {task}{lost}. {error}."


# ---------------------------------------------------------------------------------------- rows


def _rows(
    cells: Sequence[StoredCell], kept: StatisticsCache | None, bits: dict[str, Bits]
) -> Iterator[dict[str, Any]]:
    """The rows of all variants that were asked the same, dense first; other orders have none.

    bits: is given the items' bits of each.
    """
    dense = next((cell for cell in cells if cell.variant.dense), None)
    ours = functools.cache(lambda: dense.items() if dense else None)
    again = bands.Reordered(cells)
    for cell in sorted(bands.rows(cells), key=lambda cell: not cell.variant.dense):
        found = beside_dense(cell, dense, ours, kept) if kept else None
        if found and found["bits"]:
            bits[cell.run.key] = found["bits"]
        yield from _cell_rows(cell, dense, found, again.moves(cell))


def _cell_rows(
    cell: StoredCell,
    dense: StoredCell | None,
    found: Mapping[str, Any] | None,
    over: Mapping[str, Sequence[float]],
) -> Iterator[dict]:
    facts = describe(cell) | stopped.columns(cell)
    primary = headline(cell.run)
    before = {score.metric: score.value for score in dense.run.scores} if dense else {}
    found = found or {"gaps": {}, "groups": []}
    stop = stopped.stop(cell)
    if stop and stop.early and not found["gaps"]:
        found = {"gaps": _unread(cell, stop, before), "groups": []}
    for score in cell.run.scores:
        before_it = number(before.get(score.metric))
        row = {
            **facts,
            "group": "",
            "metric": score.metric,
            "primary": score.metric == primary,
            "higher_is_better": score.higher_is_better,
            "unit": metrics.describe(score.metric).unit,
            **{name: number(getattr(score, name)) for name in ("value", "low", "high", "stderr")},
            "n": score.n,
            "units": score.n if score.units is None else score.units,
            "missing": score.missing,
            **plain_gap(number(score.value), before_it),
            **found["gaps"].get(score.metric, {}),
        }
        yield row | bands.columns(over.get(score.metric, ()), row["value"], before_it)
    for group in found["groups"]:
        yield {**facts, **group}


def _unread(cell: StoredCell, stop: Stop, dense: Mapping[str, float | None]) -> dict[str, Any]:
    """The columns of a stopped cell whose items are not read, or have nothing beside them, by metric."""
    name, others = stopping.deciding(cell.run).name, {"gap": math.nan, "relative": math.nan}
    own = {name: stopped.unread(stop, number(dense.get(name)))}
    return {score.metric: others for score in cell.run.scores} | own


# ---------------------------------------------------------------------------------------- the whole frame


def _complete(frame: pd.DataFrame) -> pd.DataFrame:
    """Holm, the noise band, the spread over seeds, dense verdicts."""
    texts = [name for name, kind in frame.dtypes.items() if isinstance(kind, pd.StringDtype)]
    # text is read cell by cell far more often than column-wise; the copy brings columns of a type together
    frame = frame.astype(dict.fromkeys(texts, object)).copy()
    for name in texts:  # names from elsewhere act nowhere from here on
        values = frame[name].tolist()
        shown = {text: plain(text) for text in set(values) if isinstance(text, str)}
        if any(text != made for text, made in shown.items()):
            frame[name] = [shown.get(value, value) for value in values]
    for name in ("stopped", "doubt"):
        frame[name] = frame[name].fillna("") if name in frame else ""
    frame["of"] = frame["of"].fillna(frame["n"] + frame["missing"]).astype(int)
    frame.loc[frame["dense"], "verdict"] = "dense"
    frame["foreign"] = _foreign(frame)
    for name, nothing in NO_TEST.items():  # a difference across engines is of the engines too
        frame[name] = frame[name].where(~frame["foreign"], nothing)
    frame["title"] = _titles(frame)
    frame["sparsity"] = _sparsity(frame)
    frame["p_holm"] = _holm(frame)
    frame["noise"] = frame[COMPARED].merge(_noise(frame), on=COMPARED, how="left")["noise"].to_numpy()
    inside = (frame["noise"] > 0) & (frame["gap"].abs() <= frame["noise"])  # without a width there is no band
    frame["within_noise"] = inside & ~frame["dense"] & (frame["replica"] == "") & ~frame["foreign"]
    frame["orders"] = frame["orders"].fillna(0).astype(int)
    frame["within_orders"] = frame["within_orders"].eq(True) & ~frame["foreign"]  # no row of a group has it
    over = [*COMPARED, "recipe"]
    whole = frame["stopped"] == ""  # estimates of few items spread by more than the seed
    drawn = frame["seed"].notna() | frame["training_seed"].notna()  # training needs no calibration text
    seeded = frame[drawn & whole].groupby(over, sort=False)["value"]
    spread = seeded.agg(seed_mean="mean", seed_sd="std", seeds="count").reset_index()
    found = frame[over].merge(spread, on=over, how="left").set_axis(frame.index)
    return pd.concat([frame, found[["seed_mean", "seed_sd", "seeds"]]], axis=1)


def _foreign(frame: pd.DataFrame) -> pd.Series:
    """Whether dense was answered by another engine than the row's cell; False without a dense cell."""
    dense = frame[frame["dense"]].drop_duplicates(CELL)[[*CELL, "engine"]]
    theirs = frame[CELL].merge(dense, on=CELL, how="left")["engine"].set_axis(frame.index)
    return theirs.notna() & theirs.ne(frame["engine"])


def _titles(frame: pd.DataFrame) -> pd.Series:
    """Titles with shots and chat if they were set, and with the whole setting if a task has several."""
    several = frame.groupby([*SECTION, "task"])["setting"].transform("nunique") > 1
    brief = frame["setting"].str.replace(r"(, )?first \d+", "", regex=True).str.removeprefix(", ")
    shown = brief.where(~several, frame["setting"])
    return frame["title"].where(shown == "", frame["title"] + " (" + shown + ")")


def _sparsity(frame: pd.DataFrame) -> pd.Series:
    """Of variants that lost whole blocks the share of the blocks' weights that was removed, or of parameters
    if the result is older; of others what was asked."""
    whole = frame[frame["dense"]].groupby(SECTION)["parameters"].max().rename("whole").reset_index()
    parameters = frame[SECTION].merge(whole, on=SECTION, how="left")["whole"].to_numpy()
    gone = frame["removed"].fillna(1 - frame["parameters"] / parameters)
    return frame["sparsity"].where(~(frame["structured"] & frame["sparsity"].eq(0)), gone.fillna(0.0))


def _holm(frame: pd.DataFrame) -> pd.Series:
    """p adjusted over a matrix and base model: headline metrics are one family, all others a second.

    Groups of items and dense replicas are not tests of the matrix.
    """
    tested = frame[(frame["group"] == "") & ~frame["dense"] & (frame["replica"] == "")]
    compared = tested["metric"].map(lambda name: metrics.describe(name).compared)
    adjusted = pd.Series(math.nan, index=frame.index)
    for _, family in tested.groupby([*SECTION, tested["primary"] & compared]):
        adjusted[family.index] = holm(family["p"].to_numpy())
    return adjusted


def _noise(frame: pd.DataFrame) -> pd.DataFrame:
    """The largest gap that a dense replica shows, by what is compared."""
    replicas = frame[(frame["replica"] != "") & frame["gap"].notna()]
    sizes = replicas.assign(noise=replicas["gap"].abs()).groupby(COMPARED, sort=False)["noise"]
    return sizes.max().reset_index()
