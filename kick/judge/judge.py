"""A judge: questions in, verdicts out. Every reply is kept on disk, so nothing is asked or paid for twice.

    with Judge(settings, open_files("results/.judge")) as judge:
        verdicts = judge.verdicts(questions)      # None if the pass was stopped before or nobody replied

A reply is kept under the hash of the judge's identity and of all that it was shown, the code of the question
left out; several passes and machines may write at once, and the first reply counts. Replies are kept as text
and read anew each time. Failures of form are thus found again rather than asked again; questions that the
endpoint did not answer are kept nowhere, and asked again in the next pass.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any

from kick.judge.endpoint import Endpoint, Message, Stopped, Unanswered
from kick.judge.rubrics import Question, messages, repair
from kick.judge.settings import Settings
from kick.judge.verdicts import Unparsed, parse
from kick.records import canonical
from kick.store.files import Files

CODE_BYTES = 6
UNPARSED = "unparsed"


@dataclass(frozen=True)
class Verdict:
    """Outcome of a question: `values` as `verdicts.parse` gives them, or `failure`, a few words, and none.

    repaired: the form needed its one repair. unanswered: there was no reply, so it is not kept. model: as the
    endpoint names it. tokens: read and written, also if the reply was kept from an earlier pass.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""
    repaired: bool = False
    unanswered: bool = False
    model: str = ""
    tokens: int = 0


@dataclass(frozen=True)
class Exchange:
    """A kept reply, with the code that its question carried."""

    code: str
    text: str
    tokens: int = 0
    model: str = ""


class Judge:
    """A judge at an endpoint, with the replies it gave before. A context that closes its connections."""

    def __init__(self, settings: Settings, kept: Files):
        """`kept` has the replies. Raises KickError if key or client is missing."""
        self.settings = settings
        self.endpoint = Endpoint(settings)
        self.from_cache = 0
        self._kept = kept

    def __enter__(self) -> Judge:
        self.endpoint.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.endpoint.__exit__()

    @property
    def stopped(self) -> str:
        """The reason why nothing more is asked; "" while all is well."""
        return self.endpoint.stopped

    def verdicts(
        self, questions: Sequence[Question], on_done: Callable[[], None] | None = None
    ) -> list[Verdict | None]:
        """One verdict per question, in the order asked; None for those that a pass did not come to.

        At most `settings.workers` requests are in progress at a time; `on_done` is called after each
        question. Raises KickError if key or model name are wrong.
        """
        done = False
        with ThreadPoolExecutor(self.settings.workers, thread_name_prefix="kick-judge") as pool:
            futures = [pool.submit(self._verdict, question) for question in questions]
            try:
                for future in as_completed(futures):
                    future.result()
                    if on_done:
                        on_done()
                done = True
            finally:
                if not done:
                    self._abandon(futures)
        found = [future.result() for future in futures]
        # if the endpoint replies to others, a question without a reply has failed; else nothing was judged
        out = self.stopped or not self.endpoint.replies
        return [None if out and verdict is not None and verdict.unanswered else verdict for verdict in found]

    def _abandon(self, futures: Sequence[Future]) -> None:
        for future in futures:
            future.cancel()
        self.endpoint.stop("interrupted")

    def _verdict(self, question: Question) -> Verdict | None:
        try:
            return self._judged(question)
        except Stopped:
            return None
        except Unanswered as error:
            return Verdict(failure=error.cause, unanswered=True)

    def _judged(self, question: Question) -> Verdict:
        name = self._name(question)
        code = _code(question.texts)
        first = self._exchange(name, code, messages(question, code), question.run)
        try:
            return Verdict(
                parse(first.text, question.wanted, first.code), model=first.model, tokens=first.tokens
            )
        except Unparsed as error:
            problem = str(error)
        asked = repair(question, first.code, first.text, problem)
        second = self._exchange(_hash([name, "repair", asked]), first.code, asked, question.run)
        tokens = first.tokens + second.tokens
        try:
            values = parse(second.text, question.wanted, first.code)
        except Unparsed:
            return Verdict(failure=UNPARSED, repaired=True, model=first.model, tokens=tokens)
        return Verdict(values, repaired=True, model=first.model, tokens=tokens)

    def _name(self, question: Question) -> str:
        """The hash of the judge, and of all that it is shown with the code left out."""
        identity = {**self.settings.identity(), "seed": self.settings.seed + question.run}
        return _hash([identity, messages(question, "")])

    def _exchange(self, name: str, code: str, asked: Sequence[Message], run: int) -> Exchange:
        """The reply kept under a name; else the endpoint's, kept from now on. Raises Stopped, Unanswered."""
        path = f"{name[:2]}/{name}.json"
        kept = self._read(path)
        if kept is not None:
            self.from_cache += 1
            return kept
        reply = self.endpoint.complete(asked, self.settings.seed + run)
        new = Exchange(code, reply.text, reply.tokens, reply.model)
        data = json.dumps({**vars(new), "finish": reply.finish}, indent=1).encode()
        if self._kept.create(path, data):
            return new
        other = self._read(path)  # another pass was quicker: all go by the same reply
        if other is None:
            self._kept.write(path, data)  # what is there is damaged
        return other or new

    def _read(self, path: str) -> Exchange | None:
        """The exchange in a file; None if there is none or it is damaged."""
        try:
            data = json.loads(self._kept.read(path))
            return Exchange(
                _text(data["code"]), _text(data["text"]), int(data["tokens"]), _text(data["model"])
            )
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            return None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _code(texts: Sequence[str]) -> str:
    """A random code that occurs in none of the texts."""
    while True:
        code = secrets.token_hex(CODE_BYTES)
        if not any(code in text for text in texts):
            return code


def _hash(value: Any) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()
