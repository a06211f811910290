"""Settings of an OpenAI-style endpoint, and the requests and tokens that a pass may use."""

from __future__ import annotations

import re
import threading
from dataclasses import asdict, dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from kick.errors import KickError

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


@dataclass(frozen=True)
class Settings:
    """Settings of a judge. The first six fields make it another judge; the rest is how it is reached.

    mode: "grade" each answer alone, "pair" it with the dense model's, or "both". runs: how often each
    question is asked, with seed, seed + 1, ...; timeout and backoff in seconds; attempts: requests before a
    question is given up; calls, tokens: the budget of a pass (requests sent; tokens read and written), None
    for no limit. key_variable names the environment variable of the key; an http:// endpoint needs none. who:
    what the endpoint is called in messages, "the judge" or "the endpoint".
    """

    model: str
    base_url: str = "https://api.openai.com/v1"
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 512
    seed: int = 0
    runs: int = 1
    timeout: float = 60.0
    workers: int = 4
    attempts: int = 5
    backoff: float = 1.0
    mode: Literal["grade", "pair", "both"] = "grade"
    key_variable: str = "OPENAI_API_KEY"
    calls: int | None = None
    tokens: int | None = None
    who: str = "the judge"

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.username or parts.password or parts.query or parts.scheme not in ("http", "https"):
            raise KickError(
                f"{self.who}'s base_url must be a plain http:// or https:// address "
                "without a name, password or ?query; the key is read from the environment only"
            )
        if not _VARIABLE.fullmatch(self.key_variable):
            raise KickError(
                f"{self.who}'s key_variable is not a valid name of an environment variable (not shown here, "
                "as it may be the key itself); expected: a name such as OPENAI_API_KEY"
            )
        if self.mode not in ("grade", "pair", "both"):
            raise KickError(f"judge: mode: got {self.mode!r}; expected: grade, pair or both")

    def identity(self) -> dict[str, Any]:
        """Identity of the judge, as JSON values: what makes verdicts its own."""
        names = ("model", "base_url", "temperature", "top_p", "max_tokens", "seed")
        return {name: asdict(self)[name] for name in names}


@dataclass
class Budget:
    """Requests and tokens that a pass may use, safe for several threads. Reserved before, settled after."""

    calls: int | None = None
    tokens: int | None = None
    used_calls: int = 0
    used_tokens: int = 0
    _reserved: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def take(self, estimate: int) -> str:
        """Reserve a request of about so many tokens; the reason if the budget does not have it."""
        with self._lock:
            if self.calls is not None and self.used_calls >= self.calls:
                return f"the budget of {self.calls} calls is used up"
            if self.tokens is not None and self.used_tokens + self._reserved + estimate > self.tokens:
                return f"the budget of {self.tokens} tokens is used up ({self.used_tokens} used)"
            self.used_calls += 1
            self._reserved += estimate
            return ""

    def settle(self, estimate: int, tokens: int) -> None:
        """Put what a request really used in place of what was reserved for it."""
        with self._lock:
            self._reserved -= estimate
            self.used_tokens += tokens
