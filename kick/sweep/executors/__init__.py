"""Where jobs run: here (inline), in worker processes of this machine (local), on a Ray cluster (ray)."""

from __future__ import annotations

from kick.errors import KickError
from kick.registry import unknown
from kick.sweep.contract import Executor
from kick.sweep.executors.inline import Inline
from kick.sweep.executors.local import Local

NAMES = ("inline", "local", "ray")


def executor(
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
    if name == "inline":
        return Inline()
    if name == "local":
        return Local(workers, time_limit)
    from kick.sweep.executors.ray import Ray  # Ray takes seconds to import, and is an extra

    return Ray(address, workers, time_limit, gpus)


def check(name: str, workers: int | None = None, address: str | None = None) -> None:
    """Raises KickError for an unknown name, a number out of range, or an address that is not for Ray."""
    if name not in NAMES:
        raise KickError(unknown("executor", name, NAMES))
    if workers is not None and workers < 1:
        raise KickError(f"workers: got {workers}; expected: a whole number of at least 1")
    if address is not None and name != "ray":
        raise KickError(f"address: got {address!r} with the executor {name}; it is for --executor ray")
