"""Stored cells that a report is made of, and what each is compared with."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any, Protocol

from kick.analysis import traits as analysis_traits
from kick.analysis.headlines import info, place
from kick.analysis.items import Items
from kick.analysis.rows import number
from kick.errors import Damaged, KickError
from kick.printable import plain
from kick.records import Result, Sample, Variant


class Stored(Protocol):
    """Methods that the report needs of a store."""

    def runs(self) -> Iterable[Result]:
        """Every finished cell."""

    def samples(self, key: str) -> Sequence[Sample]:
        """The items of a finished cell."""

    def arrays(self, key: str) -> tuple[Sequence[str], Sequence[str], Mapping[str, Any]]:
        """The items of a finished cell, their groups, and each score's array (n,)."""

    def recall(self) -> Mapping[str, str]:
        """The texts that were given to `remember`, by name; none if they were not kept."""

    def remember(self, texts: Mapping[str, str]) -> None:
        """Keep texts that can be computed again."""

    def noted(self, key: str) -> Mapping[str, str]:
        """Such texts that were kept with the cell when it was measured, by name."""

    def costs(self) -> Sequence[Mapping[str, Any]]:
        """What variants cost to run, a record each."""


class Unreadable(KickError):
    """A finished cell whose items are damaged."""

    def __init__(self, cell: StoredCell, message: str):
        super().__init__(message)
        self.cell = cell


@dataclass(frozen=True)
class StoredCell:
    """A finished cell with its place: the store it is in, the base model that it is compared with, and the
    columns of its variant (`kick.analysis.traits`), which all its cells share."""

    run: Result
    store: Stored
    base: str
    traits: Mapping[str, Any]

    @property
    def variant(self) -> Variant:
        return self.run.cell.variant

    @property
    def role(self) -> str:
        """What tells a kept statistic of dense from one of a variant whose samples are equal to dense's."""
        return "dense" if self.variant.dense else "beside dense"

    @property
    def setting(self) -> str:
        """Way in which it was asked, beyond its own file: "5-shot, first 48, chat"; "" for the defaults."""
        spec = self.run.cell.task
        parts = [f"{spec.shots}-shot" if spec.shots is not None else ""]
        parts += [
            f"first {spec.limit}" if spec.limit is not None else "",
            "chat" if spec.chat_template else "",
            *(f"{name} {value}".lower() for name, value in json.loads(spec.template or "{}").items()),
        ]
        return ", ".join(part for part in parts if part)

    @property
    def section(self) -> tuple[str, str]:
        """Matrix and base model: within them variants are compared."""
        return self.run.matrix, self.base

    @property
    def label(self) -> str:
        """The variant for readers, as page and tables have it: "wanda 50 %"."""
        return self.traits["label"]

    @property
    def asked(self) -> tuple[str, str, str, str]:
        """Identity of comparable cells: matrix, base model, task, setting."""
        return self.run.matrix, self.base, self.run.cell.task.name, self.setting

    def items(self) -> Items:
        """The item scores, read from the store. Raises Unreadable if they are damaged."""
        try:
            ids, groups, columns = self.store.arrays(self.run.key)
        except Damaged as error:
            raise Unreadable(self, str(error)) from error
        return Items(tuple(ids), tuple(groups), columns)


def gather(stores: Sequence[Stored]) -> tuple[list[StoredCell], list[str]]:
    """The cells of these stores in a fixed order, the newest of each, with notes of what was left out."""
    cells, notes = _newest(_based([(run, store) for store in stores for run in store.runs()]))
    cells = labelled(cells)
    cells.sort(
        key=lambda cell: (cell.run.matrix, cell.base, place(cell.run), cell.setting, _dense_first(cell))
    )
    return cells, [*notes, *_several_dense(cells)]


def _dense_first(cell: StoredCell) -> tuple[bool, bool, str]:
    """Sorts dense before others, of several the one that is named so, else the first by name: the first dense
    cell of a question is what its others are compared with."""
    return (False, *_usual(cell.variant)) if cell.variant.dense else (True, False, "")


def _usual(dense: Variant) -> tuple[bool, str]:
    """Sorts the dense model that is named so before others, and those by name."""
    return dense.name != "dense", dense.name


def _several_dense(cells: Iterable[StoredCell]) -> list[str]:
    """A note of each question that has several dense models, which one was taken; of questions alike, one."""
    found = []
    for part in by_asked(cells).values():
        dense = [cell for cell in part if cell.variant.dense]
        if len(dense) > 1:
            first, others = dense[0], ", ".join(plain(cell.label) for cell in dense[1:])
            found.append(
                f"Matrix {plain(first.run.matrix)} has several dense models: variants are compared with "
                f"{plain(first.label)}, not with {others}."
            )
    return list(dict.fromkeys(found))


def labelled(cells: Sequence[StoredCell]) -> list[StoredCell]:
    """The cells with labels of which no two in a section read the same.

    Variants whose own labels are equal are told apart by the seed of their training if it differs, then by
    that of their calibration, else by their names.
    """
    traits: dict[tuple[str, str, str], dict[str, Any]] = {}
    for cell in cells:
        traits.setdefault((*cell.section, cell.variant.name), dict(cell.traits))
    trained = [one for one in _alike(traits) if not math.isnan(one["training_seed"])]
    seeds = Counter(name for name, _ in {(one["label"], one["training_seed"]) for one in trained})
    for one in trained:
        if seeds[one["label"]] > 1:
            one["label"] += f", training seed {one['training_seed']:g}"
    for one in _alike(traits):
        if not math.isnan(one["seed"]):
            one["label"] += f", seed {one['seed']:g}"
    names = {id(one): _short(variant) for (*_, variant), one in traits.items()}
    for one in _alike(traits):
        one["label"] = names[id(one)]
    return [replace(cell, traits=traits[*cell.section, cell.variant.name]) for cell in cells]


def _short(name: str) -> str:
    """A variant's name; of a checkpoint that an older version named by its whole path, the last two parts."""
    path = PurePath(name)
    return "/".join(path.parts[-2:]) if path.is_absolute() else name


def _alike(traits: Mapping[tuple[str, str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    """The variants whose label another one of their section has too."""
    counts = Counter((*section, one["label"]) for (*section, _), one in traits.items())
    return [one for (*section, _), one in traits.items() if counts[*section, one["label"]] > 1]


def describe(cell: StoredCell) -> dict[str, Any]:
    """The columns that all rows of a cell share."""
    run, spec = cell.run, cell.run.cell.task
    asks = run.about.get("asks", "") if isinstance(run.about, Mapping) else ""
    return {
        "matrix": run.matrix,
        "base": cell.base,
        "variant": cell.variant.name,
        "key": run.key,
        "dense": cell.variant.dense,
        **cell.traits,
        "engine": run.cell.engine,
        "imported": imported(run),
        "task": spec.name,
        "title": info(run).title,
        "family": info(run).family,
        "asks": asks if isinstance(asks, str) else "",
        "setting": cell.setting,
        "shots": number(spec.shots),
        "limit": number(spec.limit),
        "margin": number(run.margin),
        "chat_template": spec.chat_template,
        "truncated": run.counts.get("truncated", 0),
        "leaked": run.counts.get("leaked", 0),
        "seconds": math.fsum(run.seconds.values()),
        "compress_seconds": number(run.seconds.get("compress")),
        "peak_memory": run.peak_memory,
        **analysis_traits.achieved(run.compression),
    }


def imported(run: Result) -> str:
    """Where a result's answers come from if another program gave them: "lm-eval 0.4.13"; "" for our own."""
    said = run.provenance.get("imported")
    tool = said.get("tool") if isinstance(said, Mapping) else None
    return (tool if isinstance(tool, str) and tool else "another program") if run.cell.imported else ""


def _based(runs: Sequence[tuple[Result, Stored]]) -> list[StoredCell]:
    """Each run once, with its base model: its own, or for a checkpoint the one its matrix is about."""
    unique: dict[tuple[str, str], tuple[Result, Stored]] = {}
    for run, store in runs:
        unique.setdefault((run.matrix, run.key), (run, store))
    dense = [run for run, _ in unique.values() if run.cell.variant.dense]
    dense.sort(key=lambda run: _usual(run.cell.variant), reverse=True)
    models = {run.key: run.cell.variant.model for run in dense}  # of a matrix's the last one counts
    of_matrix = {run.matrix: models[run.key] for run, _ in unique.values() if run.key in models}
    digests: dict[str, set[str]] = {}
    for model in models.values():
        digests.setdefault(model.title, set()).add(model.digest)
    cells: list[StoredCell] = []
    known: dict[str, tuple[Variant, dict[str, Any]]] = {}
    for run, store in unique.values():
        model = run.cell.variant.model
        if run.cell.variant.checkpoint:
            model = models.get(run.cell.reference or "") or of_matrix.get(run.matrix) or model
        several = len(digests.get(model.title, ())) > 1
        base = f"{model.title} ({model.digest[:6]})" if several else model.title
        cells.append(StoredCell(run, store, base, _traits(run, known)))
    return cells


def _traits(run: Result, known: dict[str, tuple[Variant, dict[str, Any]]]) -> dict[str, Any]:
    """The variant's columns, computed once for cells of one variant that follow each other."""
    variant = run.cell.variant
    before = known.get(variant.name)
    if before is None or before[0] != variant:
        stored = steps_of(run)
        label = analysis_traits.label(variant, stored)
        before = variant, {"label": label, **analysis_traits.traits(variant, stored)}
        known[variant.name] = before
    return before[1]


def steps_of(run: Result) -> Sequence[Any]:
    """The steps of a result's compression record; none if there are not any."""
    steps = run.compression.get("steps")
    return steps if isinstance(steps, list | tuple) else ()


def _newest(cells: Sequence[StoredCell]) -> tuple[list[StoredCell], list[str]]:
    """The newest of several results of one variant on one question, and a note of what was left out.

    Of one set of answers the newest is the one that was scored last: rescoring keeps the time of the answers.
    A cell that differs from an older one in nothing but where it ended does not take the place of one that
    was asked more items.
    """
    chosen: dict[tuple, StoredCell] = {}
    for cell in sorted(cells, key=_made):
        place = (*cell.asked, cell.variant.name)
        if place not in chosen or not _less(cell.run, chosen[place].run):
            chosen[place] = cell
    left = len(cells) - len(chosen)
    notes = [f"{left} older results of the same variants and tasks are left out"] if left else []
    keep = set(map(id, chosen.values()))
    return [cell for cell in cells if id(cell) in keep], notes


def _less(run: Result, other: Result) -> bool:
    """Whether a result is of the same question to the same variant as another one, and of fewer items."""
    first, second = (replace(one.cell.task, stop="") for one in (run, other))
    same = run.cell.variant == other.cell.variant and first == second
    return same and run.counts.get("items", 0) < other.counts.get("items", 0)


def _made(cell: StoredCell) -> tuple[str, str]:
    """Times at which a result was answered, and scored again."""
    origin = cell.run.provenance
    return str(origin.get("time", "")), str((origin.get("rescored") or {}).get("time", ""))


def by_asked(cells: Iterable[StoredCell]) -> dict[tuple, list[StoredCell]]:
    """The cells by what they were asked: each list is comparable."""
    found: dict[tuple, list[StoredCell]] = {}
    for cell in cells:
        found.setdefault(cell.asked, []).append(cell)
    return found
