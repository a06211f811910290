"""Scores of worked solutions: whether the number that an answer ends in is right."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kick.tasks.text import words

if TYPE_CHECKING:
    import datasets

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_MARKS = re.compile(r"<<[^<>]*>>")  # of GSM8K's calculator
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


def gsm8k(docs: Iterable[Mapping[str, Any]]) -> datasets.Dataset:
    """GSM8K's rows by the hash of their question: question, solution (without calculator marks), answer."""
    import datasets

    rows = sorted(docs, key=lambda doc: hashlib.sha256(doc["question"].encode()).hexdigest())
    return datasets.Dataset.from_list([_of_gsm8k(doc) for doc in rows])


def _of_gsm8k(doc: Mapping[str, Any]) -> dict[str, str]:
    worked, _, answer = doc["answer"].rpartition("####")
    plain = " ".join(_MARKS.sub("", worked).split())
    answer = answer.strip().replace(",", "")
    return {
        "question": doc["question"].strip(),
        "solution": f"{plain} The answer is {answer}.",
        "answer": answer,
    }
