"""The folder that a compressed checkpoint is written to: claimed first, continued after a kill, placed whole.

Until the end it has nothing but `kick/`: a lock, and the folder of unfinished work with what is done so far.
`config.json` is the last file to come to its place, so that nobody takes a half-made folder for a model.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kick.errors import CellFailed, KickError
from kick.printable import say

PROGRESS = "progress.json"
VERSION = 2  # of the work folder: one of another version is not continued


class Target:
    """A claimed folder. `state` is what the last `save` said, of the same work; None for new work."""

    def __init__(self, out: Path):
        self.out = out
        self.kick, self.work = out / "kick", out / "kick" / "work"
        self.checkpoint = self.work / "checkpoint"
        self.state: dict[str, Any] | None = None

    def resume(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """The state of unfinished work in the folder. Raises KickError if that is other work than this."""
        file = self.work / PROGRESS
        known = json.loads(file.read_text()) if file.is_file() else None
        if known is None:
            shutil.rmtree(self.work, ignore_errors=True)
            self.work.mkdir(parents=True)
        elif [known["version"], known["identity"]] != [VERSION, json.loads(json.dumps(identity))]:
            raise Other(
                f"{self.out} holds an unfinished compression of another model, recipe, calibration or "
                "version; give the same command again, another folder, or delete this one"
            )
        else:
            self.state = known["state"]
        return self.state

    def save(self, identity: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Note how far it is: from here a later process goes on."""
        text = json.dumps({"version": VERSION, "identity": identity, "state": state})
        beside = self.work / "progress.new"
        beside.write_text(text)
        os.replace(beside, self.work / PROGRESS)
        self.state = dict(state)

    def place(self) -> None:
        """Move the finished checkpoint to its place, `config.json` last. May be repeated after a kill."""
        for file in sorted((self.checkpoint / "kick").glob("*")):
            os.replace(file, self.kick / file.name)
        files = [file for file in sorted(self.checkpoint.glob("*")) if file.is_file()]
        for file in sorted(files, key=lambda one: one.name == "config.json"):
            os.replace(file, self.out / file.name)
        for one in self.work.iterdir():  # what says "unfinished" goes last: a kill may come here too
            if one.is_dir():
                shutil.rmtree(one)
            elif one.name != PROGRESS:
                one.unlink()
        (self.work / PROGRESS).unlink()
        self.work.rmdir()


class Other(KickError):
    """A folder with unfinished work that is not this one."""


@contextmanager
def claimed(out: Path) -> Iterator[Target]:
    """The folder, for this process alone. What cannot be finished leaves nothing; what was interrupted stays.

    Raises KickError if another process writes to the folder, or if it has something else in it.
    """
    missing = _first_missing(out)
    target, descriptor = Target(out), _lock(out)
    over = failed = False  # neither: it was interrupted
    try:
        yield target
        over = True
    except Other:
        over = True
        raise
    except OSError as error:
        kept = target.state is not None
        left = "what is done is kept: give the same command again" if kept else "nothing is left of it"
        raise CellFailed(f"{out} could not be written ({error}); {left}") from error
    except KickError:
        failed = True
        raise
    finally:
        if failed or (not over and target.state is None):
            shutil.rmtree(target.kick, ignore_errors=True)
            if missing is not None:
                shutil.rmtree(missing, ignore_errors=True)
        elif over and not target.work.exists():
            (target.kick / "lock").unlink(missing_ok=True)
        elif not over:
            say(f"kick: not finished; the same command goes on from {target.work}")
        os.close(descriptor)


def _first_missing(out: Path) -> Path | None:
    """The highest folder of a path that is not there yet."""
    found = None
    for folder in (out, *out.parents):
        if folder.exists():
            return found
        found = folder
    return found


def _lock(out: Path) -> int:
    """Lock the folder, made if it is not there. Raises KickError for one that is taken."""
    try:
        if out.exists() and (not out.is_dir() or {one.name for one in out.iterdir()} - {"kick"}):
            _check_placing(out)
        (out / "kick").mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(out / "kick" / "lock", os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                raise KickError(
                    f"another kick compress is writing to {out}; give another folder, or wait for it"
                ) from None
            if _same(descriptor, out / "kick" / "lock"):
                return descriptor
            os.close(descriptor)  # whoever had it has just finished and taken it away
            if not (out / "kick").is_dir() or (out / "config.json").exists():
                raise KickError(f"{out} is there already; give a folder that is new or empty")
    except OSError as error:
        raise KickError(f"{out} cannot be written: {error}; give a folder that can be made") from error


def _check_placing(out: Path) -> None:
    """Raises KickError unless the folder's files are those of unfinished work that was being placed."""
    if not (out / "kick" / "work" / PROGRESS).is_file():
        raise KickError(f"{out} is there already; give a folder that is new or empty")


def _same(descriptor: int, file: Path) -> bool:
    try:
        return os.fstat(descriptor).st_ino == file.stat().st_ino
    except FileNotFoundError:
        return False
