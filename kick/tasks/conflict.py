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
from dataclasses import dataclass
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
    docs = docs.to_list() if isinstance(docs, datasets.Dataset) else docs
    kinds = [(kind_of(doc["question"], _answer(doc)), doc) for doc in docs]
    rows = [_Candidate.of(kind, doc) for kind, doc in kinds if kind]
    made = (_conflict(row, [other for other in rows if other.kind == row.kind]) for row in rows)
    return datasets.Dataset.from_list([row for row in made if row])


@dataclass(frozen=True)
class _Candidate:
    """A row of a kind, with all its words and those by which its answer would be recognised."""

    kind: str
    row: Row
    words: frozenset[str]
    names: frozenset[str]

    @classmethod
    def of(cls, kind: str, row: Row) -> _Candidate:
        answer = _answer(row)
        return cls(kind, row, _words(f"{row['context']} {row['question']} {answer}"), _names(answer))


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


def _conflict(doc: _Candidate, others: Sequence[_Candidate]) -> dict[str, Any] | None:
    spare = [other for other in others if not other.names & doc.words]
    if not spare or doc.names & _words(doc.row["question"]):
        return None
    memory = _answer(doc.row)
    said = _answer(min(spare, key=lambda other: _rank(doc.row["id"], other.row["id"])).row)
    passage = doc.row["context"]
    changed = re.sub(rf"(?<!\w){re.escape(memory)}(?!\w)", lambda _: said, passage)
    if changed == passage or doc.names & _words(changed):
        return None
    return {
        "id": doc.row["id"],
        "kind": doc.kind,
        "passage": changed,
        "question": doc.row["question"],
        "context_answer": said,
        "context_aliases": [],
        "memory_answer": memory,
        "memory_aliases": [],
    }


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower()))


def _names(answer: str) -> frozenset[str]:
    """The words by which an answer would be recognised: of more than two letters or all digits, else all."""
    found = _words(answer)
    return frozenset(word for word in found if len(word) > 2 or word.isdigit()) or found


def _rank(mine: str, other: str) -> str:
    return hashlib.sha256(f"{mine}\0{other}".encode()).hexdigest()
