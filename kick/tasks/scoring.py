"""The scores of KICK-Mini, as `process_results` functions of lm-eval task files.

Each takes a document and the list of answers (text without the prompt, so no word of the question can count
as answered) and gives one dict of numbers. An empty answer is wrong, and counted as empty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kick.tasks.scripts import split
from kick.tasks.text import contains, copied_ngrams, exact_match, is_loop, rouge, token_f1, words


def _golds(doc: dict[str, Any], answer: str = "answer", aliases: str = "aliases") -> list[str]:
    return [doc[answer], *doc.get(aliases, [])]


def short_answer(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Exact match, token F1 and containment against the answer and its aliases, and whether it is empty."""
    text, golds = results[0], _golds(doc)
    return {
        "exact_match": float(exact_match(text, golds)),
        "f1": token_f1(text, golds),
        "contains": float(contains(text, golds)),
        "empty": float(not words(text)),
    }


def conflict(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Whether the answer comes from the passage, from memory, or from neither.

    An answer that names both counts for the one that stands first, and is counted as naming both. memr is
    MemR of PIP-KAG (arXiv 2502.15543): of the answers that name either, those that name memory's, so that
    there memory wins if both occur; NaN for an answer that names neither.
    """
    text = results[0]
    context = _golds(doc, "context_answer", "context_aliases")
    memory = _golds(doc, "memory_answer", "memory_aliases")
    at_context, at_memory = contains(text, context, where=True), contains(text, memory, where=True)
    from_context = at_context is not None and (at_memory is None or at_context < at_memory)
    from_memory = at_memory is not None and not from_context
    return {
        "from_context": float(from_context),
        "from_memory": float(from_memory),
        "from_neither": float(not from_context and not from_memory),
        "named_both": float(at_context is not None and at_memory is not None),
        "memr": math.nan if at_context is None and at_memory is None else float(at_memory is not None),
        "empty": float(not words(text)),
    }


def summary(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """ROUGE F-measures against the reference, length in words, copied 4-grams, loops, empty answers."""
    text = results[0]
    return {
        **rouge(text, doc["summary"]),
        "length": float(len(split(text))),
        "copied": copied_ngrams(text, doc["article"], 4),
        "loop": float(is_loop(text)),
        "empty": float(not words(text)),
    }


def nanmean(values: Sequence[float]) -> float:
    """The mean of the scores that could be computed; NaN if none could."""
    computed = [value for value in values if not math.isnan(value)]
    return sum(computed) / len(computed) if computed else math.nan
