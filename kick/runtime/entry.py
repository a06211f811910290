"""Facts of run-time methods, read off their decorators: no file of a method is imported, nor torch."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, fields
from typing import Any

from kick.registry import FileRegistry

LAST = 99  # the place of a method that names none


@dataclass(frozen=True)
class RunTimeFacts:
    """What `@runtime(...)` says of a run-time method.

    affects: the kinds of answer that it can change: "generate" (decoding), "loglikelihood" (answers that are
    scored after a prompt), "text" (running text without a prompt). On others it is not applicable: its
    numbers would be dense's, which says nothing of it. version: raised when its numbers change; part of
    every key. place: among the run-time methods in tables. look: colour, marker and line of its points.
    """

    name: str
    _: KW_ONLY
    title: str
    paper: str
    affects: tuple[str, ...]
    version: int = 1
    place: int = LAST
    look: str = ""

    @property
    def order(self) -> int:
        """Its place in tables: after the methods of compression, before recipes."""
        return 8000 + min(max(self.place, 0), 999)


runtimes: FileRegistry[Any] = FileRegistry("runtime", "kick.runtime", RunTimeFacts)


class runtime(RunTimeFacts):
    """Enters a frozen dataclass into the table of run-time methods; the arguments are plain values."""

    def __call__(self, cls: type) -> type:
        """Enter the class. Raises TypeError if it is not a frozen dataclass, ValueError for a name taken."""
        parameters = getattr(cls, "__dataclass_params__", None)
        if parameters is None or not parameters.frozen:
            raise TypeError(f"the run-time method {self.name!r} must be a frozen dataclass")
        facts = {field.name: getattr(self, field.name) for field in fields(RunTimeFacts)}
        runtimes.enter(RunTimeFacts(**facts), cls, cls.__module__)
        return cls


def ordered() -> list[RunTimeFacts]:
    """The facts of all run-time methods, in the order of tables."""
    return sorted(runtimes.facts().values(), key=lambda one: (one.place, one.name))


def inapplicable(name: str, asks: str) -> str:
    """Why a task tells nothing of a run-time method; "" if it does, or if nothing is known.

    asks: the kind of answer that the task asks for, one of those that `affects` names, or "".
    """
    facts = runtimes.facts().get(name)
    if facts is None or not asks or asks in facts.affects:
        return ""
    affects = facts.affects
    if affects == ("generate",):
        return f"{name} changes decoding alone, and this task generates nothing"
    return f"{name} changes what follows a prompt, and this task has none"
