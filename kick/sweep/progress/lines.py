"""A sweep as plain lines, for a log, and as JSON lines, for a program."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any, TextIO

from kick.sweep.contract import Event
from kick.sweep.groups import title
from kick.sweep.progress.board import Board, Running, duration

EVERY = 30.0  # seconds between two lines on running jobs
EVERY_JSON = 5.0


class Lines:
    """A line for what happens, and now and then one for each running job."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._last = time.monotonic()

    def open(self, board: Board) -> None:
        """Nothing: the plan's event says what begins."""

    def event(self, event: Event, board: Board) -> None:
        """Say it."""
        counts = board.counts
        place = f"[{counts['done'] + counts['failed']}/{len(board.states)}]"
        if event.kind == "start" and event.job:
            self._say(f"{place} {title(event.job)}: started on {event.worker}")
        elif event.cell and event.kind in ("done", "failed", "elsewhere"):
            note = f": {event.message}" if event.message else ""
            self._say(f"{place} {event.cell.variant.name} {event.cell.task.name}: {event.kind}{note}")
        elif event.kind != "job":
            self._say(event.message)

    def tick(self, board: Board) -> None:
        """Say how far the running jobs are, every EVERY seconds."""
        if time.monotonic() - self._last < EVERY:
            return
        self._last = time.monotonic()
        for name, one in list(board.running.items()):
            self._say(f"    {name} {how_far(one)}")
        self._say(f"    all: about {duration(board.left())} left")

    def close(self, board: Board) -> None:
        """Nothing: the end's event says how it ended."""

    def _say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


def how_far(one: Running) -> str:
    """A running job's cell, answers, rate and time left."""
    task = one.cell.task.name if one.cell else "preparing"
    if not one.asked:
        return f"{task}, {duration(time.monotonic() - one.since)} so far"
    text = f"{task} {one.answered}/{one.asked}"
    return text + (f", {one.rate:.1f}/s, {duration(one.left)} left" if one.rate else "")


class JsonLines:
    """An object a line: each event, and the progress of running cells."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._last = time.monotonic()

    def open(self, board: Board) -> None:
        """Nothing: the plan's event says what begins."""

    def event(self, event: Event, board: Board) -> None:
        """Write it, with the totals."""
        fields: dict[str, Any] = {"event": event.kind, "message": event.message}
        if event.job:
            fields["variant"] = event.job.variant.name
        if event.cell:
            cell = event.cell
            fields |= {"variant": cell.variant.name, "task": cell.task.name, "key": cell.key}
        if event.worker:
            fields["worker"] = event.worker
        if event.seconds:
            fields["seconds"] = round(event.seconds, 3)
        self._write(fields | {"cells": dict(board.counts), "total": len(board.states)})

    def tick(self, board: Board) -> None:
        """Write how far the running cells are, every EVERY_JSON seconds."""
        if time.monotonic() - self._last < EVERY_JSON:
            return
        self._last = time.monotonic()
        for name, one in list(board.running.items()):
            if one.cell and one.asked:
                place = {"variant": name, "task": one.cell.task.name, "key": one.cell.key}
                far = {"answered": one.answered, "asked": one.asked, "rate": round(one.rate, 3)}
                self._write({"event": "progress", **place, **far})

    def close(self, board: Board) -> None:
        """Nothing: the end's event says how it ended."""

    def _write(self, fields: dict[str, Any]) -> None:
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields}
        print(json.dumps(line), file=self._stream, flush=True)
