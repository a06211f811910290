"""Reads the JSON logs of Inspect (inspect_ai).

A log has no document, only the question as it was put. An item is recognised by the text of one field of its
document (or of its prompt), the same field for the whole log, blanks aside.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kick.errors import KickError
from kick.interop.answers import AnswerFile, TheirAnswer
from kick.records import ModelSpec
from kick.tasks.task import Item

VALUES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0, "yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?|nan", re.I)
ATTACHED = re.compile(r"attachment://([0-9a-f]+)")


def read(path: Path, scorer: str | None = None) -> AnswerFile:
    """The answers in a log; `scorer`: which of several scores counts.

    Raises:
        KickError: not a log, one that did not end well, several epochs, a scorer that is not named.
    """
    data = path.read_bytes()
    log = _log(path, data)
    about, samples = log["eval"], log["samples"]
    if log.get("status") != "success":
        raise KickError(f"{path}: its status is {log.get('status')!r}; expected: success")
    if {sample.get("epoch", 1) for sample in samples} != {1}:
        raise KickError(f"{path}: several epochs; expected one answer per question (--epochs 1)")
    name = _scorer(path, samples, scorer)
    version = (about.get("packages") or {}).get("inspect_ai", "")
    tool = f"inspect_ai {version}".strip()
    answers = tuple(_answer(path, sample, name) for sample in samples)
    questions = {answer.document for answer in answers}
    return AnswerFile(
        path=str(path),
        task=str(about.get("task", "")).rpartition("/")[2],
        tool=tool,
        engine=f"{tool} {str(about.get('model', '')).partition('/')[0]}".strip(),
        model=ModelSpec(str(about.get("model") or "unknown"), dtype=""),
        digest=hashlib.sha256(data).hexdigest(),
        answers=answers,
        documents=lambda items: _documents(path, questions, items),
        time=str(about.get("created", "")),
        scored=name,
        notes=("asked by Inspect: the prompts are not those of the dense cell",),
    )


def _log(path: Path, data: bytes) -> dict[str, Any]:
    if data[:2] == b"PK":
        raise KickError(
            f"{path}: a log of Inspect in its .eval form; `inspect log convert --to json` makes JSON"
        )
    try:
        log = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise KickError(f"{path}: not JSON: {error}") from None
    whole = (
        isinstance(log, dict) and isinstance(log.get("eval"), dict) and isinstance(log.get("samples"), list)
    )
    if not whole or not log["samples"] or not all(isinstance(one, dict) for one in log["samples"]):
        raise KickError(f"{path}: not a log of Inspect with its samples; expected the keys eval and samples")
    return log


def _scorer(path: Path, samples: Sequence[Mapping[str, Any]], named: str | None) -> str:
    names = list(dict.fromkeys(name for sample in samples for name in (sample.get("scores") or {})))
    if named is not None and named not in names:
        raise KickError(f"--scorer: {named!r} is not in {path}; it has {', '.join(names) or 'none'}")
    if named is None and len(names) > 1:
        raise KickError(f"{path} has the scorers {', '.join(names)}; name one with --scorer")
    return named or (names[0] if names else "")


def _answer(path: Path, sample: Mapping[str, Any], scorer: str) -> TheirAnswer:
    question = _squeezed(_text(sample, _last_user(sample.get("input"))))
    if sample.get("error"):
        return TheirAnswer(question, ())
    output = sample.get("output") or {}
    text = output.get("completion") or ""
    if not text and output.get("choices"):
        text = _content((output["choices"][0].get("message") or {}).get("content"))
    score = (sample.get("scores") or {}).get(scorer) or {}
    value = _value(path, score.get("value"))
    return TheirAnswer(question, (_text(sample, text),), scores={scorer: value}, target=_target(sample))


def _value(path: Path, value: Any) -> float:
    """A score as Inspect's own metrics take it; NaN if there is none."""
    if value is None:
        return math.nan
    if isinstance(value, bool | int | float):
        return float(value)
    if isinstance(value, str):
        named = VALUES.get(value, VALUES.get(value.lower()))
        if named is not None:
            return named
        if NUMBER.fullmatch(value):
            return float(value)
    raise KickError(f"{path}: a score is {str(value)[:60]!r}; expected C, I, P, N or a number")


def _target(sample: Mapping[str, Any]) -> str:
    """The right answer; of a letter the choice's text."""
    target, choices = sample.get("target"), sample.get("choices")
    target = target[0] if isinstance(target, list) and target else target
    if isinstance(target, str) and isinstance(choices, list) and len(target) == 1 and target.isupper():
        place = ord(target) - ord("A")
        return str(choices[place]) if place < len(choices) else target
    return str(target or "")


def _last_user(given: Any) -> str:
    """The question: the text, or the last message of the user."""
    if isinstance(given, list):
        turns = [one for one in given if isinstance(one, dict) and one.get("role") == "user"]
        return _content(turns[-1].get("content")) if turns else ""
    return str(given or "")


def _content(content: Any) -> str:
    if isinstance(content, list):
        parts = [part.get("text", "") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return str(content or "")


def _text(sample: Mapping[str, Any], text: str) -> str:
    """The text with what the log keeps apart put back."""
    attached = sample.get("attachments") or {}
    return ATTACHED.sub(lambda found: str(attached.get(found[1], found[0])), text)


def _squeezed(text: str) -> str:
    return " ".join(text.split())


def _documents(path: Path, questions: set[str], items: Sequence[Item]) -> list[str]:
    """The text of each item that the log's questions are: of the field that most of them equal."""
    fields: dict[str, list[str]] = {"the prompt": [_squeezed(_prompt(item)) for item in items]}
    for name in items[0].doc if items else ():
        fields[name] = [_squeezed(str(item.doc.get(name, ""))) for item in items]
    best = max(fields, key=lambda name: len(questions & set(fields[name])))
    if not questions & set(fields[best]):
        raise KickError(
            f"{path}: none of its {len(questions)} questions is the text of a field of this task's documents "
            f"({', '.join(fields)}), the first one: {min(questions)[:80]!r}"
        )
    return fields[best]


def _prompt(item: Item) -> str:
    return item.requests[0].context if item.requests else ""
