"""An OpenAI-style endpoint that may be slow, busy, broken or hostile, asked within a budget.

`Endpoint.complete` gives a Reply or raises one of three things: Unanswered (this question got no reply, ask
it another day), Stopped (nothing more is asked: budget, outage, quota) and KickError (the user must fix key
or model name). The key lives in memory only: whatever the server says is kept with the key blotted out, and
no exception that leaves this module hangs on one of the client's, whose request holds the key.
"""

from __future__ import annotations

import json
import logging
import random
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from kick.errors import KickError
from kick.judge.secret import Secret
from kick.judge.settings import Budget, Settings

log = logging.getLogger(__name__)

MOST_BYTES = 2_000_000  # of a reply's body; a longer one is not read
LONGEST_WAIT = 120.0  # seconds: an endpoint that asks for more is taken as closed for today
LONGEST_BACKOFF = 60.0  # seconds
OUTAGE = 3  # questions in a row without a reply after which no more are asked
BYTES_A_TOKEN = 3  # for reserving tokens before their number is known

Message = Mapping[str, str]  # role, content
Send = Callable[[str], AbstractContextManager[Any]]  # the name of the limit of tokens -> the open response


@dataclass(frozen=True)
class Reply:
    """Reply: text, tokens read and written, the model that says it wrote it, why it ended; `choice`: all that
    the server said of it, `written`: how many of the tokens it wrote, None if it did not say."""

    text: str
    tokens: int = 0
    model: str = ""
    finish: str = ""
    choice: Mapping[str, Any] = field(default_factory=dict, compare=False)
    written: int | None = field(default=None, compare=False)


class Unanswered(Exception):
    """A question got no reply; `cause` in a few words."""

    def __init__(self, cause: str):
        super().__init__(cause)
        self.cause = cause


class Stopped(Exception):
    """Nothing more is asked in this pass; the message says why."""


@dataclass(frozen=True)
class Trouble:
    """Reason why a request gave no reply. `again`: whether to ask again, `after`: seconds to wait first.

    `stop` ends the pass, `wrong` is for the user to fix; both are messages. `said`: the server's own words.
    """

    cause: str
    again: bool = True
    after: float | None = None
    stop: str = ""
    wrong: str = ""
    said: str = ""


class Endpoint:
    """An OpenAI-style chat endpoint. Safe for several threads; a context that closes its connections."""

    def __init__(self, settings: Settings):
        """Raise KickError if the client is not installed or the key is not set; asks nothing yet."""
        openai = _client_library(settings.who)
        self.settings = settings
        self.budget = Budget(settings.calls, settings.tokens)
        self.stopped = ""
        self.replies = 0
        hosted = urlsplit(settings.base_url).scheme == "https"
        self._key = Secret(settings.key_variable, f"{settings.who} at {settings.base_url}" if hosted else "")
        self._errors = openai.APIError
        self._client = openai.OpenAI(
            api_key=self._key.reveal() or "none",
            base_url=settings.base_url,
            timeout=settings.timeout,
            max_retries=0,
        )
        self._limit = "max_tokens"
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._not_before = 0.0
        self._misses = 0

    def __repr__(self) -> str:
        return f"Endpoint({self.settings.model!r} at {self.settings.base_url!r})"

    def __enter__(self) -> Endpoint:
        self._key.watch()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._key.leave()

    def stop(self, reason: str) -> None:
        """Ask nothing more; waits end. The first reason is kept."""
        with self._lock:
            self.stopped = self.stopped or reason
        self._over.set()

    def complete(self, messages: Sequence[Message], seed: int) -> Reply:
        """The reply to a conversation. Raises Unanswered, Stopped or KickError (see the module)."""
        settings = self.settings
        return self.chatted(
            messages,
            settings.max_tokens,
            temperature=settings.temperature,
            top_p=settings.top_p,
            seed=seed,
        )

    def chatted(self, messages: Sequence[Message], max_tokens: int, **options: Any) -> Reply:
        """The reply to a conversation, of at most so many tokens; `options` are the API's own. Raises as
        `complete` does."""
        size = sum(len(message["content"].encode()) for message in messages)

        def send(limit: str) -> AbstractContextManager[Any]:
            return self._client.chat.completions.with_streaming_response.create(
                model=self.settings.model,
                messages=[dict(message) for message in messages],
                **{limit: max_tokens},
                **options,
            )

        return self._asked(send, size // BYTES_A_TOKEN + max_tokens)

    def continued(self, prompt: str | Sequence[int], max_tokens: int, **options: Any) -> Reply:
        """The continuation of a prompt, given as text or token ids, by the completions API; `options` are its
        own. Raises as `complete` does."""
        given = prompt if isinstance(prompt, str) else list(prompt)

        def send(limit: str) -> AbstractContextManager[Any]:
            return self._client.completions.with_streaming_response.create(
                model=self.settings.model, prompt=given, max_tokens=max_tokens, **options
            )

        return self._asked(send, len(given) + max_tokens)

    def _asked(self, send: Send, estimate: int) -> Reply:
        """The reply to what `send` sends, asked again after troubles that may pass."""
        trouble = Trouble("not asked")
        for attempt in range(self.settings.attempts):
            if attempt:
                self._wait(attempt, trouble)
            found = self._ask(send, estimate)
            if isinstance(found, Reply):
                with self._lock:
                    self._misses = 0
                    self.replies += 1
                return found
            trouble = found
            log.debug("%s gave no reply: %s %s", self.settings.who, trouble.cause, trouble.said)
            if trouble.wrong:
                raise KickError(trouble.wrong)
            if trouble.stop:
                self.stop(trouble.stop)
                raise Stopped(trouble.stop)
            if not trouble.again:
                break
        self._missed(trouble)
        raise Unanswered(trouble.cause)

    def _missed(self, trouble: Trouble) -> None:
        """Stop after a few questions in a row; one that is refused counts while nothing was ever answered."""
        if not trouble.again and self.replies:
            return
        with self._lock:
            self._misses += 1
            misses = self._misses
        if misses >= OUTAGE:
            why = f"{trouble.cause}: {trouble.said}" if trouble.said else trouble.cause
            self.stop(
                f"outage: {self.settings.base_url} gave no reply to {misses} questions in a row ({why})"
            )

    def _wait(self, attempt: int, trouble: Trouble) -> None:
        """Exponential backoff with jitter; if the server names a time, all workers wait for it."""
        if trouble.after is not None:
            with self._lock:
                self._not_before = max(self._not_before, time.monotonic() + trouble.after)
            return
        ceiling = min(LONGEST_BACKOFF, self.settings.backoff * 2 ** (attempt - 1))
        self._over.wait(random.uniform(ceiling / 2, ceiling))

    def _ask(self, send: Send, estimate: int) -> Reply | Trouble:
        """One request, within the budget and not before the server wants it. Raises Stopped."""
        while not self._over.is_set() and (left := self._not_before - time.monotonic()) > 0:
            self._over.wait(left + random.uniform(0, min(left, self.settings.backoff) / 4))
        if self.stopped:
            raise Stopped(self.stopped)
        spent = self.budget.take(estimate)
        if spent:
            self.stop(spent)
            raise Stopped(spent)
        found: Reply | Trouble = Trouble("not asked")
        try:
            found = self._request(send)
        finally:
            used = found.tokens or estimate if isinstance(found, Reply) else 0
            self.budget.settle(estimate, used)
        return found

    def _request(self, send: Send) -> Reply | Trouble:
        limit = self._limit
        found: Trouble | Reply
        try:
            body = self._body(send, limit)
        except self._errors as error:
            found = self._trouble(error, limit)
        except _broken_transport() as error:
            found = Trouble(_plain_name(error))
        else:
            found = body if isinstance(body, Trouble) else self._reply(body)
        return found

    def _body(self, send: Send, limit: str) -> bytes | Trouble:
        """The body of a reply. Its length and the time until its last byte have bounds."""
        start, parts, size = time.monotonic(), [], 0
        with send(limit) as response:
            for part in response.iter_bytes():
                parts.append(part)
                size += len(part)
                if size > MOST_BYTES:
                    return Trouble(f"a reply of over {MOST_BYTES:,} bytes")
                if time.monotonic() - start > self.settings.timeout:
                    return Trouble("timeout")
        return b"".join(parts)

    def _reply(self, body: bytes) -> Reply | Trouble:
        """The reply in a body. HTML, cut JSON and JSON of another shape are troubles, asked again."""
        try:
            data = json.loads(self._key.redact(body.decode("utf-8")))
        except (ValueError, RecursionError):
            return Trouble("a body that is not JSON")
        try:
            choice = data["choices"][0]
            content = choice["message"]["content"] if "message" in choice else choice["text"]
        except (KeyError, IndexError, TypeError):
            return Trouble("JSON without a message")
        if not isinstance(content, str | None):
            return Trouble("JSON without a message")
        usage = data.get("usage")
        return Reply(
            self._key.redact(content or ""),
            _counted(usage, "total_tokens") or 0,
            self._key.redact(str(data.get("model") or ""))[:200],
            self._key.redact(str(choice.get("finish_reason") or ""))[:40],
            choice,
            _counted(usage, "completion_tokens"),
        )

    def _trouble(self, error: Any, limit: str) -> Trouble:
        """Meaning of an error of the client for us; nothing of the error itself is kept."""
        code = getattr(error, "status_code", None)
        if code is None:
            return Trouble("timeout" if "Timeout" in type(error).__name__ else "no connection")
        said = self._key.redact(str(getattr(error, "message", "")))[:200]
        settings = self.settings
        if code in (401, 403):
            key = settings.key_variable if self._key else f"no key ({settings.key_variable} is not set)"
            return Trouble(
                f"HTTP {code}", wrong=f"{settings.who} at {settings.base_url} refused {key} (HTTP {code})"
            )
        if code == 404:
            return Trouble(
                f"HTTP {code}",
                wrong=f"{settings.base_url} has no model {settings.model!r} for {settings.who}, or is not an "
                f"OpenAI-style address (HTTP 404: {said}); see its model and base_url in the matrix",
            )
        if code == 429 and getattr(error, "code", None) == "insufficient_quota":
            return Trouble("quota", stop=f"quota: the account at {settings.base_url} is used up")
        if code == 400 and limit == "max_tokens" and "max_completion_tokens" in said:
            self._limit = "max_completion_tokens"  # the same bound under the name that newer models want
            return Trouble("max_tokens has another name here", after=0.0)
        if code in (408, 409, 429) or code >= 500:
            after = _retry_after(error.response.headers)
            if after is not None and after > LONGEST_WAIT:
                return Trouble(f"HTTP {code}", stop=f"{settings.base_url} asks to wait {after:.0f} s")
            return Trouble(f"HTTP {code}", after=after)
        return Trouble(f"refused with HTTP {code}", again=False, said=said)


def _counted(usage: Any, name: str) -> int | None:
    """A number of tokens that the server says; None if it is not one."""
    tokens = usage.get(name) if isinstance(usage, dict) else None
    known = isinstance(tokens, int) and not isinstance(tokens, bool) and tokens >= 0
    return tokens if known else None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait, from retry-after-ms or Retry-After (seconds or a date)."""
    value, scale = headers.get("retry-after-ms"), 1000.0
    if value is None:
        value, scale = headers.get("retry-after"), 1.0
    if value is None:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value.strip()):
        return float(value) / scale
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _broken_transport() -> tuple[type[Exception], ...]:
    """Errors of a connection that breaks inside a body: the client wraps only what comes before."""
    libraries = [sys.modules[name] for name in ("httpx", "httpx2") if name in sys.modules]
    found = [getattr(module, name) for module in libraries for name in ("HTTPError", "StreamError")]
    if "anyio" in sys.modules:
        found.append(sys.modules["anyio"].EndOfStream)
    return (*found, OSError)


def _plain_name(error: Exception) -> str:
    return "timeout" if "Timeout" in type(error).__name__ else "a broken connection"


def _client_library(who: str) -> ModuleType:
    try:
        import openai
    except ImportError:
        raise KickError(f"{who} needs the openai client: pip install 'kick[judge]'") from None
    return openai
