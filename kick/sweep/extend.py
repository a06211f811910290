"""More items of cells that ended early: asked in the same order until they are decided or precise.

An extended cell has the rule of the cell that it continues, without futility, and its precision if one is
asked for; so it has a key of its own, and takes the answers that are there. A reader shows it in place of the
cell that it continues, since it has more items.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, TypeAlias

from kick import plugins, tasks
from kick.analysis import cells as stored_cells
from kick.analysis.cells import StoredCell
from kick.analysis.stopping import Stopping, deciding
from kick.compress.method import methods
from kick.errors import KickError
from kick.matrix import stopping
from kick.printable import counted
from kick.records import Cell, Job, Variant
from kick.registry import unknown
from kick.stats.sequential import Rule
from kick.store import Store, one_matrix
from kick.sweep.answered import engine_of, options_of
from kick.sweep.executors import make_executor
from kick.sweep.loop import run_sweep
from kick.sweep.progress import show
from kick.sweep.worker import Worker

HEADS = ["variant", "task", "before", "asked", "of", "verdict", "key"]
VERDICTS = {"matches": "matching", "worse": "worse", "better": "better", "decided": ""}
Claimed: TypeAlias = tuple[str, str, str]  # variant, verdict in words, task
_UNTIL = re.compile(r"(.+?)\s+(?:is\s+)?(matches|worse|better|decided)(?:\s+on\s+(\S+))?")


@dataclass(frozen=True)
class ExtendOptions:
    """Which cells get more items, and until when.

    until: texts such as "wanda-0.5 matches on kick_mini_mcq". precision: points of the 95 % interval's
    half-width. variants, tasks: names, labels or patterns; cells: keys; all cells if none is given.
    """

    until: tuple[str, ...] = ()
    precision: float | None = None
    variants: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    cells: tuple[str, ...] = ()
    data_root: str | None = None
    task_folders: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    executor: str = "local"
    workers: int | None = None
    view: Literal["auto", "live", "lines", "json"] = "auto"
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class Extended:
    """A cell that was to be continued: items before, items now, of how many, and the verdict now.

    failed: why it could not be.
    """

    variant: str
    task: str
    before: int
    asked: int
    of: int
    verdict: str
    key: str
    failed: str = ""

    def row(self) -> list[str]:
        """As a row under HEADS."""
        said = f"failed: {self.failed}" if self.failed else self.verdict or "none"
        numbers = [str(number) for number in (self.before, self.asked, self.of)]
        return [self.variant, self.task, *numbers, said, self.key]


def extend(results: str, options: ExtendOptions, say: Callable[[str], None] = print) -> list[Extended]:
    """Ask more items of the chosen cells that ended early; what became of each.

    Raises KickError for a folder without such cells, a text of `until` that cannot be read, a variant or task
    that is not there, a task or method that has changed since.
    """
    if not options.until and options.precision is None:
        raise KickError('until when? give --until "wanda-0.5 matches", or --precision 2 for two points')
    if options.precision is not None and not 0 < options.precision < math.inf:
        raise KickError(f"--precision: got {options.precision:g}; expected: a number of points above 0")
    claims = [_until(text) for text in options.until]
    store = _matrix(results)
    plugins.load(options.plugins)
    ended = [cell for cell in stored_cells.gather([store])[0] if cell.run.stopping]
    if not ended:
        raise KickError(
            f"{results} has no cell that a rule could end early; run a matrix with --stop decided"
        )
    named = _named(ended, options, claims)
    chosen = [cell for cell in named if _left(cell, options)]
    if not chosen:
        say("nothing is left to ask: each of these cells is decided, or has been asked all its items")
    found = [one for part in _alike(chosen, store) for one in _ask(part, store, options, say)]
    for line in _answers(named, claims, {(one.variant, one.task): one.verdict for one in found}):
        say(line)
    return found


def _alike(cells: Sequence[StoredCell], store: Store) -> list[list[StoredCell]]:
    """The cells in parts, each beside one dense model, read with one margin and answered by one backend."""
    parts: dict[tuple[Variant, float, str], list[StoredCell]] = {}
    for cell in cells:
        dense = store.result(str(cell.run.cell.reference)).cell.variant
        parts.setdefault((dense, cell.run.margin, engine_of(cell.run)), []).append(cell)
    return list(parts.values())


def _ask(
    chosen: Sequence[StoredCell], store: Store, options: ExtendOptions, say: Callable[[str], None]
) -> list[Extended]:
    """Have the cells asked on."""
    known = _unchanged(chosen, options)
    pairs = [(cell, _continued(cell.run.cell, options.precision, deciding(cell.run).name)) for cell in chosen]
    for cell, _ in pairs:
        say(_forecast(cell, store))
    jobs, first = _jobs([new for _, new in pairs]), chosen[0].run
    backend = engine_of(first)
    work = Worker(
        root=store.root,
        matrix=str(store.matrix),
        dense=store.result(str(first.cell.reference)).cell.variant,
        task_names=tuple(known),
        margin=first.margin,
        data_root=options.data_root,
        task_folders=options.task_folders,
        plugins=plugins.load(options.plugins),
        backend=backend,
        engine=options_of(backend),
        command=options.command,
        reuse={new.key: (old.run.key,) for old, new in pairs},
    )
    executor = make_executor(options.executor, workers=options.workers)
    with show(jobs, store, options.view) as view:
        run_sweep(work, jobs, store, executor, retry_failed=True, on_event=view)
    return [_became(old, new, store) for old, new in pairs]


def _answers(
    cells: Sequence[StoredCell], claims: Sequence[Claimed], now: Mapping[tuple[str, str], str]
) -> list[str]:
    """Whether each claim is shown, a line per cell that it is about."""
    lines = []
    for variant, word, task in claims:
        for cell in cells:
            place = cell.variant.name, cell.run.cell.task.name
            if _fits(cell, variant, task):
                verdict = now.get(place, cell.run.stopping["verdict"])
                decided = verdict not in ("", "undecided")
                shown = (
                    "yes" if decided and VERDICTS[word] in ("", verdict) else "no" if decided else "not known"
                )
                lines.append(f"{place[0]} {word} on {place[1]}: {shown} ({verdict or 'no verdict'})")
    return lines


def _until(text: str) -> Claimed:
    """(variant, verdict, task) of a text such as "wanda-0.5 matches on kick_mini_mcq"."""
    found = _UNTIL.fullmatch(text.strip())
    if not found:
        raise KickError(
            f"--until: got {text!r}; expected: VARIANT matches, worse, better or decided, e.g. "
            '"wanda-0.5 matches", or "wanda-0.5 matches on kick_mini_mcq"'
        )
    return found[1], found[2], found[3] or "*"


def _matrix(results: str) -> Store:
    """The store that the folder's matrix is written in. Raises KickError for several matrices, or none."""
    there, matrix = one_matrix(results)
    key = next(run.key for run in there.runs())
    if "/" in there.folder(key):
        return Store(there.root, matrix)
    parent, _, name = there.root.rpartition("/")
    if name != matrix:
        raise KickError(f"{results} holds the matrix {matrix}; rename the folder to {matrix}")
    return Store(parent or ".", matrix)


def _named(
    cells: Sequence[StoredCell], options: ExtendOptions, claims: Sequence[Claimed]
) -> list[StoredCell]:
    """The cells that the options name. Raises KickError for a name that fits none."""
    asked = [(variant, task) for variant, _, task in claims]
    asked = asked or [(v, t) for v in options.variants or ("*",) for t in options.tasks or ("*",)]
    found = []
    for variant, task in asked:
        fitting = [cell for cell in cells if _fits(cell, variant, "*")]
        if not fitting:
            names = {name for cell in cells for name in (cell.variant.name, cell.label)}
            raise KickError(unknown("variant of a cell that a rule can end", variant, names))
        found += [cell for cell in fitting if _fits(cell, variant, task)]
        if not any(_fits(cell, variant, task) for cell in fitting):
            raise KickError(unknown(f"task of {variant}", task, [c.run.cell.task.name for c in fitting]))
    for key in options.cells:
        if key not in (keys := [cell.run.key for cell in cells]):
            raise KickError(unknown("cell that a rule can end", key, keys))
    chosen = {cell.run.key: cell for cell in found}
    return [cell for key, cell in chosen.items() if not options.cells or key in options.cells]


def _fits(cell: StoredCell, variant: str, task: str) -> bool:
    """Whether a cell is of a variant and task by these names, labels or patterns."""
    names = cell.variant.name, cell.label
    fits = variant in names or any(fnmatchcase(name, variant) for name in names)
    return fits and fnmatchcase(cell.run.cell.task.name, task)


def _left(cell: StoredCell, options: ExtendOptions) -> bool:
    """Whether there is something to ask: of what is decided only if it shall be more precise."""
    stopping = cell.run.stopping
    open_still = stopping["verdict"] == "undecided" or options.precision is not None
    return bool(stopping["asked"] < stopping["of"] and open_still)


def _unchanged(cells: Sequence[StoredCell], options: ExtendOptions) -> list[str]:
    """The tasks' names. Raises KickError for a task or a method that is not what it was."""
    names = list(dict.fromkeys(cell.run.cell.task.name for cell in cells))
    known = tasks.load(names, options.data_root, [Path(folder) for folder in options.task_folders])
    for cell in cells:
        spec, task = cell.run.cell.task, known[cell.run.cell.task.name]
        if (task.digest, task.scoring) != (spec.digest, spec.scoring):
            raise KickError(
                f"the task {spec.name} has changed since it was asked; run the matrix again first"
            )
        for step in cell.variant.recipe:
            if step.method not in methods:
                raise KickError(
                    f"{cell.variant.name} needs the method {step.method}: name it, --plugins PATH"
                )
            if step.digest != methods[step.method].digest:
                raise KickError(f"the code of {step.method} has changed since; run the matrix again first")
    return names


def _continued(cell: Cell, points: float | None, primary: str) -> Cell:
    """The cell under its rule without futility, and with this precision."""
    rule = replace(Rule.of(cell.task.stop), futility=0.0)
    if points is not None:
        rule = replace(rule, precision=stopping.precision(points, primary))
    return replace(cell, task=replace(cell.task, stop=rule.text))


def _jobs(cells: Sequence[Cell]) -> list[Job]:
    parts: dict[str, list[Cell]] = {}
    for cell in cells:
        parts.setdefault(cell.variant.name, []).append(cell)
    return [Job(part[0].variant, tuple(part)) for part in parts.values()]


def _forecast(cell: StoredCell, store: Store) -> str:
    """A line that says how many items would decide the cell."""
    run = cell.run
    dense = str(run.cell.reference)
    waves = Stopping.of(store.result(dense), store.samples(dense), Rule.of(run.cell.task.stop))
    about, of = waves.to_decide(store.samples(run.key)), run.stopping["of"]
    needs = (
        "no number of items is known to decide it" if about is None else f"about {about:,} would decide it"
    )
    beyond = f", and there are {of:,}" if about and about > of else ""
    asked = counted(run.stopping["asked"], "item")
    said = f"{run.stopping['verdict'] or 'no verdict'} at {asked} of {of:,}"
    undecided = f"; {needs}{beyond}" if run.stopping["verdict"] == "undecided" else ""
    return f"{cell.variant.name} on {run.cell.task.name}: {said}{undecided}"


def _became(old: StoredCell, new: Cell, store: Store) -> Extended:
    before, of = old.run.stopping["asked"], old.run.stopping["of"]
    place = new.variant.name, new.task.name, before
    if not store.done(new.key):
        failure = store.failure(new.key)
        return Extended(*place, before, of, "", new.key, failure.cause if failure else "not reached")
    stopping = store.result(new.key).stopping
    return Extended(*place, stopping["asked"], of, stopping["verdict"], new.key)
