"""Answers of another program, as a reader of its files gives them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kick.errors import KickError
from kick.records import ModelSpec, Request, Response
from kick.tasks.task import Item

NEAR = 1e-6  # by which a score in a file may differ from ours of the same answer


@dataclass(frozen=True)
class TheirAnswer:
    """One document's answer.

    document: what the document is recognised by, see `AnswerFile.documents`. replies: one per request, a
    text, or log-probability and greediness as texts; none if there was no answer. arguments: what each
    request was made of (context, continuation or generation options); none if the file does not say it.
    scores: the file's own, by our names of columns. target: the right answer, "" if the file does not say it.
    """

    document: str
    replies: tuple[Any, ...]
    arguments: tuple[tuple[Any, ...], ...] = ()
    scores: Mapping[str, float] | None = None
    target: str = ""


@dataclass(frozen=True)
class AnswerFile:
    """One file: the answers of one model on one task.

    tool: the program with its version; engine: the same with what computed; digest: sha256 of the file;
    documents: of items, the names by which an answer's `document` finds each. scored: whether answers that
    our task cannot score keep the file's own scores. notes: what a reader must know.
    """

    path: str
    task: str
    tool: str
    engine: str
    model: ModelSpec
    digest: str
    answers: tuple[TheirAnswer, ...]
    documents: Callable[[Sequence[Item]], list[str]]
    shots: int | None = None
    time: str = ""
    scored: str = ""
    notes: tuple[str, ...] = ()


def paired(file: AnswerFile, items: Sequence[Item], whole: bool) -> list[TheirAnswer]:
    """The file's answer to each item, in the items' order.

    `whole`: whether the items are all of the task, so that the file must not have others.

    Raises:
        KickError: an item without an answer, an answer to no item, a document answered twice.
    """
    waiting: dict[str, list[TheirAnswer]] = {}
    for answer in file.answers:
        waiting.setdefault(answer.document, []).append(answer)
    found: list[TheirAnswer] = []
    lost: list[Item] = []
    for name, item in zip(file.documents(items), items, strict=True):
        if waiting.get(name):
            found.append(waiting[name].pop(0))
        else:
            lost.append(item)
    if lost:
        raise KickError(
            f"{file.path}: {len(lost)} of the {len(items)} documents of {file.task} have no answer in it, "
            f"the first one: {_shown(lost[0])}; it has {len(file.answers)} answers. Pairing needs the same "
            "documents, by their hash"
        )
    rest = [answer for answers in waiting.values() for answer in answers]
    answered = {answer.document for answer in found}
    twice = [answer for answer in rest if answer.document in answered]
    if twice or (rest and whole):
        what = "are answered twice" if twice else f"are not documents of {file.task}"
        raise KickError(
            f"{file.path}: {len(twice or rest)} of its {len(file.answers)} answers {what}, the first one: "
            f"{(twice or rest)[0].document[:80]!r}"
        )
    return found


def _shown(item: Item) -> str:
    return repr(" ".join(item.preview[-100:].split()))


def asked(item: Item, answer: TheirAnswer) -> Item:
    """The item as the other program asked it, as far as its file says."""
    if len(answer.arguments) != len(item.requests):
        return item
    return replace(item, requests=tuple(map(_request, item.requests, answer.arguments)))


def _request(ours: Request, arguments: tuple[Any, ...]) -> Request:
    context, *rest = arguments
    if ours.kind == "loglikelihood":
        return replace(ours, context=str(context), continuation=str(rest[0]) if rest else "")
    if ours.kind == "generate":
        options = rest[0] if rest and isinstance(rest[0], Mapping) else {}
        until = options.get("until") or ()
        return replace(ours, context=str(context), until=(until,) if isinstance(until, str) else tuple(until))
    return replace(ours, context=str(context))


def responses(file: AnswerFile, item: Item, answer: TheirAnswer) -> tuple[Response, ...]:
    """The answer as our task takes it. Raises KickError for one of another form."""
    if len(answer.replies) != len(item.requests):
        raise KickError(
            f"{file.path}: {len(answer.replies)} replies to {_shown(item)}; {file.task} asks "
            f"{len(item.requests)} requests for it"
        )
    try:
        return tuple(map(_response, item.requests, answer.replies))
    except (TypeError, ValueError, OverflowError) as error:
        raise KickError(
            f"{file.path}: a reply to {_shown(item)} is not one to a request of {file.task}: {error}"
        ) from None


def _response(request: Request, reply: Any) -> Response:
    if request.kind == "generate":
        if not isinstance(reply, str):
            raise TypeError(f"got {str(reply)[:80]!r}; expected a text")
        return Response(text=reply)
    if request.kind == "rolling":
        return Response(logprob=float(reply))
    if not isinstance(reply, list | tuple) or len(reply) != 2 or str(reply[1]) not in ("True", "False"):
        raise TypeError(f"got {str(reply)[:80]!r}; expected a log-probability and True or False")
    return Response(logprob=float(reply[0]), greedy=str(reply[1]) == "True")


def differing(ours: Sequence[Mapping[str, float]], answers: Sequence[TheirAnswer]) -> dict[str, int]:
    """By metric, how many items the file scores otherwise than we do."""
    found: dict[str, int] = {}
    for scores, answer in zip(ours, answers, strict=True):
        for name, value in (answer.scores or {}).items():
            mine = scores.get(name)
            if mine is not None and not math.isclose(mine, value, rel_tol=NEAR, abs_tol=NEAR):
                both_missing = math.isnan(mine) and math.isnan(value)
                found[name] = found.get(name, 0) + (not both_missing)
    return {name: number for name, number in found.items() if number}
