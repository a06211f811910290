"""The store: one folder per cell, samples.parquet and then run.json, written whole and read checked.

<root>/<matrix>/<key>/samples.parquet   the items (kick.store.samples)
                      run.json          the Result, last; with the checksums of both
                      failed.json       of a failed cell: cause, traceback, log tail
                      claim.json        of a running one (kick.store.claims)
                      partial/          the answers so far (kick.store.chunks)
                      statistics.json   what was computed of the items, and can be again (kick.store.index)
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from kick.errors import Damaged, KickError
from kick.records import Cell, Result, Sample
from kick.store import chunks, claims, costs, index, status
from kick.store.files import TEMPORARY, LocalFiles, StoreError, open_files
from kick.store.json_files import FAILED, RUN, Failure, parse_failure, parse_run, render_failure, render_run
from kick.store.processes import left_by_dead
from kick.store.samples import arrays_of, from_parquet, to_parquet
from kick.store.status import PARTIAL, SAMPLES, State

log = logging.getLogger("kick.store")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,200}")
_KEY = re.compile(r"[0-9a-f]{16}")

T = TypeVar("T")


class Store:
    """The results under a root: a folder or an fsspec URL. Safe for several writers.

    Args:
        root: where the matrix folders are; for reading, one matrix's folder is taken too.
        matrix: the folder to write into and to read first; without it all are read, and a result goes where
            its own matrix says.
    """

    def __init__(self, root: str | Path, matrix: str | None = None):
        self.files = open_files(root)
        self.root = self.files.root
        self.matrix = None if matrix is None else _checked(matrix, "matrix")
        self._where: dict[str, str] = {}  # cells that `runs` has seen

    # ------------------------------------------------------------------------------------- where a cell is

    def folder(self, key: str, matrix: str | None = None) -> str:
        """The cell's folder relative to the root: the one that it has, else the one that it would get."""
        _checked(key, "key")
        if self.matrix is not None:
            return f"{self.matrix}/{key}"
        found = self._find(key)
        if found is None and matrix and not any(map(_KEY.fullmatch, self.files.names())):
            return f"{_checked(matrix, 'matrix')}/{key}"
        return found or key  # the root is a matrix's own folder if there are cells in it

    def _find(self, key: str) -> str | None:
        """The folder of a cell, one with a run.json first, then this matrix's; None if none is."""
        own = f"{self.matrix}/{key}" if self.matrix else self._where.get(key, key)
        there = None
        for folder in self._candidates(key, own):
            names = self.files.names(folder)
            if RUN in names:
                return folder
            there = there or (folder if names else None)
        return there

    def _candidates(self, key: str, own: str) -> Iterator[str]:
        yield own
        for name in self.files.names():
            if f"{name}/{key}" != own and _NAME.fullmatch(name) and not _KEY.fullmatch(name):
                yield f"{name}/{key}"

    # ------------------------------------------------------------------------------------- reading

    def done(self, key: str) -> bool:
        """Whether run.json is there and whole, and samples.parquet is the one it names, byte for byte."""
        return self.problem(key) == ""

    def done_among(self, keys: Sequence[str]) -> set[str]:
        """Those of the keys that are done; an object store is asked by many threads at once."""
        if isinstance(self.files, LocalFiles):
            return {key for key in keys if self.done(key)}
        with ThreadPoolExecutor(32) as pool:
            return {key for key, done in zip(keys, pool.map(self.done, keys), strict=True) if done}

    def problem(self, key: str) -> str:
        """The reason why the cell is not done: "" if it is, "missing", or what is damaged."""
        folder = self.folder(key)
        try:
            self._samples_bytes(folder, self._run(folder, key))
        except FileNotFoundError:
            return "missing"
        except ValueError as error:
            return str(error)
        return ""

    def result(self, key: str) -> Result:
        """The stored Result. Raises KickError if there is none, Damaged if run.json is."""
        return self._readable(key, lambda folder: self._run(folder, key))

    def samples(self, key: str) -> list[Sample]:
        """The stored items in their order. Raises KickError if there are none, Damaged."""

        def read(folder: str) -> list[Sample]:
            return from_parquet(self._samples_bytes(folder, self._run(folder, key)))

        return self._readable(key, read)

    def arrays(self, key: str) -> tuple[list[str], list[str], dict[str, Any]]:
        """The items, their groups, and each metric's float64 array (n,): what paired statistics need.

        Many times quicker than `samples`, for no response is read. Raises KickError if there are none,
        Damaged.
        """

        def read(folder: str) -> tuple[list[str], list[str], dict[str, Any]]:
            return arrays_of(self._samples_bytes(folder, self._run(folder, key)))

        return self._readable(key, read)

    def scores(self, key: str) -> tuple[list[str], dict[str, Any]]:
        """The items, and each metric's float64 array (n,) over them. Raises KickError as `samples` does."""
        items, _, found = self.arrays(key)
        return items, found

    def recall(self) -> dict[str, str]:
        """Texts by name that `remember` kept."""
        return index.recall(self.files, self.matrix or "")

    def remember(self, texts: Mapping[str, str]) -> None:
        """Keep texts that can be computed again, in place of the ones before; a few are not worth a file."""
        index.remember(self.files, texts, self.matrix or "")

    def costs(self) -> list[dict[str, Any]]:
        """What variants cost to run, as `kick cost` found it; none if it was not called."""
        return costs.read(self.files, self.matrix or "")

    def note(self, key: str, texts: Mapping[str, str]) -> None:
        """Keep texts that can be computed again with a cell. Raises StoreError."""
        path = f"{self.folder(key)}/{index.NOTES}"
        self.files.write(path, json.dumps(dict(texts)).encode(), durable=False)

    def noted(self, key: str) -> dict[str, str]:
        """The texts that were kept with the cell, by name; none if there are none or they are damaged."""
        folder = self._where.get(key) or self._find(_checked(key, "key"))
        return index.noted(self.files, folder) if folder else {}

    def _readable(self, key: str, read: Callable[[str], T]) -> T:
        folder = self._find(_checked(key, "key")) or key
        try:
            return read(folder)
        except FileNotFoundError:
            raise KickError(f"no result {key} under {self.root}; `kick status` lists what is there") from None
        except (ValueError, pa.ArrowException) as error:
            raise Damaged(
                f"{self.root}/{folder} is damaged: {error}; `kick run` of its matrix measures it again"
            ) from error

    def _run(self, folder: str, key: str) -> Result:
        """run.json checked. Raises FileNotFoundError, or ValueError if it is damaged."""
        return parse_run(self.files.read(f"{folder}/{RUN}"), key)

    def _samples_bytes(self, folder: str, result: Result) -> bytes:
        """samples.parquet checked against run.json. Raises FileNotFoundError or ValueError."""
        checksum = result.samples.get("sha256")
        try:
            data = self.files.read(f"{folder}/{SAMPLES}")
        except FileNotFoundError:
            data = None
        if data is not None and hashlib.sha256(data).hexdigest() == checksum:
            return data
        try:  # a replacement that was cut off between run.json and the renaming
            other = self.files.read(f"{folder}/{_aside(str(checksum))}")
        except FileNotFoundError:
            other = b""
        if hashlib.sha256(other).hexdigest() == checksum:
            return other
        if data is None:
            raise ValueError(f"{SAMPLES} is missing beside {RUN}")
        raise ValueError(f"{SAMPLES} ({len(data):,} bytes) does not match the checksum in {RUN}")

    def runs(self) -> Iterator[Result]:
        """Every whole run.json, by matrix and key; of this matrix if one was named.

        Read from index.parquet if that is fresh; damaged ones are left out with a warning. Items are not
        checked here: `done` does.
        """
        return (result for _, result in self._runs())

    def _runs(self) -> Iterator[tuple[str, Result]]:
        for path, text in index.texts(self.files, self.matrix or ""):
            folder = path.rpartition("/")[0]
            key = folder.rpartition("/")[2]
            self._where[key] = folder
            try:
                yield path, parse_run(text, key)
            except ValueError as error:
                log.warning("%s/%s is damaged and left out: %s", self.root, path, error)

    def states(self, verify: bool = False) -> Iterator[State]:
        """State of every cell of the store (of this matrix), by path.

        `verify` reads every samples.parquet against its checksum too; without, run.json alone is checked.
        """
        whole = {path for path, result in self._runs() if not verify or self._sound(path, result)}
        return status.states(self.files, self.matrix or "", whole)

    def _sound(self, path: str, result: Result) -> bool:
        try:
            self._samples_bytes(path.rpartition("/")[0], result)
        except (FileNotFoundError, ValueError):
            return False
        return True

    def failures(self) -> Iterator[Failure]:
        """Every failed cell, by matrix and key; one that was measured since is none."""
        for path in self.files.stamps(self.matrix or "", FAILED):
            if RUN not in self.files.names(path.rpartition("/")[0]) and (failure := self._failure(path)):
                yield failure

    def failure(self, key: str) -> Failure | None:
        """The cell's failure; None if it did not."""
        return self._failure(f"{self.folder(key)}/{FAILED}")

    def _failure(self, path: str) -> Failure | None:
        try:
            return parse_failure(self.files.read(path), path.split("/")[-2])
        except FileNotFoundError:
            return None

    # ------------------------------------------------------------------------------------- writing

    def put(self, result: Result, samples: Sequence[Sample]) -> Result:
        """Store a cell, replacing what was there; returns the Result as it is read, `samples` filled in.

        Whatever moment it is cut off at, the cell is the old one whole or the new one whole. Clears the
        cell's failure and its kept answers. Raises StoreError if the store cannot be written.
        """
        data = to_parquet(samples)
        digest = hashlib.sha256(data).hexdigest()
        result = replace(result, samples={"file": SAMPLES, "sha256": digest, "rows": len(samples)})
        folder = self.folder(result.key, result.matrix)
        text = render_run(result)
        for _ in range(3):
            self._write(folder, result.key, data, digest, text)
            if self.problem(result.key) == "":
                break
        else:  # other writers of the same cell came between, three times
            raise StoreError(
                f"{self.root}/{folder} could not be written whole; is another program writing there?"
            )
        names = self.files.names(folder)
        if FAILED in names:
            self.files.delete(f"{folder}/{FAILED}")
        if PARTIAL in names:
            self.files.delete_folder(f"{folder}/{PARTIAL}")
        return parse_run(text, result.key)

    def _write(self, folder: str, key: str, data: bytes, digest: str, text: bytes) -> None:
        if self.problem(key) != "":
            self.files.write(f"{folder}/{SAMPLES}", data)
            self.files.write(f"{folder}/{RUN}", text)
            return
        aside = f"{folder}/{_aside(digest)}"
        self.files.write(aside, data)
        self.files.write(f"{folder}/{RUN}", text)
        self.files.move(aside, f"{folder}/{SAMPLES}")

    def fail(
        self, key: str, cause: str, cell: Cell | None = None, traceback: str = "", log: str = ""
    ) -> None:
        """Record why a cell failed; kept answers stay. Raises StoreError."""
        folder = self.folder(key)
        before = self._failure(f"{folder}/{FAILED}")
        failure = Failure(key, cause, cell, traceback, log, before.attempts + 1 if before else 1, time.time())
        self.files.write(f"{folder}/{FAILED}", render_failure(failure), durable=False)

    def partial(self, key: str, total: int, fingerprint: str = "", every: int = 32) -> chunks.Partial:
        """The kept answers of an unfinished cell, to be added to; see kick.store.chunks.Partial."""
        folder = f"{self.folder(key)}/{PARTIAL}"
        return chunks.Partial(self.files, folder, total, fingerprint, every)

    def progress(self, key: str) -> tuple[int, int]:
        """Answers kept and asked for of an unfinished cell; (0, 0) if none is kept."""
        return chunks.progress(self.files, f"{self.folder(key)}/{PARTIAL}")

    def claim(self, key: str, sweep: str = "", owner: str = "") -> claims.Claim | None:
        """Take the cell for this process; None if another has it. A kick.store.claims.Heart keeps it.

        One that a dead worker of the same `sweep` left is taken over. `owner` names one for many claims.
        """
        folder = self.folder(key)
        claim = claims.take(self.files, folder, sweep, owner)
        if claim is not None:
            for name in self.files.names(folder):
                if name.endswith(TEMPORARY) and left_by_dead(name.split(".")[-3]):
                    self.files.delete(f"{folder}/{name}")
        return claim

    def release(self, claim: claims.Claim) -> None:
        """Give a claim back."""
        claims.release(self.files, claim)

    def held_by_other(self, key: str, sweep: str) -> str:
        """Another owner of the cell, living or not known to be dead; "" if nobody has.

        A claim that a worker of this `sweep`, or a dead process, left is removed.
        """
        folder = self.folder(key)
        seen = claims.look(self.files, folder)
        if seen is None:
            return ""
        if seen.get("sweep") == sweep or claims.dead_here(seen):
            claims.clear(self.files, folder, seen)
            return ""
        return f"process {seen.get('pid')} on {str(seen.get('machine')).split(':')[0]} has it"

    def check_writable(self) -> None:
        """Raise StoreError, saying what to do, if nothing can be written."""
        path = f"{self.matrix + '/' if self.matrix else ''}.writable"
        self.files.write(path, b"", durable=False)
        self.files.delete(path)


def _checked(name: str, what: str) -> str:
    """The name, if it is one folder's and no path. Raises KickError."""
    if not _NAME.fullmatch(name):
        raise KickError(f"{what} {name!r} cannot name a folder; letters, digits, - and _ can")
    return name


def _aside(digest: str) -> str:
    return f"samples-{digest[:16]}.parquet" if _KEY.match(digest) else "samples-.parquet"


def one_matrix(folder: str | Path) -> tuple[Store, str]:
    """The store of a folder or URL that holds the results of one matrix, and that matrix.

    Raises KickError if the folder does not exist, or holds no finished cell, or those of several matrices.
    """
    store = opened(folder)
    matrices = list(dict.fromkeys(run.matrix for run in store.runs()))
    if not matrices:
        raise KickError(f"{folder} has no finished cell; `kick run` makes some")
    if len(matrices) > 1:
        raise KickError(
            f"{folder} holds the matrices {', '.join(matrices)}; name the folder of one, e.g. "
            f"{str(folder).rstrip('/')}/{matrices[0]}"
        )
    return store, matrices[0]


def opened(folder: str | Path) -> Store:
    """The store of a folder or URL, to be read. Raises KickError if the folder does not exist."""
    if "://" not in str(folder) and not Path(folder).is_dir():
        raise KickError(
            f"{str(folder)!r} is not a folder of results; `kick run` makes one, results/ by default"
        )
    return Store(folder)
