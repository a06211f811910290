"""What the items of a cell say beside dense's, computed once and kept with the store.

A statistic's name is a hash of all that it is made of: the checksums of the samples, the metrics, and the
code that computes it. So none is ever stale: of what changed the name changed, and it is computed anew.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kick import metrics, significance
from kick.report import groups, items, pairs, rows
from kick.report.cells import Cell
from kick.report.items import Items
from kick.report.tasks import headline

COMPUTING = (metrics, significance, groups, items, pairs, rows)  # and this module


class Kept:
    """Statistics by name: what the stores remember, what is computed now, and `save` to remember both."""

    def __init__(self) -> None:
        self._stores: dict[int, _Texts] = {}

    def get(self, cell: Cell, made_of: Sequence[str | Cell], make: Callable[[], Any]) -> Any:
        """The JSON value that `make` gives; computed where the cell's store does not remember it.

        `made_of`: what the statistic is, and the cells whose samples go into it.
        """
        parts = [one.run.samples.get("sha256") if isinstance(one, Cell) else one for one in made_of]
        if None in parts:  # samples without a checksum cannot be told from others
            return make()
        texts = self._stores.setdefault(id(cell.store), _Texts(cell.store))
        name = hashlib.sha256("\0".join([_code(), *map(str, parts)]).encode()).hexdigest()
        return texts.get(name[:32], make)

    def save(self) -> None:
        """Have each store remember what was asked for, where something new was computed."""
        for texts in self._stores.values():
            texts.save()


class _Texts:
    """What one store remembers."""

    def __init__(self, store: Any):
        self.store, self.used, self.fresh = store, {}, False

    @functools.cached_property
    def known(self) -> Mapping[str, str]:
        return self.store.recall()

    def get(self, name: str, make: Callable[[], Any]) -> Any:
        if name in self.known:
            try:
                value = json.loads(self.known[name])
            except ValueError:  # damaged
                pass
            else:
                self.used[name] = self.known[name]
                return value
        value, self.fresh = make(), True
        self.used[name] = json.dumps(value)
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
    cell: Cell, dense: Cell | None, ours: Callable[[], Items | None], kept: Kept
) -> dict[str, Any]:
    """{"gaps": {metric: columns}, "groups": [row]} of a cell's items beside dense's, which `ours` reads."""
    names = [score.metric for score in cell.run.scores]
    primary = headline(cell.run.cell.task.name, names)
    described = [metrics.describe(name) for name in names]

    def make() -> dict[str, Any]:
        theirs, before = cell.items(), ours()
        found = {}
        if before is not None and not cell.variant.dense:
            gaps = [items.difference(before, theirs, metric) for metric in described]
            both = zip(gaps, described, strict=True)
            found = {metric.name: rows.gap(gap, metric) for gap, metric in both}
        parts = groups.rows(metrics.describe(primary), before, theirs, is_dense=cell.variant.dense)
        return {"gaps": found, "groups": list(parts)}

    whom = "dense" if cell.variant.dense else "beside dense"
    made_of = [whom, primary, *map(repr, described), cell, *([dense] if dense else [])]
    return kept.get(cell, made_of, make)
