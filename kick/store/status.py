"""State of every cell of a store, from one listing and the files that say more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from kick.store import chunks, claims
from kick.store.files import Files
from kick.store.json_files import FAILED, RUN, parse_failure

SAMPLES, PARTIAL = "samples.parquet", "partial"


@dataclass(frozen=True)
class State:
    """State of a cell; `note` says who runs it, why it failed or what is damaged.

    started: not done, not failed, run by nobody now; `answered` of `asked` requests are kept in chunks.
    """

    key: str
    matrix: str
    state: Literal["done", "failed", "running", "started", "damaged"]
    note: str = ""
    answered: int = 0
    asked: int = 0


def states(files: Files, folder: str, whole: set[str]) -> Iterator[State]:
    """The state of each cell under the folder, by path; `whole` are the paths of the sound run.json."""
    for path, names in files.tree(folder).items():
        cell = {RUN, SAMPLES, FAILED, claims.CLAIM, PARTIAL} & set(names)
        if cell:
            yield _state(files, path, cell, f"{path}/{RUN}" in whole)


def _state(files: Files, path: str, names: set[str], whole: bool) -> State:
    matrix, _, key = path.rpartition("/")
    matrix = matrix or files.root.rpartition("/")[2]  # the root is a matrix's own folder
    answered, asked = chunks.progress(files, f"{path}/{PARTIAL}") if PARTIAL in names else (0, 0)
    if RUN in names and whole and SAMPLES in names:
        return State(key, matrix, "done")
    claim = claims.look(files, path) if claims.CLAIM in names else None
    if claim is not None and not claims.dead_here(claim):
        who = f"process {claim.get('pid')} on {str(claim.get('machine')).split(':')[0]}"
        return State(key, matrix, "running", who, answered, asked)
    if RUN in names:
        note = f"{SAMPLES} is missing" if whole else f"{RUN} or {SAMPLES} does not match its checksum"
        return State(key, matrix, "damaged", note, answered, asked)
    if FAILED in names:
        failure = parse_failure(files.read(f"{path}/{FAILED}"), key)
        return State(key, matrix, "failed", failure.cause, answered, asked)
    return State(key, matrix, "started", "run by nobody now", answered, asked)
