"""Where jobs run: here (inline), in worker processes of this machine (local), on a Ray cluster (ray).

An executor is a class with @executor in a file of this folder. Only the one that is asked for is imported:
Ray takes seconds, and is an extra.
"""

from __future__ import annotations

from kick.errors import KickError
from kick.registry import unknown
from kick.sweep.contract import Executor
from kick.sweep.executors.entry import executors


def make_executor(
    name: str,
    *,
    workers: int | None = None,
    time_limit: float | None = None,
    address: str | None = None,
    gpus: float | None = None,
) -> Executor:
    """The executor of that name.

    Args:
        workers: processes at once; by default as many as the machine or cluster has room for.
        time_limit: seconds a job may take; none by default. inline has no means to enforce one.
        address: of a Ray cluster; by default the one RAY_ADDRESS names, else one is started here.
        gpus: of each job on Ray; by default 1 where the cluster has any. local gives each worker one of the
            machine's.

    Raises:
        KickError: an unknown name, a number out of range, or Ray is not installed.
    """
    check(name, workers, address)
    if time_limit is not None and not time_limit > 0:
        raise KickError(f"time limit: got {time_limit}; expected: seconds, more than 0")
    given = {"workers": workers, "time_limit": time_limit, "address": address, "gpus": gpus}
    return executors[name](**{key: given[key] for key in executors.facts()[name].takes})


def places(name: str, workers: int | None) -> int:
    """How many jobs run at once, as far as it is known before the executor is made."""
    if workers is not None:
        return workers
    known = executors.facts()[name].at_once
    if known is not None:
        return known
    from kick.sweep.executors.local import default_workers, visible_gpus

    return default_workers(visible_gpus())


def ignored(name: str, **settings: object) -> list[str]:
    """What of the settings that were given (not None) an executor has no use for, in words."""
    facts = executors.facts()[name]
    return [
        f"{setting}: {value} has no effect, because the executor {name} is {facts.title}"
        for setting, value in settings.items()
        if value is not None and setting not in facts.takes
    ]


def check(name: str, workers: int | None = None, address: str | None = None) -> None:
    """Raises KickError for an unknown name, a number out of range, or an address it does not take."""
    facts = executors.facts()
    if name not in facts:
        raise KickError(unknown("executor", name, facts))
    if workers is not None and workers < 1:
        raise KickError(f"workers: got {workers}; expected: a whole number of at least 1")
    if address is not None and "address" not in facts[name].takes:
        others = " or ".join(f"--executor {one.name}" for one in facts.values() if "address" in one.takes)
        raise KickError(f"address: got {address!r} with the executor {name}; it is for {others}")
