"""Scores of worked solutions: whether the number that an answer ends in is right."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kick.tasks.text import words

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_STATED = re.compile(rf"answer is\D{{0,3}}?({_NUMBER.pattern})", re.IGNORECASE)


def solution(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """exact_match: the stated number is the answer; format_failure: none is stated as "The answer is N";
    last_number: the answer's last number is right, however it is said; empty."""
    text, gold = results[0], number(str(doc["answer"]))
    stated = _STATED.findall(text)
    numbers = _NUMBER.findall(text)
    return {
        "exact_match": float(bool(stated) and number(stated[-1]) == gold),
        "last_number": float(bool(numbers) and number(numbers[-1]) == gold),
        "format_failure": float(not stated),
        "empty": float(not words(text)),
    }


def number(text: str) -> float:
    """The value of a number as it is written, with commas between thousands or without."""
    return float(text.replace(",", ""))


def stated(text: str) -> float | None:
    """The number that a text states last as its answer, None if it states none."""
    found = _STATED.findall(text)
    return number(found[-1]) if found else None
