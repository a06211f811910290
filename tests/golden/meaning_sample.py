"""A sample of Python's forms: its digest is the same on every version of Python that kick runs on."""

from __future__ import annotations

import logging
import math as m
from dataclasses import dataclass, field

log = logging.getLogger(__name__)
TABLE = {"a": 1, "b": -2.5e-3, **{"é\u2028": 10**20}}
TABLE["c"] = 0x1F


@dataclass(frozen=True)
class Point:
    """Two numbers."""

    x: float
    y: float = field(default=0.0)

    @property
    def length(self) -> float:
        """The distance from the origin."""
        return m.hypot(self.x, self.y)


def everything(first, /, second, *rest, third=3, **named):
    """Most statements and expressions."""
    total, text = 0, "a" "b" f"{first!r:>{second}}" "c" f"{third:}" f"{total=}"
    for number, (x, *others) in enumerate(rest):
        total += number if x else len(others)
    else:
        total -= 1
    while total > 10 and (half := total // 2):
        total = half
    with open(text) as one, open(text) as other:
        lines = [line.strip() for line in one if line for _ in other]
    try:
        found = {key: value for key, value in named.items()} if False else {}
    except (OSError, ValueError) as error:
        log.warning("not read: %s", error)
        raise RuntimeError(f"not read: {error}") from error
    finally:
        del lines
    match found:
        case {"x": 1, **others}:
            return others
        case [Point(x=0), *tail] | [tail]:
            return tail
        case str() as name if name:
            return name

    def inner():
        nonlocal total
        total = lambda y, *z: (y, z, ..., None, True, b"\x00", 1j)  # noqa: E731
        yield from (total for total in rest)

    return inner, not first @ second, [*rest], {*rest}, rest[1:2, ::3], first < second <= third is not None
