"""Kinds of task that lm-eval has no notion of, each a class in one file of this folder.

    @protocol("windows", title="corpus perplexity by windows", keys=("seqlen",), tokens=512)
    class Windows(HarnessTask): ...

A task file asks for one by `metadata: {kick: {protocol: windows, seqlen: 512}}`. Names, keys and estimates
are read off the decorators: nothing is imported before a task of that kind is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any

from kick.registry import FileRegistry

TOKENS = 200  # that an item of a kind without an estimate costs


@dataclass(frozen=True)
class ProtocolFacts:
    """What `@protocol(...)` says of a kind of task.

    title: what it measures, in words. keys: its own of `metadata: {kick: ...}`; they count in what is asked.
    tokens: what an item costs before one was measured; a generated token costs as much as several read.
    metrics: what it reports, if that is not what the task file's `metric_list` names. judged: the kind of
    rubric by which a judge grades its answers, "" for none.
    """

    name: str
    _: KW_ONLY
    title: str
    keys: tuple[str, ...] = ()
    tokens: int = TOKENS
    metrics: tuple[str, ...] = ()
    judged: str = ""


protocols: FileRegistry[type] = FileRegistry("protocol", "kick.tasks", ProtocolFacts)


class protocol(ProtocolFacts):
    """Enters a class of tasks, usually a `HarnessTask`, into the table of protocols.

    The arguments are the protocol's facts, written out as plain values, and the only place where they are.
    """

    def __call__(self, cls: type) -> type:
        """Enter the class. Raises ValueError if the name is taken."""
        facts = {field.name: getattr(self, field.name) for field in fields(ProtocolFacts)}
        protocols.enter(ProtocolFacts(**facts), cls, cls.__module__)
        return cls


def facts_of(options: Mapping[str, Any]) -> ProtocolFacts | None:
    """The facts of the protocol that a task file's `metadata: {kick: ...}` names; None if it names none."""
    name = options.get("protocol")
    return None if name is None else protocols.facts()[name]
