"""What a task's documents share with a corpus that is trained on: whole texts, and 13 words in a row."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

GRAM = 13  # words that a task and a corpus may not share in a row
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Leak:
    """A task's document that is in a corpus: whole ("text"), or by 13 words in a row ("13-gram")."""

    document: int
    kind: str
    words: str


def leaks(documents: Iterable[str], corpus_texts: Iterable[str]) -> list[Leak]:
    """The documents of a task that share text with a corpus, each once, by whole text first."""
    whole: set[str] = set()
    grams: set[int] = set()
    for text in corpus_texts:
        found = normal(text)
        whole.add(_hash(found))
        grams |= {hash(gram) for gram in _grams(found)}
    return [
        leak
        for number, document in enumerate(documents)
        if (leak := _leak(number, normal(document), whole, grams)) is not None
    ]


def _leak(number: int, found: list[str], whole: set[str], grams: set[int]) -> Leak | None:
    if found and _hash(found) in whole:
        return Leak(number, "text", " ".join(found[:GRAM]))
    for gram in _grams(found):
        if hash(gram) in grams:
            return Leak(number, f"{GRAM}-gram", " ".join(gram))
    return None


def normal(text: str) -> list[str]:
    """The words of a text, without case and punctuation."""
    return _WORD.findall(text.lower())


def _hash(found: list[str]) -> str:
    return hashlib.sha256(" ".join(found).encode()).hexdigest()


def _grams(found: list[str]) -> Iterator[tuple[str, ...]]:
    return zip(*(found[start:] for start in range(GRAM)), strict=False)
