"""Scores of LLM-KICK's tasks that KICK-Mini has none of: labels written out, and instructions followed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kick.tasks.scripts import latin, split
from kick.tasks.text import distinct_words, is_loop, is_refusal, label, words

LABELS = "ABCD"


def label_answer(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """A label in the model's own words, losing the form told from losing the knowledge.

    exact_match: the answer is the right label. format_failure: it is not a label. among_labels: right or
    wrong of an answer that is a label, NaN for one that is not.
    """
    said = label(results[0], LABELS)
    right = float(said == LABELS[doc["answer"]])
    return {
        "exact_match": right,
        "format_failure": float(said is None),
        "among_labels": math.nan if said is None else right,
        "empty": float(not words(results[0])),
    }


def instruction(_doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """What can be measured of an answer without a judge; the mean over the turns that are given."""
    rows = [_told(text) for text in results]
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def _told(text: str) -> dict[str, float]:
    return {
        "length": float(len(split(text))),
        "distinct": float(distinct_words(text)),
        "loop": float(is_loop(text)),
        "refusal": float(is_refusal(text)) if latin(text) else math.nan,  # a rule for English
        "empty": float(not words(text)),
    }
