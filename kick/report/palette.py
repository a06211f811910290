"""Colours, markers and lines of methods and verdicts, on pages and in figures alike.

The colours are Okabe and Ito's, told apart with every common colour blindness; their yellow is left out, too
pale on white. Nothing is told by colour alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from kick import catalog
from kick.analysis.verdicts import WITHIN_NOISE, WITHIN_ORDERS
from kick.errors import KickError
from kick.runtime.entry import runtimes

Line = Literal["-", "--", "-.", ":"]

COLORS = {
    "ink": "#222222",
    "quiet": "#6b6b6b",
    "blue": "#0072b2",
    "red": "#d55e00",
    "green": "#009e73",
    "pink": "#cc79a7",
    "orange": "#e69f00",
    "sky": "#56b4e9",
}


@dataclass(frozen=True)
class Look:
    """A colour's name, a marker and a line in matplotlib's letters."""

    color: str
    marker: str
    line: Line = "-"

    @property
    def hex(self) -> str:
        return COLORS[self.color]


DENSE = Look("ink", "_", "--")
_COLORS = ("blue", "red", "green", "pink", "orange", "sky")
MARKERS = ("o", "s", "^", "v", "D", "P", "x", "X", "<", ">", "p", "h", "*", "d", "8")
LINES: tuple[Line, ...] = ("-", "--", "-.", ":")
_MARKERS, _LINES = MARKERS[MARKERS.index("X") :], LINES[1:]

VERDICTS = {
    "matching": Look("blue", "o"),
    "worse": Look("red", "v"),
    "better": Look("green", "^"),
    "undecided": Look("quiet", "o"),
    WITHIN_NOISE: Look("quiet", "s"),
    WITHIN_ORDERS: Look("quiet", "D"),
    "": Look("quiet", "."),
}


def method_look(name: str) -> Look:
    """The look of a method or recipe, the same everywhere: its own, or one by its place or its name."""
    if name == "dense":
        return DENSE
    known = catalog.known()
    if name in known and known[name].look:
        return _own(name, known[name].look)
    if name in runtimes.facts():
        return _own(name, runtimes.facts()[name].look)
    others = [other for other, facts in catalog.shipped().items() if not facts.look]
    return numbered(others.index(name) if name in others else sum(name.encode()))


def _own(name: str, text: str) -> Look:
    """The look that a method's decorator names. Raises KickError if it is not one."""
    parts = text.split()
    known = (COLORS, MARKERS, LINES)
    if len(parts) != 3 or any(part not in some for part, some in zip(parts, known, strict=True)):
        raise KickError(
            f"the method {name!r} has the look {text!r}; expected a colour, a marker and a line, such as "
            f"'blue s -', of {', '.join(COLORS)}; {' '.join(MARKERS)}; {' '.join(LINES)}"
        )
    color, marker, line = parts
    return Look(color, marker, LINES[LINES.index(line)])


def numbered(place: int) -> Look:
    """The look of the n-th of things that have none of their own."""
    rounds = place // math.lcm(len(_COLORS), len(_MARKERS), len(_LINES))  # else the same three would meet
    line = _LINES[(place + rounds) % len(_LINES)]
    return Look(_COLORS[place % len(_COLORS)], _MARKERS[place % len(_MARKERS)], line)
