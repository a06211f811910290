"""The key of an endpoint: read from the environment, kept in memory, blotted out of all that leaves it."""

from __future__ import annotations

import logging
import os

from kick.errors import KickError

SHORTEST = 8  # a shorter "key" is a placeholder such as none or EMPTY, which ordinary text may hold
_LIBRARIES = ("httpx", "httpx2", "openai", "openai._base_client", "openai._legacy_response")
_PARTS = ("connection", "http11", "http2", "http_proxy", "proxy", "socks", "socks_proxy")
LOGGERS = (*_LIBRARIES, *(f"{core}.{part}" for core in ("httpcore", "httpcore2") for part in _PARTS))


class Secret:
    """The key that an environment variable holds; its representation is the variable's name.

    While it is watched the loggers of the HTTP libraries go through it: they write whole headers at their
    debug level, and a server may send back in one what it was sent.
    """

    def __init__(self, variable: str, needed: str = ""):
        """`needed`: who cannot do without it, for the message. Raises KickError."""
        self.variable = variable
        self._filter = _Blot(self)
        self.__key = os.environ.get(variable, "").strip()
        if needed and not self.__key:
            raise KickError(
                f"{needed} needs a key: set the environment variable {variable}, "
                "or name another one with key_variable: ..."
            )
        if not self.__key.isascii() or not self.__key.isprintable():
            raise KickError(f"{variable} holds characters that no key has (line ends, non-ASCII)")

    def __repr__(self) -> str:
        return f"Secret({self.variable})"

    def __bool__(self) -> bool:
        return bool(self.__key)

    def reveal(self) -> str:
        """The key itself, for the one that sends it; "" if there is none."""
        return self.__key

    def redact(self, text: str) -> str:
        """The text without the key, and without what cannot be written as UTF-8."""
        text = text.replace(self.__key, "[key]") if len(self.__key) >= SHORTEST else text
        return text.encode("utf-8", "replace").decode("utf-8")

    def watch(self) -> None:
        """Keep the key out of the HTTP libraries' logs from now on."""
        for name in LOGGERS:
            logging.getLogger(name).addFilter(self._filter)

    def leave(self) -> None:
        """End `watch`."""
        for name in LOGGERS:
            logging.getLogger(name).removeFilter(self._filter)


class _Blot(logging.Filter):
    """Lets every record through, with the key blotted out of its message."""

    def __init__(self, secret: Secret):
        super().__init__()
        self._secret = secret

    def filter(self, record: logging.LogRecord) -> bool:
        """Always true; the record's message is made here, without the key."""
        record.msg, record.args = self._secret.redact(record.getMessage()), ()
        return True
