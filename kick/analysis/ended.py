"""What a result's record says of how its cell ended: with items left unasked, or with all asked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from kick.records import Result

Value = TypeVar("Value")


@dataclass(frozen=True)
class Stop:
    """What the record of a stopped cell says: see `kick.stats.sequential.Decision`."""

    verdict: str
    reason: str
    asked: int
    of: int
    score: float
    gap: float
    low: float
    high: float

    @property
    def early(self) -> bool:
        """Whether items were left unasked."""
        return self.asked < self.of


def stop_of(run: Result) -> Stop | None:
    """How a cell ended that had a rule to end by; None if it had none. Raises ValueError for a bad record."""
    record = run.stopping
    if not record:
        return None
    try:
        found = Stop(
            _of(record, "verdict", str),
            _of(record, "reason", str),
            _of(record, "asked", int),
            _of(record, "of", int),
            *(_number(record, name) for name in ("score", "gap", "low", "high")),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{run.key}: invalid record of how the cell ended: {error}") from error
    if not 0 <= found.asked <= found.of:
        raise ValueError(
            f"{run.key}: invalid record of how the cell ended: {found.asked} of {found.of} items"
        )
    return found


def _of(record: Mapping[str, Any], name: str, kind: type[Value]) -> Value:
    value = record[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{name}: got {value!r}, expected {kind.__name__}")
    return value


def _number(record: Mapping[str, Any], name: str) -> float:
    value = record[name]
    return math.nan if value is None else float(value if type(value) is int else _of(record, name, float))
