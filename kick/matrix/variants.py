"""A matrix's variants, written out: lists multiplied, methods and options checked, every variant named.

A label shows the method, its level (0.5, 2:4, 4bit) and each option that differs from its default, so that
labels of one matrix differ if the variants do: gptq-4bit-g32, wanda-0.5+rtn-4bit, wanda-0.5-seed1. An
entry's own `name` takes its place.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path as File
from typing import Any

from kick.errors import WrongOption
from kick.matrix import served
from kick.matrix.schema import (
    CheckpointKeys,
    Matrix,
    MethodKeys,
    OrderKeys,
    RecipeKeys,
    Replica,
    RunTimeKeys,
    StepKeys,
    VariantKeys,
)
from kick.matrix.servers import EndpointEntry
from kick.matrix.yaml_marks import Path, Problem, show
from kick.records import ModelSpec, Step, Variant, canonical
from kick.registry import UnknownName

OTHER_DTYPE = {"float32": "bfloat16", "bfloat16": "float32", "float16": "float32"}


def _runtime_step(name: str, options: Mapping[str, Any]) -> Step:
    """A run-time method with every default written out; raises as `MethodTable.step` does."""
    from kick.runtime.method import canonical  # brings torch in

    return canonical(name, options)


@dataclass(frozen=True)
class MethodTable:
    """Table that expansion asks about methods.

    `step` writes every default out; it raises UnknownName for the method, WrongOption for an option, and
    ValueError for one that is missing.
    `needs` names what a step needs, e.g. "calibration". `feeds`: whether the order of the calibration
    sequences can show in what it does. `runtime`: `step` for run-time methods.
    """

    step: Callable[[str, Mapping[str, Any]], Step]
    needs: Callable[[Step], Collection[str]]
    feeds: Callable[[str], bool] = lambda name: False
    runtime: Callable[[str, Mapping[str, Any]], Step] = _runtime_step


@dataclass(frozen=True)
class Expanded:
    """A variant, its place in the file, and which options of each step were given there."""

    variant: Variant
    path: Path
    given: tuple[frozenset[str], ...] = ()


@dataclass(frozen=True)
class Choice:
    """A step with one value for each option, not yet checked; `places` are those of the values."""

    method: str
    options: Mapping[str, Any]
    path: Path
    places: Mapping[str, Path]


@dataclass(frozen=True)
class _Run:
    """How a variant is run: a run-time method's step with its label and place, or plainly."""

    step: Step | None = None
    labels: tuple[str, ...] = ()
    place: Path | None = None


_Named = MethodKeys | RecipeKeys | CheckpointKeys | RunTimeKeys


def expand(matrix: Matrix, table: MethodTable) -> tuple[list[Expanded], list[Problem]]:
    """All variants of a matrix, dense first, and what is wrong with the others. Nothing has a digest yet."""
    expansion = _Expansion(matrix, table)
    expansion.run()
    return expansion.found, expansion.problems


class _Expansion:
    def __init__(self, matrix: Matrix, table: MethodTable):
        self.matrix = matrix
        self.model = ModelSpec(matrix.model, matrix.revision, matrix.dtype)
        self.table = table
        self.found: list[Expanded] = []
        self.problems: list[Problem] = []
        self._seen: dict[str, Path] = {}  # a variant's content -> where it was given
        self._labels: dict[str, Path] = {}  # a variant's name -> where it was given
        self._named: set[str] = set()  # names that the file gives

    def run(self) -> None:
        entries: list[tuple[Path, VariantKeys]] = [
            (("variants", place), entry) for place, entry in enumerate(self.matrix.variants)
        ]
        self.problems += served.problems(self.matrix)
        self._dense(entries)
        for path, entry in entries:
            if isinstance(entry, MethodKeys):
                self._recipes([list(self._choices(entry, path))], path, entry)
            elif isinstance(entry, RecipeKeys):
                steps = [(step, (*path, "recipe", number)) for number, step in enumerate(entry.recipe)]
                self._recipes([list(self._choices(*step)) for step in steps], path, entry)
            elif isinstance(entry, RunTimeKeys):
                self._recipes([], path, entry)
            elif isinstance(entry, CheckpointKeys):
                self._checkpoint(entry, path)
            elif isinstance(entry, EndpointEntry) and not entry.dense:
                self._add(served.variant(entry, self._labels), path)
        if not self.problems:
            self._check_orders()

    def _dense(self, entries: Sequence[tuple[Path, VariantKeys]]) -> None:
        """The dense model and its replicas; one that is served has none."""
        for path, entry in entries:
            if isinstance(entry, EndpointEntry) and entry.dense:
                self._add(served.variant(entry, {}), path)
                return
        dense: list[Path] = [path for path, entry in entries if entry == "dense"]
        for path in dense or [("variants",)]:
            self._add(Variant("dense", self.model), path)
        for place, replica in enumerate(self.matrix.replicas):
            if not isinstance(replica, OrderKeys):
                self._add(self._replica(replica), ("replicas", place))

    def _check_orders(self) -> None:
        """Refuse replicas of kind order that there cannot be."""
        for place, replica in enumerate(self.matrix.replicas):
            if not isinstance(replica, OrderKeys):
                continue
            count = self.matrix.calibration.sequences
            others = math.factorial(count) - 1
            if not any(one.variant.reordered for one in self.found):
                message = "no variant here depends on the order of its calibration sequences; leave order out"
                self.problems.append(Problem(("replicas", place), message))
            elif replica.order > others:
                message = f"got {replica.order}; {count} calibration sequences have {others} other orders"
                self.problems.append(Problem(("replicas", place, "order"), message))

    def _replica(self, kind: Replica) -> Variant:
        dtype = OTHER_DTYPE[self.model.dtype] if kind == "dtype" else self.model.dtype
        return Variant(f"dense-{kind}", replace(self.model, dtype=dtype), replica=kind)

    def _checkpoint(self, entry: CheckpointKeys, path: Path) -> None:
        if entry.reference not in (None, self.matrix.model):
            message = (
                f"got {entry.reference}; a matrix has one dense model, here {self.matrix.model}: "
                f"give {entry.reference} a matrix of its own"
            )
            self.problems.append(Problem((*path, "reference"), message))
            return
        model = ModelSpec(entry.checkpoint, entry.revision, self.matrix.dtype)
        *_, above, last = ("", *File(entry.checkpoint).absolute().parts)
        last = f"{above}/{last}" if last in self._labels else last
        name = self._one_name(entry, path, 1)
        for run in self._runs(entry.runtime, path):
            full = name or "+".join([last, *run.labels])
            self._add(
                Variant(full, model, checkpoint=True, label=name or "", runtime=run.step), run.place or path
            )

    def _one_name(self, entry: _Named, path: Path, count: int) -> str | None:
        """The entry's name, if it is of one variant of `count` recipes."""
        count *= len(list(self._choices(entry.runtime, path))) if entry.runtime else 1
        if entry.name and count > 1:
            message = f"one name for {count} variants; give each an entry of its own, or leave name out"
            self.problems.append(Problem((*path, "name"), message))
            return None
        return entry.name

    def _runs(self, keys: StepKeys | None, path: Path) -> list[_Run]:
        """The ways of running that an entry gives: one plain one if it gives none."""
        if keys is None:
            return [_Run()]
        found = []
        for choice in self._choices(keys, (*path, "runtime")):
            step = self._step(choice, self.table.runtime)
            if step is not None:
                label = label_of(step, choice.options, replace(self.table, step=self.table.runtime))
                found.append(_Run(step, (label,), self._place((choice,), path)))
        return found

    def _choices(self, entry: StepKeys, path: Path) -> Iterator[Choice]:
        axes = []
        for name, value in entry.options.items():
            place = (*path, name)
            if value == []:
                message = f"got an empty list; expected: at least one value, or no {name}"
                self.problems.append(Problem(place, message))
            values = value if isinstance(value, list) else [value]
            several = isinstance(value, list)
            axes.append([(name, one, (*place, i) if several else place) for i, one in enumerate(values)])
        for method, *options in itertools.product(entry.method, *axes):
            yield Choice(
                method,
                {name: value for name, value, _ in options},
                (*path, "method"),
                {name: place for name, _, place in options},
            )

    def _recipes(self, steps: list[list[Choice]], path: Path, entry: _Named) -> None:
        name = self._one_name(entry, path, math.prod(map(len, steps)))
        runs = self._runs(entry.runtime, path)
        for choices in itertools.product(*steps):
            checked = [self._step(choice, self.table.step) for choice in choices]
            recipe = tuple(step for step in checked if step is not None)
            if len(recipe) == len(choices):
                place = self._place(choices, path)
                for run in runs:
                    at = run.place if run.place and place == path else place
                    self._seeds(recipe, choices, at, name, run)

    @staticmethod
    def _place(choices: tuple[Choice, ...], path: Path) -> Path:
        """The place of a variant: the one list item that only it has, or its entry."""
        inside = [
            place for choice in choices for place in choice.places.values() if isinstance(place[-1], int)
        ]
        return inside[0] if len(inside) == 1 else path

    def _step(self, choice: Choice, make: Callable[[str, Mapping[str, Any]], Step]) -> Step | None:
        try:
            step = make(choice.method, choice.options)
            canonical(dict(step.options))  # a NaN has no place in a key
            return step
        except UnknownName as error:
            problem = Problem(choice.path, str(error))
        except WrongOption as error:
            problem = Problem(choice.places.get(error.option, choice.path), str(error))
        except (ValueError, OverflowError) as error:
            problem = Problem(choice.path, str(error))
        if problem not in self.problems:
            self.problems.append(problem)
        return None

    def _seeds(
        self, recipe: tuple[Step, ...], choices: tuple[Choice, ...], path: Path, name: str | None, run: _Run
    ) -> None:
        labels = [label_of(step, one.options, self.table) for step, one in zip(recipe, choices, strict=True)]
        label = name or "+".join([*labels, *run.labels])
        given = tuple(frozenset(choice.options) for choice in choices)
        if not any("calibration" in self.table.needs(step) for step in recipe):
            variant = Variant(label, self.model, recipe, label=name or "", runtime=run.step)
            self._add(variant, path, given)
            return
        specs = self.matrix.calibration.specs(self.matrix.seeds)
        for calibration in specs:
            told = len(specs) > 1 or not name
            full = "-".join([label, *calibration.select.split()[:2]]) if told else label
            full = f"{full}-seed{calibration.seed}" if calibration.seed and told else full
            variant = Variant(full, self.model, recipe, calibration, label=name or "", runtime=run.step)
            if (
                self._add(variant, path, given)
                and run.step is None
                and any(self.table.feeds(step.method) for step in recipe)
            ):
                self._orders(variant, path, given)

    def _orders(self, variant: Variant, path: Path, given: tuple[frozenset[str], ...]) -> None:
        """The variant again with its calibration sequences in other orders."""
        for order in range(1, self.matrix.orders + 1):
            calibration = variant.calibration and replace(variant.calibration, order=order)
            name = f"{variant.name}-order{order}"
            self._add(replace(variant, name=name, calibration=calibration, replica="order"), path, given)

    def _add(self, variant: Variant, path: Path, given: tuple[frozenset[str], ...] = ()) -> bool:
        """Take in the variant; False, with a problem, if its content or its name is taken."""
        content = asdict(variant)
        del content["name"], content["label"]
        same = self._seen.get(canonical(content))
        if same is not None:
            first, second = (self.matrix.marks.place(place) for place in (same, path))
            where = f"in {first}" if first == second else f"{first} and {second}"
            self.problems.append(
                Problem(path, f"the variant {variant.name} is given twice: {where}; keep one")
            )
            return False
        self._seen[canonical(content)] = path
        taken = variant.name in self._labels
        if taken and (variant.label or variant.name in self._named):
            other = self.matrix.marks.place(self._labels[variant.name])
            message = f"two variants called {show(variant.name)}, the other in {other}; names must differ"
            self.problems.append(Problem((*path, "name") if variant.label else path, message))
            return False
        label, number = variant.name, 1
        while variant.name in self._labels:
            number += 1
            variant = replace(variant, name=f"{label}~{number}")
        self._labels[variant.name] = path
        self._named |= {variant.name} if variant.label else set()
        self.found.append(Expanded(variant, path, given))
        return True


def label_of(step: Step, given: Mapping[str, Any], table: MethodTable) -> str:
    """A step's label: its method, level, and each option in `given` that differs from its default."""
    first, rest = [step.method], []
    for name, value in step.options.items():
        if name in ("sparsity", "bits") and value is not None:
            first.append(f"{value}bit" if name == "bits" else str(value))
        elif name in given and not _is_default(step, name, given, table):
            rest.append(_option(name, value))
    return "-".join([*first, *rest])


def _is_default(step: Step, name: str, given: Mapping[str, Any], table: MethodTable) -> bool:
    without = {other: value for other, value in given.items() if other != name}
    try:
        options = table.step(step.method, without).options
    except ValueError:  # it has no default
        return False
    return name in options and options[name] == step.options[name]


def _option(name: str, value: Any) -> str:
    if name == "group_size":
        return "row" if value == -1 else f"g{value}"
    if isinstance(value, bool):
        return name if value else f"no_{name}"
    return f"{name}={value if isinstance(value, str) else show(value)}"
