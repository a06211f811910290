"""The table of executors: each a class in one file of this folder, found by its decorator.

@executor("local", title="worker processes of this machine", takes=("workers", "time_limit"), at_once=None)
class Local: ...
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, fields

from kick.registry import FileRegistry
from kick.sweep.contract import Executor


@dataclass(frozen=True)
class ExecutorFacts:
    """What `@executor(...)` says of an executor.

    title: where it runs jobs, in words. takes: the settings that its class takes by keyword, of workers,
    time_limit, address and gpus. at_once: the number of jobs at once if `workers` is not given, as far as it
    is known before the executor is made; None for as many as this machine has room for.
    """

    name: str
    _: KW_ONLY
    title: str
    takes: tuple[str, ...] = ()
    at_once: int | None = 1


executors: FileRegistry[type[Executor]] = FileRegistry("executor", "kick.sweep.executors", ExecutorFacts)


class executor(ExecutorFacts):
    """Enters a class into the table of executors.

    The arguments are the executor's facts, written out as plain values, and the only place where they are.
    """

    def __call__(self, cls: type) -> type:
        """Enter the class. Raises ValueError if the name is taken."""
        facts = {field.name: getattr(self, field.name) for field in fields(ExecutorFacts)}
        executors.enter(ExecutorFacts(**facts), cls, cls.__module__)
        return cls
