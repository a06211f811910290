"""Read a verdict from a judge's reply: strictly, anywhere in the reply, or say what is wrong.

A verdict is a JSON object with exactly the expected keys and the question's own code. Objects without the
code (quoted from an answer, say) are passed over; one with the code and anything wrong about it, or two that
differ, make the reply no verdict at all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from kick.judge.rubrics import FIRST, HIGHEST, LOWEST, SECOND, TIE

LONGEST = 100_000  # characters of a reply that are read
PREFERENCE = {FIRST: 1.0, TIE: 0.0, SECOND: -1.0}
_FLAT = re.compile(r"\{[^{}]*\}")
_THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)


class Unparsed(ValueError):
    """A reply without a verdict; the message says what is wrong, and repeats nothing of the reply."""


def parse(reply: str, expected: tuple[str, ...], code: str) -> dict[str, float]:
    """The values of a verdict: grades from 1 to 10, or `better`: 1 the first, -1 the second, 0 a tie.

    Raises Unparsed.
    """
    text = _THOUGHT.sub("", reply[:LONGEST], count=1)
    if not text.strip():
        raise Unparsed("it is empty")
    found = [item for item in _objects(text) if _carries(item, code)]
    if not found:
        raise Unparsed("it has no complete JSON object with the code")
    values = [_values(item, expected) for item in found]
    if any(value != values[0] for value in values):
        raise Unparsed("it has verdicts that differ")
    return values[0]


def _carries(item: list[tuple[str, Any]], code: str) -> bool:
    return any(name == "code" and value == code for name, value in item)


def _values(item: list[tuple[str, Any]], expected: tuple[str, ...]) -> dict[str, float]:
    names = sorted(name for name, _ in item)
    if names != sorted(("code", *expected)):
        raise Unparsed(f"its JSON object has not exactly the keys code, {', '.join(expected)}, once each")
    given = dict(item)
    return {name: _preference(given[name]) if name == "better" else _grade(given[name]) for name in expected}


def _grade(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unparsed("a grade is no number")
    if not LOWEST <= value <= HIGHEST or value != int(value):
        raise Unparsed(f"a grade is no whole number from {LOWEST} to {HIGHEST}")
    return float(value)


def _preference(value: Any) -> float:
    if not isinstance(value, str) or value not in PREFERENCE:
        raise Unparsed(f'"better" is not one of {FIRST}, {SECOND}, {TIE}')
    return PREFERENCE[value]


def _refuse(name: str) -> None:
    """NaN and infinities, which Python's reader takes and JSON has not."""
    raise ValueError(name)


def _objects(text: str) -> Iterator[list[tuple[str, Any]]]:
    """Every JSON object without another inside, as its pairs, so that a key given twice is seen.

    A verdict is flat and has no braces in it: one look at each brace finds it, whatever is around it.
    """
    found = (_object(match.group()) for match in _FLAT.finditer(text))
    return (item for item in found if item is not None)


def _object(text: str) -> list[tuple[str, Any]] | None:
    """The pairs of a JSON object; None if the braces hold none."""
    try:
        return json.loads(text, object_pairs_hook=list, parse_constant=_refuse)
    except ValueError:
        return None
