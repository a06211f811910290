"""Answers that were scored again are shown with their new scores, not with the old ones beside them."""

from __future__ import annotations

from itertools import permutations
from types import SimpleNamespace

from kick.analysis.cells import _newest
from kick.records import TaskSpec


def cell(name: str, time: str, rescored: str | None = None):
    provenance = {"time": time} | ({"rescored": {"from": "a", "time": rescored}} if rescored else {})
    variant = SimpleNamespace(name="dense")
    asked = SimpleNamespace(task=TaskSpec("task"), variant=variant)
    run = SimpleNamespace(provenance=provenance, name=name, cell=asked, counts={"items": 4})
    return SimpleNamespace(run=run, asked=("m", "base", "task", ""), variant=variant)


def test_the_last_scoring_of_the_newest_answers_is_the_one_that_counts():
    """Rescoring keeps the time of the answers: an equal time must not leave the choice to the order."""
    old, again = cell("old", "2026-01-01"), cell("again", "2026-01-01", "2026-02-01")
    later = cell("later", "2026-01-05")
    for some, name in (((old, again), "again"), ((old, again, later), "later")):
        for order in permutations(some):
            (kept,), notes = _newest(order)
            assert kept.run.name == name
            assert f"{len(some) - 1} older" in notes[0]
