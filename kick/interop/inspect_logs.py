"""Reads the JSON logs of Inspect (inspect_ai).

A log has no document, only the question as it was put. An item is recognised by the text of one field of its
document (or of its prompt), the same field for the whole log, blanks aside.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from kick.errors import KickError
from kick.interop.answers import AnswerFile, TheirAnswer
from kick.interop.checked import Form, checked, parsed
from kick.records import ModelSpec
from kick.tasks.task import Item

VALUES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0, "yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?|nan", re.I)
LARGEST = 1e300  # of a score; JSON has integers that no float holds
ATTACHED = re.compile(r"attachment://([0-9a-f]+)")


class Message(Form):
    """A turn; of an answer or of a question."""

    role: str = ""
    content: str | list[Any] | None = None


class Generated(Form):
    """One of the answers that were generated."""

    message: Message = Message()


class Output(Form):
    """What was generated."""

    completion: str | None = None
    choices: list[Generated] | None = None


class Grade(Form):
    """What a scorer made of an answer."""

    value: Any = None


class LogSample(Form):
    """A sample of a log."""

    epoch: int = 1
    input: str | list[Message] = ""
    target: str | list[str] | None = None
    choices: list[str] | None = None
    output: Output | None = None
    scores: dict[str, Grade] | None = None
    error: Any = None
    attachments: dict[str, str] | None = None


class About(Form):
    """The eval part of a log."""

    task: str = ""
    model: str | None = None
    created: str = ""
    packages: dict[str, str] | None = None


class Log(Form):
    """A log with its samples."""

    status: str | None = None
    about: About = Field(alias="eval")
    samples: Annotated[list[LogSample], Field(min_length=1)]


def read(path: Path, scorer: str | None = None) -> AnswerFile:
    """The answers in a log; `scorer`: which of several scores counts.

    Raises:
        KickError: not a log, one that did not end well, several epochs, a scorer that is not named.
    """
    data = path.read_bytes()
    log = _log(path, data)
    about, samples = log.about, log.samples
    if log.status != "success":
        raise KickError(f"{path}: its status is {log.status!r}; expected: success")
    if {sample.epoch for sample in samples} != {1}:
        raise KickError(f"{path}: several epochs; expected one answer per question (--epochs 1)")
    name = _scorer(path, samples, scorer)
    tool = f"inspect_ai {(about.packages or {}).get('inspect_ai', '')}".strip()
    answers = tuple(_answer(path, sample, name) for sample in samples)
    questions = {answer.document for answer in answers}
    return AnswerFile(
        path=str(path),
        task=about.task.rpartition("/")[2],
        tool=tool,
        engine=f"{tool} {(about.model or '').partition('/')[0]}".strip(),
        model=ModelSpec(about.model or "unknown", dtype=""),
        digest=hashlib.sha256(data).hexdigest(),
        answers=answers,
        documents=lambda items: _documents(path, questions, items),
        time=about.created,
        scored=name,
        notes=("asked by Inspect: the prompts are not those of the dense cell",),
    )


def _log(path: Path, data: bytes) -> Log:
    if data[:2] == b"PK":
        raise KickError(
            f"{path}: a log of Inspect in its .eval form; `inspect log convert --to json` makes JSON"
        )
    return checked(str(path), parsed(str(path), data), Log, "a log of Inspect with its samples")


def _scorer(path: Path, samples: Sequence[LogSample], named: str | None) -> str:
    names = list(dict.fromkeys(name for sample in samples for name in (sample.scores or {})))
    if named is not None and named not in names:
        raise KickError(f"--scorer: {named!r} is not in {path}; it has {', '.join(names) or 'none'}")
    if named is None and len(names) > 1:
        raise KickError(f"{path} has the scorers {', '.join(names)}; name one with --scorer")
    return named or (names[0] if names else "")


def _answer(path: Path, sample: LogSample, scorer: str) -> TheirAnswer:
    question = _squeezed(_text(sample, _last_user(sample.input)))
    if sample.error:
        return TheirAnswer(question, ())
    output = sample.output or Output()
    text = output.completion or ""
    if not text and output.choices:
        text = _content(output.choices[0].message.content)
    value = _value(path, (sample.scores or {}).get(scorer, Grade()).value)
    return TheirAnswer(question, (_text(sample, text),), scores={scorer: value}, target=_target(sample))


def _value(path: Path, value: Any) -> float:
    """A score as Inspect's own metrics take it; NaN if there is none."""
    if value is None:
        return math.nan
    if isinstance(value, bool | int | float) and not abs(value) >= LARGEST:
        return float(value)
    if isinstance(value, str):
        named = VALUES.get(value, VALUES.get(value.lower()))
        if named is not None:
            return named
        if NUMBER.fullmatch(value):
            return float(value)
    raise KickError(f"{path}: a score is {str(value)[:60]!r}; expected C, I, P, N or a number")


def _target(sample: LogSample) -> str:
    """The right answer; of a letter the choice's text."""
    target = sample.target if isinstance(sample.target, str) else "".join((sample.target or [])[:1])
    if sample.choices is not None and len(target) == 1 and target.isupper():
        place = ord(target) - ord("A")
        return sample.choices[place] if place < len(sample.choices) else target
    return target


def _last_user(given: str | Sequence[Message]) -> str:
    """The question: the text, or the last message of the user."""
    if isinstance(given, str):
        return given
    turns = [one for one in given if one.role == "user"]
    return _content(turns[-1].content) if turns else ""


def _content(content: str | list[Any] | None) -> str:
    if isinstance(content, list):
        parts = [part.get("text", "") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return content or ""


def _text(sample: LogSample, text: str) -> str:
    """The text with what the log keeps apart put back."""
    attached = sample.attachments or {}
    return ATTACHED.sub(lambda found: attached.get(found[1], found[0]), text)


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
