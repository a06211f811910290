"""A search for a saliency: Pruner-Zero's genetic programming, on this model, by a budget of formulas.

1. Formulas are bred (`genetics`) and measured (`fitness`), one after another; search.jsonl has each as it is
   measured. Run again, the search goes on behind the last one: the same seed and losses breed the same
   formulas.
2. The best one and the published one are cells of an ordinary store, pruned and measured as `kick run` does,
   on a task whose text no formula was chosen by.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kick import compress, model, tasks
from kick import paths as places
from kick.compress.calibrate.corpus import digest
from kick.compress.formula import Formula, parse
from kick.compress.methods.pruner_zero import PUBLISHED
from kick.compress.sparsity import Sparsity
from kick.errors import KickError
from kick.matrix.sources import own_sources
from kick.records import CalibrationSpec, Cell, Job, ModelSpec, Step, TaskSpec, Variant, key
from kick.store import Store
from kick.study.fitness import Fitness
from kick.study.genetics import Breeding, evolve, ranking
from kick.sweep.contract import Summary
from kick.sweep.executors import make_executor
from kick.sweep.loop import run_sweep
from kick.sweep.progress import show
from kick.sweep.worker import Worker
from kick.tasks.perplexity import Perplexity
from kick.tasks.task import Task

MATRIX, LOG = "search", "search.jsonl"
VERSION = 3  # 2, 3: more formulas are known to rank alike
KNOWN = {"Pruner-Zero": PUBLISHED, "Wanda": "mul(W, sqrt(X))", "magnitude": "W"}  # measured beside the budget
Say = Callable[[str], None]


@dataclass(frozen=True)
class SearchOptions:
    """Options of `kick study search`.

    budget: formulas that are measured, KNOWN ones not counted. calibration: of the statistics that formulas
    read; text: further sequences of it, on which they are measured. perplexity, windows: of the comparison.
    """

    model: str
    calibration: CalibrationSpec
    out: str
    budget: int
    sparsity: str = "0.5"
    text: int = 8
    breeding: Breeding = field(default_factory=Breeding)
    perplexity: str = "kick_mini_perplexity"
    windows: int | None = None
    data_root: str | None = None
    task_folders: tuple[str, ...] = ()
    executor: str = "local"
    offline: bool = False


@dataclass(frozen=True)
class Tried:
    """A measured formula: its number, from 0, and its loss in nats per token, None if it is not finite."""

    number: int
    formula: Formula
    loss: float | None


@dataclass(frozen=True)
class SearchStudy:
    """A planned search: the model, the task of the comparison, and the digest of the corpus."""

    options: SearchOptions
    model: ModelSpec
    task: Task
    corpus: str

    @property
    def identity(self) -> str:
        """What must be the same for a search to go on: all that changes losses or formulas but the budget."""
        options = self.options
        spec = replace(options.calibration, digest=self.corpus).identity()
        asked = [options.sparsity, options.text, asdict(options.breeding)]
        return key([VERSION, asdict(self.model), spec, *asked])

    @property
    def log(self) -> Path:
        return Path(self.options.out) / LOG

    def variant(self, formula: Formula | None) -> Variant:
        """The model pruned by a formula; dense for None."""
        if formula is None:
            return Variant("dense", self.model)
        spec = replace(self.options.calibration, digest=self.corpus)
        name = "published" if ranking(formula) == ranking(parse(PUBLISHED)) else "found"
        return Variant(name, self.model, (_step(self.options.sparsity, formula),), spec)

    def cell(self, formula: Formula | None) -> Cell:
        """The cell of a formula on the comparison's task."""
        spec = TaskSpec(self.task.name, self.task.digest, self.task.scoring, limit=self.options.windows)
        return Cell(self.variant(formula), spec)


def _step(sparsity: str, formula: Formula) -> Step:
    return compress.canonical("pruner-zero", {"sparsity": sparsity, "formula": str(formula)})


def plan(options: SearchOptions) -> SearchStudy:
    """The study. Raises KickError for all that is wrong with it, before a model is loaded."""
    how = options.breeding
    for name, value, least in (
        ("population", how.population, 4),
        ("budget", options.budget, how.population),
        ("fitness", options.text, 1),
        ("sequences", options.calibration.sequences, 1),
        ("windows", options.windows, 2),
    ):
        if value is not None and value < least:
            raise KickError(f"{name}: got {value}; expected: a whole number of at least {least}")
    try:
        sparsity = Sparsity.parse(options.sparsity)
    except ValueError as error:
        raise KickError(f"sparsity: {error}") from error
    if not sparsity.share:
        raise KickError(f"sparsity: got {options.sparsity}; expected: a share above 0, or n:m")
    if options.offline:
        places.offline()
    folders = [Path(folder) for folder in options.task_folders]
    task = tasks.load([options.perplexity], options.data_root, folders).get(options.perplexity)
    if not isinstance(task, Perplexity):
        raise KickError(f"the task {options.perplexity!r} does not have the protocol 'perplexity'")
    spec = model.resolve(options.model)
    sources = own_sources(folders)
    sources.fits(spec, [_step(options.sparsity, parse(PUBLISHED))])
    sources.enough(spec, options.calibration, options.data_root)
    study = SearchStudy(options, spec, task, digest(options.calibration.corpus, options.data_root))
    _read(study)
    return study


def run(
    options: SearchOptions, command: Sequence[str], say: Say
) -> tuple[SearchStudy, list[Tried], dict[str, float | None], Store, Summary]:
    """Search as far as the budget goes, then compare.

    Returns the study, the measured formulas, the losses of KNOWN ones and of "dense", the store of the
    comparison, and how it ended. Raises KickError before anything runs.
    """
    study = plan(options)
    study.log.parent.mkdir(parents=True, exist_ok=True)
    known, tried = search(study, say)
    store = Store(options.out, MATRIX)
    worker = Worker(
        options.out,
        MATRIX,
        study.variant(None),
        (options.perplexity,),
        data_root=options.data_root,
        task_folders=options.task_folders,
        command=tuple(command),
    )
    cells = [study.cell(None), study.cell(parse(PUBLISHED)), study.cell(best(tried).formula)]
    jobs = [Job(one.variant, (one,), 1.0) for one in {one.key: one for one in cells}.values()]
    with show(jobs, store, "auto") as view:
        summary = run_sweep(worker, jobs, store, make_executor(options.executor), on_event=view)
    return study, tried, known, store, summary


def best(tried: Sequence[Tried]) -> Tried:
    """The formula of the least loss, the first of equals. Raises KickError if no loss is finite."""
    finite = [one for one in tried if one.loss is not None]
    if not finite:
        raise KickError(f"none of {len(tried)} formulas gave a finite loss; raise the budget")
    return min(finite, key=lambda one: (one.loss, one.number))


# ------------------------------------------------------------------------------ the search, and its log


def search(study: SearchStudy, say: Say) -> tuple[dict[str, float | None], list[Tried]]:
    """Losses of KNOWN formulas and of dense by name, and all formulas of the budget."""
    options = study.options
    rows = _read(study)
    known = {row["name"]: row.get("loss") for row in rows if "name" in row}
    losses = {row["formula"]: row.get("loss") for row in rows if "number" in row}
    log = _Log(study, fresh=not rows)
    fitness: Fitness | None = None

    def opened() -> Fitness:
        nonlocal fitness
        if fitness is None:
            say(f"{options.budget} formulas, {len(losses)} measured before: {study.log}")
            sparsity = Sparsity.parse(options.sparsity)
            fitness = Fitness.of(study.model, options.calibration, options.text, sparsity, options.data_root)
        return fitness

    for name in ("dense", *KNOWN):
        if name not in known:
            known[name] = opened().dense() if name == "dense" else opened()(parse(KNOWN[name]))
            log.add({"name": name, "formula": KNOWN.get(name, ""), "loss": known[name]})
    return known, list(_evolved(study, losses, opened, log))


def _evolved(
    study: SearchStudy, losses: dict[str, float | None], opened: Callable[[], Fitness], log: _Log
) -> Iterator[Tried]:
    breeding = evolve(study.options.breeding, study.options.budget)
    formula = next(breeding)
    for number in range(study.options.budget):
        text = str(formula)
        if text not in losses:
            losses[text] = opened()(formula)
            log.add({"number": number, "formula": text, "loss": losses[text]})
        yield Tried(number, formula, losses[text])
        if number + 1 < study.options.budget:
            formula = breeding.send(losses[text])


@dataclass
class _Log:
    """The file in which each formula is written as it is measured."""

    study: SearchStudy
    fresh: bool

    def add(self, row: dict[str, Any]) -> None:
        """Append a row, after a first one that says which search it is."""
        with self.study.log.open("a", encoding="utf-8") as file:
            if self.fresh:
                file.write(json.dumps({"search": self.study.identity}) + "\n")
                self.fresh = False
            file.write(json.dumps(row) + "\n")


def _read(study: SearchStudy) -> list[dict[str, Any]]:
    """The rows of the log, the first of which is its head; a last one that a kill cut off is removed.

    Raises KickError for a log of another search, or one that is none.
    """
    file = study.log
    if not file.exists():
        return []
    text = file.read_text("utf-8")
    whole, rows = text[: text.rfind("\n") + 1], []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise KickError(f"{file}, line {number}: not JSON; name another --out") from error
        if not isinstance(row, dict) or (number > 1 and not isinstance(row.get("formula"), str)):
            raise KickError(f"{file}, line {number}: not a row of a search; name another --out")
        rows.append(row)
    if rows and rows[0].get("search") != study.identity:
        raise KickError(
            f"{file} is of another search: model, text, sparsity or breeding differ; name another --out"
        )
    if whole != text:
        file.write_text(whole, encoding="utf-8")
    return rows
