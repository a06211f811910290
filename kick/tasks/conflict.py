"""Passages that contradict what is known: an answer replaced by another of its kind, by rule and repeatably.

Out of SQuAD-form rows whose answer is of a kind that shape and question tell: a person (who, a capitalised
name), a place (where, a capitalised name), a year (when, four digits), a number (how many, digits). Every
place of the answer in the passage gets the answer of another row, of the same kind and from another passage.
A row is left out where the replaced answer would not be gone: a word of it still in the passage, or in the
question.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import datasets

_ASKED = re.compile(
    r"\b(who|whom|whose|where|when|how many|(?:what|which) (?:year|city|country|state|town))\b"
)
_YEAR = re.compile(r"1\d{3}|20\d\d")
_NUMBER = re.compile(r"\d{1,3}(,\d{3})*|\d+")
_KINDS = {"who": "person", "whom": "person", "whose": "person", "how many": "number", "when": "year"}

Row = Mapping[str, Any]


def conflicts(docs: Iterable[Row]) -> datasets.Dataset:
    """The rows whose answer could be replaced.

    Columns: id, kind, passage, question, context_answer (what the passage now says), memory_answer (what it
    said before), context_aliases and memory_aliases (empty lists).
    """
    rows = [(kind, doc) for doc in docs if (kind := kind_of(doc["question"], _answer(doc)))]
    made = (_conflict(kind, doc, [other for k, other in rows if k == kind]) for kind, doc in rows)
    return datasets.Dataset.from_list([row for row in made if row])


def kind_of(question: str, answer: str) -> str:
    """person, place, year or number; "" where question and answer do not tell."""
    asked = _ASKED.search(question.lower())
    if asked is None:
        return ""
    kind = _KINDS.get(asked[0], "year" if asked[0].endswith("year") else "place")
    words = answer.split()
    fits = {
        "year": bool(_YEAR.fullmatch(answer)),
        "number": bool(_NUMBER.fullmatch(answer)),
        "person": 1 <= len(words) <= 3 and all(word[0].isupper() for word in words),
        "place": 1 <= len(words) <= 3 and all(word[0].isupper() for word in words),
    }
    return kind if fits[kind] else ""


def _answer(doc: Row) -> str:
    return doc["answers"]["text"][0]


def _conflict(kind: str, doc: Row, others: Sequence[Row]) -> dict[str, Any] | None:
    memory = _answer(doc)
    passage, question = doc["context"], doc["question"]
    spare = [other for other in others if _strange(_answer(other), doc)]
    if not spare or _mentions(question, memory):
        return None
    said = _answer(min(spare, key=lambda other: _rank(doc["id"], other["id"])))
    changed = re.sub(rf"(?<!\w){re.escape(memory)}(?!\w)", lambda _: said, passage)
    if changed == passage or _mentions(changed, memory):
        return None
    return {
        "id": doc["id"],
        "kind": kind,
        "passage": changed,
        "question": question,
        "context_answer": said,
        "context_aliases": [],
        "memory_answer": memory,
        "memory_aliases": [],
    }


def _strange(answer: str, doc: Row) -> bool:
    """Whether nothing of `answer` is in the passage, the question or the answer of `doc`."""
    return not any(_mentions(text, answer) for text in (doc["context"], doc["question"], _answer(doc)))


def _mentions(text: str, name: str) -> bool:
    """Whether a word of the name, of more than two letters or all digits, stands in the text."""
    there = set(re.findall(r"\w+", text.lower()))
    parts = [part for part in re.findall(r"\w+", name.lower()) if len(part) > 2 or part.isdigit()]
    return any(part in there for part in parts or re.findall(r"\w+", name.lower()))


def _rank(mine: str, other: str) -> str:
    return hashlib.sha256(f"{mine}\0{other}".encode()).hexdigest()
