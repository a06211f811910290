"""Measures of text: what is a match, an overlap, a copy, a loop. Each defined once, here."""

from __future__ import annotations

import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Literal, overload

from kick.tasks.scripts import Blanks, split, tokens

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

VERSION = 1  # 1: words of every script

_PUNCTUATION = Blanks(gone="P")  # of every script
_PUNCTUATION.update(str.maketrans(dict.fromkeys(string.punctuation + "´`", " ")))
_ARTICLES = frozenset({"a", "an", "the"})


def words(text: str) -> list[str]:
    """The words of a text after TriviaQA's normalisation (Joshi et al. 2017, arXiv 1705.03551).

    Lower case, punctuation to blanks, the articles a, an, the removed, white space folded. Punctuation is
    that of all scripts; where a script puts no blanks between words, each character is one.
    """
    plain = unicodedata.normalize("NFC", text.lower()).translate(_PUNCTUATION)
    return [word for word in split(plain) if word not in _ARTICLES]


def exact_match(text: str, golds: Sequence[str]) -> bool:
    """Whether the normalised text equals a normalised gold answer; an empty text never does."""
    said = words(text)
    return bool(said) and any(said == words(gold) for gold in golds)


def token_f1(text: str, golds: Sequence[str]) -> float:
    """The largest F1 over the gold answers of the words' multisets; 0 for an empty text."""
    return max((_f1(words(text), words(gold)) for gold in golds), default=0.0)


def _f1(said: list[str], gold: list[str]) -> float:
    common = sum((Counter(said) & Counter(gold)).values())
    return 2 * common / (len(said) + len(gold)) if common else 0.0


@overload
def contains(text: str, golds: Sequence[str], where: Literal[False] = False) -> bool: ...
@overload
def contains(text: str, golds: Sequence[str], where: Literal[True]) -> int | None: ...
def contains(text: str, golds: Sequence[str], where: bool = False) -> bool | int | None:
    """Whether a gold answer occurs in the text, whole words only.

    With `where`, the index of the first word of the earliest such place, or None.
    """
    said = words(text)
    places = [place for gold in golds if (place := _find(said, words(gold))) is not None]
    if where:
        return min(places, default=None)
    return bool(places)


def _find(said: list[str], gold: list[str]) -> int | None:
    if not gold:
        return None
    return next((i for i in range(len(said) - len(gold) + 1) if said[i : i + len(gold)] == gold), None)


def ngrams(tokens: Sequence[str], n: int) -> Counter:
    """The n-grams of a sequence with their counts."""
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def copied_ngrams(text: str, source: str, n: int) -> float:
    """The share of the text's word n-grams that occur in the source; NaN for a text under n words."""
    said, there = ngrams(words(text), n), ngrams(words(source), n)
    total = sum(said.values())
    return sum(count for gram, count in said.items() if gram in there) / total if total else math.nan


def distinct(text: str, n: int = 1) -> float:
    """The share of distinct word n-grams (Li et al. 2016, arXiv 1510.03055); NaN for a text under n words."""
    said = ngrams(words(text), n)
    return len(said) / sum(said.values()) if said else math.nan


def distinct_words(text: str) -> int:
    """How many different words a text has, after the normalisation of `words`."""
    return len(set(words(text)))


_REFUSAL = re.compile(
    r"(i('m| am) )?(sorry|afraid|unable)\b|i (can(no|')t|can not|won't|will not|do(n't| not) (know|have))\b"
    r"|as an? (ai|artificial|language)\b|unfortunately,? i\b"
)


def is_refusal(text: str) -> bool:
    """Whether a text begins by declining: an apology, "I cannot", "As an AI". English only, by its start."""
    return bool(_REFUSAL.match(text.strip().lower().replace("’", "'")))


def label(text: str, labels: str = "ABCD") -> str | None:
    """The label that a text consists of, with brackets, full stop or colon at most; None if it is none.

    "B", " (B)" and "B." are labels; "b", "B because", "The answer is B" and "" are not.
    """
    found = re.fullmatch(rf"[\s(\[]*([{re.escape(labels)}])[\s.:)\]]*", text)
    return found[1] if found else None


def is_loop(text: str, times: int = 4) -> bool:
    """Whether the text's end repeats: a phrase of 1 to 20 words occurs `times` times in a row at its end.

    A phrase shorter than 3 words has to fill at least 12 words, so that "ha ha ha ha" is not a loop.
    """
    said = split(text.lower())
    for size in range(1, 21):
        need = max(times, -(-12 // size))
        tail = said[-size * need :]
        if len(tail) == size * need and all(tail[i] == tail[i % size] for i in range(size, len(tail))):
            return True
    return False


class _Tokens:
    """rouge-score's tokens, with words of any script: its own tokenizer drops what is not ASCII."""

    def __init__(self) -> None:
        from rouge_score.tokenizers import DefaultTokenizer

        self.english = DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        if text.isascii():
            return self.english.tokenize(text)
        return [
            stem
            for word in tokens(text)
            for stem in (self.english.tokenize(word) if word.isascii() else [word])
        ]


@cache
def _scorer() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(_ROUGE), tokenizer=_Tokens())


_ROUGE = {"rouge1": 1, "rouge2": 2, "rougeL": 1}  # words that a reference must have for the measure to be one


def rouge(text: str, reference: str) -> dict[str, float]:
    """ROUGE-1, -2 and -L F-measures (Lin 2004) by the rouge-score package, with Porter's stemmer for English.

    NaN if the reference has fewer words than the measure compares: nothing could match it.
    """
    enough = len(_Tokens().tokenize(reference)) if reference else 0
    found = _scorer().score(reference, text)
    return {
        name: float(score.fmeasure) if enough >= _ROUGE[name] else math.nan for name, score in found.items()
    }
