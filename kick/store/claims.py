"""Claims: who is working on a cell, with a heartbeat that no clock of another machine is compared with.

A claim is a file that put-if-absent made, so one of several coordinators has it. Its owner counts `beat` up;
an observer who has seen one beat for `STALE` seconds of its own monotonic clock takes the owner for dead.
An owner on this machine whose process is gone is dead at once. Clocks that jump change nothing.
Should a claim be lost all the same (an owner that slept longer than STALE), a cell is measured twice, and the
store keeps one whole result: a claim saves work, it does not guard data.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kick.store.files import Files, StoreError
from kick.store.processes import machine, started

log = logging.getLogger("kick.store")
BEAT = 5.0  # seconds between two beats
STALE = 60.0  # seconds without a beat after which an owner elsewhere is taken for dead
CLAIM = "claim.json"
BREAK = "claim.break"


@dataclass
class Claim:
    """A cell that this process works on. `lost` once somebody else took it over."""

    folder: str
    owner: str
    sweep: str = ""
    beat: int = 0
    lost: bool = False


def _content(claim: Claim) -> bytes:
    process = {"machine": machine(), "pid": os.getpid(), "started": started(os.getpid())}
    return json.dumps({"owner": claim.owner, "sweep": claim.sweep, "beat": claim.beat, **process}).encode()


def take(files: Files, folder: str, sweep: str = "") -> Claim | None:
    """Claim a cell; None where someone living, or not yet known to be dead, has it.

    A claim of the same `sweep` is a dead worker's, for a sweep gives a job to one worker at a time. Raises
    StoreError where the store cannot be written.
    """
    claim = Claim(folder, f"{os.getpid()}-{secrets.token_hex(6)}", sweep)
    for _ in range(2):
        if files.create(f"{folder}/{CLAIM}", _content(claim)):
            return claim
        seen = look(files, folder)
        if seen is None:
            continue
        own = bool(sweep) and seen.get("sweep") == sweep
        if not ((own or dead_here(seen)) and clear(files, folder, seen)):
            return None
    return None


def look(files: Files, folder: str) -> dict[str, Any] | None:
    """What the claim file says, {} where it is damaged, None where there is none."""
    return _read(files, f"{folder}/{CLAIM}")


def _read(files: Files, path: str) -> dict[str, Any] | None:
    try:
        found = json.loads(files.read(path))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def dead_here(seen: Mapping[str, Any]) -> bool:
    """Whether the owner was a process of this machine that is gone, or its id another process's now."""
    if seen.get("machine") != machine():
        return False
    return started(int(seen.get("pid", 0))) != seen.get("started")


def clear(files: Files, folder: str, seen: Mapping[str, Any]) -> bool:
    """Remove a dead owner's claim if it is still the one `seen`; False where someone else is about it."""
    mark = f"{folder}/{BREAK}"
    if not files.create(mark, json.dumps({"machine": machine(), "pid": os.getpid()}).encode()):
        _clear_rest(files, mark)
        return False
    try:
        if look(files, folder) != seen:
            return False
        files.delete(f"{folder}/{CLAIM}")
        log.info("%s: the claim of process %s on %s is removed", folder, seen.get("pid"), seen.get("machine"))
        return True
    finally:
        files.delete(mark)


def _clear_rest(files: Files, mark: str) -> None:
    """Remove the mark of a take-over whose process, on this machine, died in the middle of it."""
    seen = _read(files, mark)
    if seen and seen.get("machine") == machine() and started(int(seen.get("pid", 0))) is None:
        files.delete(mark)


def release(files: Files, claim: Claim) -> None:
    """Give a claim back; one that was taken over is left alone."""
    if (look(files, claim.folder) or {}).get("owner") == claim.owner:
        files.delete(f"{claim.folder}/{CLAIM}")


def beat(files: Files, claim: Claim) -> None:
    """Show that the owner lives; sets `lost` where the claim is no longer its own."""
    if (look(files, claim.folder) or {}).get("owner") != claim.owner:
        claim.lost = True
        return
    claim.beat += 1
    files.write(f"{claim.folder}/{CLAIM}", _content(claim))


class Heart:
    """A thread that beats the claims of this process while a context is open."""

    def __init__(self, files: Files, claims: list[Claim], interval: float = BEAT):
        self._files, self._claims, self._interval = files, claims, interval
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kick-heart", daemon=True)

    def _run(self) -> None:
        while not self._over.wait(self._interval):
            for claim in self._claims:
                try:
                    if not claim.lost and not self._over.is_set():
                        beat(self._files, claim)
                except StoreError as error:
                    log.warning("no heartbeat for %s: %s", claim.folder, error)

    def __enter__(self) -> Heart:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


class Watch:
    """Sees over time which claims of others stand still, by this process's monotonic clock."""

    def __init__(self, files: Files, stale: float = STALE):
        self._files, self._stale = files, stale
        self._seen: dict[str, tuple[Mapping[str, Any], float]] = {}

    def free(self, folder: str) -> bool:
        """Whether the cell can be claimed: no claim, or that of a dead owner, which is then removed."""
        seen = look(self._files, folder)
        if seen is None:
            return True
        if not dead_here(seen) and not self._still(f"{folder}/{CLAIM}", seen):
            return False
        mark = f"{folder}/{BREAK}"
        taking = _read(self._files, mark)
        if taking is not None and self._still(mark, taking):  # its process died elsewhere, taking over
            self._files.delete(mark)
        return clear(self._files, folder, seen)

    def _still(self, path: str, content: Mapping[str, Any]) -> bool:
        """Whether the file has said this for as long as makes its owner dead."""
        before, since = self._seen.get(path, (None, 0.0))
        if before != content:
            self._seen[path] = (content, time.monotonic())
            return False
        return time.monotonic() - since >= self._stale
