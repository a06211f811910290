"""Statistics of a cell's items beside dense's, computed once and kept with the store.

A statistic's name is a hash of all that it is made of: the checksums of the samples, the metrics, and the
code that computes it. So none is ever stale: of what changed the name changed, and it is computed anew.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kick.analysis import (
    bits,
    calibration,
    ended,
    groups,
    guided,
    items,
    lengths,
    pairs,
    recovered,
    rows,
    stopped,
    stopping,
    wordings,
)
from kick.analysis.cells import Stored, StoredCell
from kick.analysis.headlines import headline
from kick.analysis.items import Items
from kick.records import Result
from kick.stats import (
    bounded,
    equivalence,
    flip_looks,
    flips,
    intervals,
    metrics,
    paired,
    ranks,
    resample,
    sequential,
    spending,
    stratified,
    studentised,
    support,
)
from kick.stats.paired import How

if TYPE_CHECKING:
    from kick.store import Store

STATISTICS = (
    *(bounded, equivalence, intervals, metrics, paired),
    *(ranks, resample, sequential, flip_looks, flips, spending, stratified, support, studentised),
)
COMPUTING = (
    *STATISTICS,
    bits,
    calibration,
    ended,
    groups,
    guided,
    items,
    lengths,
    pairs,
    recovered,
    rows,
    stopped,
    stopping,
    wordings,
)  # and this module


class StatisticsCache:
    """Statistics by name: what the stores remember, what is computed now, and `save` to remember both.

    `known` in place of what the stores remember.
    """

    def __init__(self, known: Mapping[str, str] | None = None):
        self._known = known
        self._stores: dict[int, _Texts] = {}

    def texts(self, store: Stored) -> _Texts:
        """Texts that one store remembers, and is to remember."""
        if id(store) not in self._stores:
            known = store.recall() if self._known is None else self._known
            self._stores[id(store)] = _Texts(store, known)
        return self._stores[id(store)]

    def get(self, cell: StoredCell, made_of: Sequence[str | StoredCell], make: Callable[[], Any]) -> Any:
        """The JSON value that `make` gives; computed if the cell's store does not remember it.

        `made_of`: what the statistic is, and the cells whose samples go into it.
        """
        parts = [one.run.samples.get("sha256") if isinstance(one, StoredCell) else one for one in made_of]
        if None in parts:  # samples without a checksum cannot be told from others
            return make()
        name = hashlib.sha256("\0".join([_code(), *map(str, parts)]).encode()).hexdigest()
        return self.texts(cell.store).get(name[:32], cell.run.key, make)

    def save(self) -> None:
        """Have each store remember what was asked for, if something new was computed."""
        for texts in self._stores.values():
            texts.save()


class _Texts:
    """Texts that one store remembers, which of them were used, and whether any is new."""

    def __init__(self, store: Stored, known: Mapping[str, str]):
        self.store, self.known = store, known
        self.used: dict[str, str] = {}
        self.fresh = False

    def get(self, name: str, cell: str, make: Callable[[], Any]) -> Any:
        text = self.known.get(name)
        if text is None:
            self.fresh, text = True, self.store.noted(cell).get(name, "")
        try:
            value = json.loads(text)
        except ValueError:  # there is none, or it is damaged
            self.fresh, value = True, make()
            text = json.dumps(value)
        self.used[name] = text
        return value

    def save(self) -> None:
        if self.fresh:
            self.store.remember(self.used)


@functools.cache
def _code() -> str:
    """A hash of the code that computes statistics."""
    files = [Path(str(module.__file__)) for module in COMPUTING]
    digest = hashlib.sha256(np.__version__.encode())
    for file in (*files, Path(__file__)):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def beside_dense(
    cell: StoredCell, dense: StoredCell | None, ours: Callable[[], Items | None], kept: StatisticsCache
) -> dict[str, Any]:
    """{"gaps": {metric: columns}, "groups": [row], "bits": of the headline metric or None} of a cell's items
    beside dense's, which `ours` reads."""
    names = [score.metric for score in cell.run.scores]
    primary = headline(cell.run)
    described = [metrics.describe(name) for name in names]

    stop, is_dense, margin = stopped.stop(cell), cell.variant.dense, cell.run.margin

    def make() -> dict[str, Any]:
        theirs, before = cell.items(), ours()
        found = {}
        if before is not None and not is_dense:
            found = {metric.name: _gap(cell, metric, before, theirs) for metric in described}
        main = metrics.describe(primary)
        own = bits.of(before, theirs, main) if before is not None else None
        if stop and stop.early:
            return {"gaps": found, "groups": [], "bits": own}
        parts = groups.rows(main, before, theirs, is_dense=is_dense, margin=margin)
        return {"gaps": found, "groups": list(parts), "bits": own}

    made_of: list[str | StoredCell] = [
        cell.role,
        primary,
        repr((margin, stop, cell.run.cell.task.stop)),
        *map(repr, described),
        cell,
        *([dense] if dense else []),
    ]
    return kept.get(cell, made_of, make)


def _gap(cell: StoredCell, metric: metrics.Metric, dense: Items, theirs: Items) -> dict[str, Any]:
    """The columns of a cell's metric beside dense's; of a cell that ended early the score's as well."""
    stop, how = stopped.stop(cell), How(cell.run.margin)
    mine = metric == stopping.deciding(cell.run)
    if stop and stop.early:
        return (
            stopped.headline(cell, metric, dense, theirs)
            if mine
            else stopped.other(metric, dense, theirs, how)
        )
    columns = rows.beside(dense, theirs, metric, how)
    if stop and mine and columns and metric.compared and stopped.decided(stop):
        columns["verdict"] = stopped.SHOWN.get(stop.verdict, stop.verdict)
    return columns


def note(store: Store, run: Result, dense: Result) -> None:
    """Compute a stored cell's statistics beside dense's and keep them with it, so that no reader has to."""
    cell, other = (StoredCell(one, store, "", {}) for one in (run, dense))
    kept = StatisticsCache({})
    beside_dense(cell, other, other.items, kept)
    both = [other] if run.key == dense.key else [other, cell]
    for derived in (lengths, calibration, wordings):
        list(derived.rows(both, kept))
    store.note(run.key, kept.texts(store).used)
