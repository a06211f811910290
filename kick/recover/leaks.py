"""What a task's documents share with a corpus that is trained on: whole texts, and 13 words in a row.

Words are compared without case and punctuation. Thirteen words in a row are compared by a 64-bit sum of
their hashes, all of a text at once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GRAM = 13  # words that a task and a corpus may not share in a row
_WORD = re.compile(r"\w+")
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd: a power of it loses no word


@dataclass(frozen=True)
class Leak:
    """A task's document that is in a corpus: whole ("text"), or by 13 words in a row ("13-gram")."""

    document: int
    kind: str
    words: str


class KnownText:
    """The texts of a corpus and their runs of 13 words."""

    def __init__(self, texts: Iterable[str]):
        found = [normal(text) for text in texts]
        self._whole = {_hash(words) for words in found if words}
        self._grams = np.unique(np.concatenate([np.empty(0, np.uint64), *map(_grams, found)]))

    def leaks(self, documents: Iterable[str]) -> list[Leak]:
        """The documents that share text with the corpus, each once, by whole text first."""
        leaks = (self._leak(number, normal(document)) for number, document in enumerate(documents))
        return [leak for leak in leaks if leak is not None]

    def _leak(self, number: int, words: list[str]) -> Leak | None:
        if words and _hash(words) in self._whole:
            return Leak(number, "text", " ".join(words[:GRAM]))
        own = _grams(words)
        near = np.searchsorted(self._grams, own).clip(max=max(len(self._grams) - 1, 0))
        places = np.flatnonzero(self._grams[near] == own) if len(self._grams) else near[:0]
        if not len(places):
            return None
        first = int(places[0])
        return Leak(number, f"{GRAM}-gram", " ".join(words[first : first + GRAM]))


def leaks(documents: Iterable[str], corpus_texts: Iterable[str]) -> list[Leak]:
    """The documents of a task that share text with a corpus, each once, by whole text first."""
    return KnownText(corpus_texts).leaks(documents)


def normal(text: str) -> list[str]:
    """The words of a text, without case and punctuation."""
    return _WORD.findall(text.lower())


def _hash(found: list[str]) -> str:
    return hashlib.sha256(" ".join(found).encode()).hexdigest()


def _grams(words: list[str]) -> NDArray[np.uint64]:
    """A number for each 13 words in a row; equal ones for equal words."""
    count = len(words) - GRAM + 1
    if count < 1:
        return np.empty(0, np.uint64)
    hashes = np.fromiter((hash(word) for word in words), np.int64, len(words)).view(np.uint64)
    found = np.zeros(count, np.uint64)
    for place in range(GRAM):
        found = found * _BASE + hashes[place : place + count]  # modulo 2^64
    return found
