"""Claims: who is working on a cell, with a heartbeat that no clock of another machine is compared with.

A claim is a file that put-if-absent made, so one of several coordinators has it. Its owner counts up in a
file of its own, one for all its claims; an observer who has seen one count for `STALE` seconds of its own
monotonic clock takes the owner for dead. An owner on this machine whose process is gone is dead at once.
Clocks that jump change nothing. Should a claim be taken from a living owner all the same (one that slept
longer than STALE), a cell is measured twice, and the store keeps one whole result: a claim saves work, it
does not guard data.
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
BEAT = 10.0  # seconds between two beats
STALE = 60.0  # seconds without a beat after which an owner elsewhere is taken for dead
CLAIM, BREAK, HEARTS = "claim.json", "claim.break", ".hearts"


@dataclass(frozen=True)
class Claim:
    """A cell that this process works on."""

    folder: str
    owner: str
    sweep: str = ""


def new_owner() -> str:
    """A name that no other owner has."""
    return f"{os.getpid()}-{secrets.token_hex(6)}"


def take(files: Files, folder: str, sweep: str = "", owner: str = "") -> Claim | None:
    """Claim a cell; None if someone living, or not yet known to be dead, has it.

    A claim of the same `sweep` is a dead worker's, for a sweep gives a job to one worker at a time. Raises
    StoreError if the store cannot be written.
    """
    claim = Claim(folder, owner or new_owner(), sweep)
    process = {"machine": machine(), "pid": os.getpid(), "started": started(os.getpid())}
    content = json.dumps({"owner": claim.owner, "sweep": sweep, **process}).encode()
    for _ in range(2):
        if files.create(f"{folder}/{CLAIM}", content):
            return claim
        seen = look(files, folder)
        if seen is None:
            continue
        own = bool(sweep) and seen.get("sweep") == sweep
        if not ((own or dead_here(seen)) and clear(files, folder, seen)):
            return None
    return None


def look(files: Files, folder: str) -> dict[str, Any] | None:
    """Content of the claim file, {} if it is damaged, None if there is none."""
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
    """Remove a dead owner's claim if it is still the one `seen`; False if someone else is about it."""
    mark = f"{folder}/{BREAK}"
    if not files.create(mark, json.dumps({"machine": machine(), "pid": os.getpid()}).encode()):
        _clear_rest(files, mark)
        return False
    try:
        if look(files, folder) != seen:
            return False
        files.delete(f"{folder}/{CLAIM}")
        files.delete(_heart(folder, str(seen.get("owner"))))
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


def _heart(folder: str, owner: str) -> str:
    """The file in which an owner counts, beside the cells; a damaged claim's owner is not a path."""
    matrix = folder.rpartition("/")[0]
    name = f"{HEARTS}/{''.join(letter for letter in owner if letter.isalnum() or letter == '-')}"
    return f"{matrix}/{name}" if matrix else name


class Heart:
    """A thread that counts for an owner while a context is open: one file, however many its claims are."""

    def __init__(self, files: Files, claim: Claim, interval: float = BEAT):
        self._files, self._path, self._interval = files, _heart(claim.folder, claim.owner), interval
        self._over = threading.Event()
        self._beats = 0
        self._thread = threading.Thread(target=self._run, name="kick-heart", daemon=True)

    def _run(self) -> None:
        while not self._over.wait(self._interval):
            self._beats += 1
            try:
                self._files.write(self._path, json.dumps({"beat": self._beats}).encode(), durable=False)
            except StoreError as error:
                log.warning("no heartbeat: %s", error)

    def __enter__(self) -> Heart:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._beats:
            self._files.delete(self._path)


class Watch:
    """Sees over time which owners' counts no longer rise, by this process's monotonic clock."""

    def __init__(self, files: Files, stale: float = STALE):
        self._files, self._stale = files, stale
        self._seen: dict[str, tuple[Any, float]] = {}

    def free(self, folder: str) -> bool:
        """Whether the cell can be claimed: no claim, or that of a dead owner, which is then removed."""
        seen = look(self._files, folder)
        if seen is None:
            return True
        beat = _read(self._files, _heart(folder, str(seen.get("owner"))))
        if not dead_here(seen) and not self._still(f"{folder}/{CLAIM}", (seen, beat)):
            return False
        mark = f"{folder}/{BREAK}"
        taking = _read(self._files, mark)
        if taking is not None and self._still(mark, taking):  # its process died elsewhere, taking over
            self._files.delete(mark)
        return clear(self._files, folder, seen)

    def _still(self, path: str, content: Any) -> bool:
        """Whether the file has said this for as long as makes its owner dead."""
        before, since = self._seen.get(path, (None, 0.0))
        if before != content:
            self._seen[path] = (content, time.monotonic())
            return False
        return time.monotonic() - since >= self._stale
