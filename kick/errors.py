"""Errors, by who can do something about them."""

from __future__ import annotations


class KickError(Exception):
    """An error that a user can fix: shown without a traceback, exit status 2.

    The message says what was wrong, what was got and what would be right.
    """


class Damaged(KickError):
    """A stored cell that cannot be read."""


class CellFailed(KickError):
    """A job could not be carried out for a known reason (NaN, out of memory, not positive definite)."""


class WrongOption(ValueError):
    """A method's option that it does not have, or a value that it cannot take.

    `option` is its name, so that whoever read it can say where it was written.
    """

    def __init__(self, message: str, option: str):
        super().__init__(message)
        self.option = option
