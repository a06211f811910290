"""Which colour, marker and line a method and a verdict have, on pages and in figures alike.

The colours are Okabe and Ito's, told apart with every common colour blindness; their yellow is left out, too
pale on white. Nothing is told by colour alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from kick.report import select, wording

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
    line: str = "-"

    @property
    def hex(self) -> str:
        return COLORS[self.color]


_FIRST = {
    "dense": Look("ink", "_", "--"),
    "magnitude": Look("red", "o"),
    "wanda": Look("blue", "s"),
    "sparsegpt": Look("green", "^"),
    "gptq": Look("pink", "D"),
    "rtn": Look("orange", "v"),
    "awq": Look("sky", "P"),
    "random": Look("quiet", "x", ":"),
}
_COLORS = ("blue", "red", "green", "pink", "orange", "sky")
_MARKERS, _LINES = ("X", "<", ">", "p", "h", "*", "d", "8"), ("--", "-.", ":")

VERDICTS = {
    "matching": Look("blue", "o"),
    "worse": Look("red", "v"),
    "better": Look("green", "^"),
    "undecided": Look("quiet", "o"),
    wording.WITHIN_NOISE: Look("quiet", "s"),
    "": Look("quiet", "."),
}


def method_look(name: str) -> Look:
    """The look of a method or recipe, the same everywhere."""
    if name in _FIRST:
        return _FIRST[name]
    others = [known for known in select.METHOD_ORDER if known not in _FIRST]
    return numbered(others.index(name) if name in others else sum(name.encode()))


def numbered(place: int) -> Look:
    """The look of the n-th of things that have none of their own."""
    return Look(_COLORS[place % len(_COLORS)], _MARKERS[place % len(_MARKERS)], _LINES[place % len(_LINES)])
