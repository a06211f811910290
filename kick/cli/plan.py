"""Output of `kick plan` and `kick status`, as JSON values and as rows of a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kick.records import Result
from kick.store import Store

if TYPE_CHECKING:
    from kick.sweep.preview import Preview

HEADS = ["variant", "task", "items", "key", "state"]
STATUS_HEADS = ["matrix", "key", "variant", "task", "state", "answered", "note"]


def rows(found: Preview) -> list[list[str]]:
    """The cells as rows under HEADS."""
    return [[str("" if (v := getattr(cell, head)) is None else v) for head in HEADS] for cell in found.cells]


def status(stores: Sequence[Store]) -> list[dict[str, Any]]:
    """The cells of these stores with their states, as JSON values."""
    found = []
    for store in stores:
        results = {result.key: result for result in store.runs()}
        names = {key: result.cell for key, result in results.items()}
        names |= {failure.key: failure.cell for failure in store.failures() if failure.cell}
        for state in store.states():
            cell = names.get(state.key)
            found.append(
                {
                    "matrix": state.matrix,
                    "key": state.key,
                    "variant": cell.variant.name if cell else "",
                    "task": cell.task.name if cell else "",
                    "state": state.state,
                    "answered": f"{state.answered}/{state.asked}" if state.asked else "",
                    "note": state.note or _ended(results.get(state.key)),
                }
            )
    return found


def _ended(result: Result | None) -> str:
    """How a cell ended that was not asked all its items."""
    found = result.stopping if result else {}
    if not found or found["asked"] >= found["of"]:
        return ""
    return f"{found['asked']} of {found['of']} items asked: {found['verdict'] or found['reason']}"


def status_rows(states: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The cells as rows under STATUS_HEADS."""
    return [[str(state[head]) for head in STATUS_HEADS] for state in states]


def status_line(states: Sequence[Mapping[str, Any]]) -> str:
    """The number of cells in each state."""
    counts = Counter(state["state"] for state in states)
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "no cells"
