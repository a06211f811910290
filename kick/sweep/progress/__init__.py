"""What a sweep is doing, shown to whoever watches: a live view, plain lines, or JSON lines.

with show(jobs, store) as view:
    run_sweep(work, jobs, store, executor, on_event=view)
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import Literal, Protocol, TextIO

from rich.console import Console

from kick.records import Job
from kick.store import Store, StoreError
from kick.sweep.contract import Event
from kick.sweep.progress.board import Board
from kick.sweep.progress.lines import JsonLines, Lines
from kick.sweep.progress.live import LiveView

POLL = 1.0  # seconds between two looks at the answers of running cells


class ProgressView(Protocol):
    """Shows events as they come, and the board once a second between them."""

    def event(self, event: Event, board: Board) -> None:
        """Something happened; the board has it already."""

    def tick(self, board: Board) -> None:
        """A second went by."""

    def open(self, board: Board) -> None:
        """The sweep begins."""

    def close(self, board: Board) -> None:
        """The sweep has ended."""


class Show:
    """A context that feeds a view; called with each event. Safe from several threads."""

    def __init__(self, board: Board, view: ProgressView):
        self._board, self._view = board, view
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="kick-progress", daemon=True)

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._board.take(event)
            self._view.event(event, self._board)

    def _poll(self) -> None:
        while not self._over.wait(POLL):
            try:
                self._board.look()
            except StoreError:  # the sweep itself meets it too, and says so
                continue
            with self._lock:
                self._view.tick(self._board)

    def __enter__(self) -> Show:
        self._view.open(self._board)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._view.close(self._board)


def show(
    jobs: Sequence[Job],
    store: Store,
    how: Literal["auto", "live", "lines", "json"] = "auto",
    stream: TextIO | None = None,
) -> Show:
    """The view of a sweep over all the jobs of a matrix, done ones included.

    Args:
        how: auto is the live view in a terminal and lines elsewhere, in a notebook too.
        stream: where to; by default standard error, and standard output for JSON lines.
    """
    board = Board(jobs, store)
    if how == "json":
        return Show(board, JsonLines(stream or sys.stdout))
    console = Console(file=stream or sys.stderr)
    if how == "live" or (how == "auto" and console.is_terminal and not console.is_jupyter):
        return Show(board, LiveView(console))
    return Show(board, Lines(stream or sys.stderr))
