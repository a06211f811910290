"""A fixed shuffled order in which every prefix is balanced over the groups of its rows.

lm-eval's limit takes the first n rows, and data sets are sorted by subject. Rows are put in an order that
only their content decides: within a group by a hash, and between groups so that a group of a tenth of the
rows has a tenth of every prefix, to within one row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kick.records import canonical

SEED = "kick-1"

Row = dict[str, Any]


@dataclass(frozen=True)
class Order:
    """How the rows of a split are arranged.

    by: the column, or a function of a row, that names the group; None for one group.
    distinct: of rows that agree in these columns the first is kept.
    take: only so many of the arranged rows; None for all. shuffle false leaves the order as it is.
    """

    by: str | Callable[[Row], str] | None = None
    distinct: Sequence[str] = ()
    take: int | None = None
    shuffle: bool = True

    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        """The rows that are left, in the fixed order."""
        rows = distinct(rows, self.distinct) if self.distinct else list(rows)
        if self.shuffle:
            rows = balanced(rows, self.group)
        return rows[: self.take]

    def group(self, row: Row) -> str:
        """The group that a row belongs to."""
        if self.by is None:
            return ""
        return str(self.by(row) if callable(self.by) else row[self.by])


def distinct(rows: Sequence[Row], columns: Sequence[str]) -> list[Row]:
    """The first of all rows that agree in these columns, in the order given."""
    seen: dict[str, Row] = {}
    for row in rows:
        seen.setdefault(canonical([row[column] for column in columns]), row)
    return list(seen.values())


def balanced(rows: Sequence[Row], group: Callable[[Row], str]) -> list[Row]:
    """The rows, shuffled by the hash of their content, groups interleaved in proportion to their size."""
    members: dict[str, list[tuple[str, Row]]] = {}
    for row in rows:
        members.setdefault(group(row), []).append((_hash(canonical(row)), row))
    places: list[tuple[float, str, Row]] = []
    for name, group_rows in members.items():
        shift = int(_hash(name)[:8], 16) / 16**8  # so that groups of one size do not move in step
        ordered = sorted(group_rows, key=lambda pair: pair[0])
        places += [((i + shift) / len(ordered), digest, row) for i, (digest, row) in enumerate(ordered)]
    return [row for _, _, row in sorted(places, key=lambda place: place[:2])]


def _hash(text: str) -> str:
    return hashlib.sha256(f"{SEED}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()
