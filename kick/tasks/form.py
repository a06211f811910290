"""Whether an answer has the form that was asked for, by rule, and whether it is about what was asked.

The two are scored apart: an answer may have three lines and say nothing, or say the right thing in four. A
rule is a mapping of one or two keys: lines, words_per_line, words, items, numbered (numbers), json (keys),
without (a letter), lower. Form accuracy as the share of texts that meet their pattern
exactly is CharPoet's measure (Yu et al. 2024, arXiv 2401.03512), there of Chinese poems.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from kick.tasks.text import contains, words

_NUMBERED = re.compile(r"(\d+)\.\s+\S.*")


def followed(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """form: the rule is met exactly; content: the answer names what it was asked about; both; empty.

    Blanks around the answer do not count. An answer without a word has no form: 0 in all but `empty`.
    """
    text = results[0].strip()
    form = bool(words(text)) and meets(text, json.loads(doc["rule"]))
    content = sum(contains(text, [word]) for word in doc["about"]) >= doc["least"]
    return {
        "form": float(form),
        "content": float(content),
        "form_and_content": float(form and content),
        "empty": float(not words(text)),
    }


def meets(text: str, rule: Mapping[str, Any]) -> bool:
    """Whether a stripped text meets a rule. Raises ValueError for a rule that is not known."""
    return all(_meets(text, name, value) for name, value in rule.items())


def _meets(text: str, name: str, value: Any) -> bool:
    lines = text.split("\n")
    if name == "lines":
        return len(lines) == value and all(map(str.strip, lines))
    if name == "words_per_line":
        return all(len(line.split()) == value for line in lines)
    if name == "words":
        return len(text.split()) == value
    if name == "items":
        parts = text.rstrip(".").split(",")
        return len(lines) == 1 and len(parts) == value and all(map(str.strip, parts))
    if name == "numbered":
        numbers = [found[1] if (found := _NUMBERED.fullmatch(line.strip())) else "" for line in lines]
        return numbers == [str(number) for number in range(1, value + 1)]
    if name == "json":
        return _keys(text) == value
    if name == "without":
        return value not in text.lower()
    if name == "lower":
        return text == text.lower()
    raise ValueError(f"unknown rule of form {name!r}")


def _keys(text: str) -> list[str] | None:
    """The keys of a text that is one JSON object, sorted; None for any other text or a key given twice."""
    try:
        pairs = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):  # not JSON, or nested too deeply to read
        return None
    return sorted(key for key, _ in pairs) if isinstance(pairs, _Pairs) else None


class _Pairs(list[tuple[str, Any]]):
    """The keys and values of a JSON object, in the order in which they are written."""
