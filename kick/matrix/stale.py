"""Cells that a store has under other keys than a plan: what changed since they were measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kick.matrix.yaml_marks import show
from kick.records import Cell, Result

_WORDS = {
    "version": "keys are made otherwise now, or questions answered otherwise (docs/decisions.md)",
    "variant.model.digest": "the model's weights changed",
    "variant.model.tokenizer": "the tokenizer changed",
    "variant.calibration.digest": "the calibration corpus changed",
    "engine": "another engine answers",
    "task.digest": "the task's files or data changed",
    "task.stop": "another `stop`, margin or looks (their answers are taken, only the rest is asked)",
    "task.scoring": "the task's scoring changed (kick rescore needs no model)",
}
_DERIVED = ("reference",)
_BY_CODE = ("task.digest", "task.scoring")  # not comparable between two ways of making keys


@dataclass(frozen=True)
class Stale:
    """A cell stored under `old` that the plan now calls `new`, and why, in words."""

    old: str
    new: str
    variant: str
    task: str
    changes: tuple[str, ...]


def find(
    matrix: str,
    planned: Mapping[str, Cell],
    stored: Iterable[Result],
    given: Mapping[str, Sequence[frozenset[str]]],
) -> list[Stale]:
    """The stored cells of `matrix` whose variant and task are planned under another key, not yet stored.

    `given` names the options that the matrix file sets, by variant and step: another one that differs is a
    default that changed.
    """
    own = [result for result in stored if result.matrix == matrix]
    present = {result.key for result in own}
    missing = {
        (cell.variant.name, cell.task.name): key for key, cell in planned.items() if key not in present
    }
    found = []
    for result in own:
        place = (result.cell.variant.name, result.cell.task.name)
        if result.key not in planned and place in missing:
            new = missing[place]
            changes = explain(result.cell, planned[new], given.get(place[0], ()), result.key_version)
            found.append(Stale(result.key, new, *place, tuple(changes)))
    return found


def summary(found: Sequence[Stale]) -> list[str]:
    """One line per cause: "12 cells are stale: wanda default changed: damping 0.01 -> 0.1"."""
    counts = Counter("; ".join(one.changes) for one in found)
    return [
        f"{count} cell{' is' if count == 1 else 's are'} stale: {cause}"
        for cause, count in counts.most_common()
    ]


def explain(
    old: Cell, new: Cell, given: Sequence[frozenset[str]] = (), old_version: int | None = None
) -> list[str]:
    """Differences between two cells of one label, in words."""
    before, after = old.identity(), new.identity()
    if old_version is not None:
        before["version"] = old_version
    changes = _recipe(before["variant"].pop("recipe"), after["variant"].pop("recipe"), given)
    flat = _flat(before), _flat(after)
    paths = [path for path in {**flat[0], **flat[1]} if flat[0].get(path) != flat[1].get(path)]
    unsaid = _DERIVED + (_BY_CODE if "version" in paths else ())
    for path in paths:
        if path not in unsaid:
            changes.append(_WORDS.get(path) or _change(path, flat[0].get(path), flat[1].get(path)))
    return changes or (["the dense reference changed"] if paths else ["nothing that is known"])


def _recipe(
    old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]], given: Sequence[frozenset[str]]
) -> list[str]:
    if [step["method"] for step in old] != [step["method"] for step in new]:
        return ["the recipe changed"]
    changes = []
    for place, (before, after) in enumerate(zip(old, new, strict=True)):
        if before["version"] != after["version"]:
            changes.append(f"{after['method']} version {before['version']} -> {after['version']}")
        elif before["digest"] and before["digest"] != after["digest"]:
            changes.append(f"{after['method']}'s code changed")
        set_here = given[place] if place < len(given) else frozenset()
        for name in {**before["options"], **after["options"]}:
            values = before["options"].get(name), after["options"].get(name)
            if values[0] != values[1]:
                what = "" if name in set_here else " default changed:"
                changes.append(f"{after['method']}{what} {_change(name, *values)}")
    return changes


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {path: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= _flat(inner, f"{path}.{key}" if path else key)
    return found


def _change(name: str, old: Any, new: Any) -> str:
    name = name.removeprefix("variant.").removeprefix("task.")
    return f"{name} {show(old)} -> {show(new)}"
