"""The component study: what each weight matrix alone does to the model, and an allocation guided by it.

1. Dense: continuations of the probe prompts, of the fidelity prompts, and perplexity.
2. Each matrix alone, pruned by the step while all others are dense, on the probe prompts (`onebyone`).
3. The sparsity spread over the matrices by the rank of their FDT (`allocation`), against the same for all:
   both pruned as `kick run` prunes, and measured on the fidelity prompts and the perplexity text, which are
   others than those that the ranks come from.

All of it are cells of one store, as `kick run` would make them: what is done is not done again, and `kick
status`, `leaderboard`, `figures` and `compare` read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from kick import compress, model, paths, tasks
from kick.compress.calibrate.corpus import digest
from kick.compress.method import methods
from kick.compress.sparsity import Sparsity
from kick.errors import KickError
from kick.matrix.sources import own_sources
from kick.model import named_linears, skeleton
from kick.printable import counted
from kick.records import CalibrationSpec, Cell, Job, ModelSpec, Step, TaskSpec, Variant
from kick.store import Store
from kick.study.allocation import Pruned, check_spread, guided, shares
from kick.study.onebyone import OneByOne
from kick.sweep.contract import Summary
from kick.sweep.executors import make_executor
from kick.sweep.loop import run_sweep
from kick.sweep.progress import show
from kick.sweep.worker import Worker
from kick.tasks.fidelity import Fidelity
from kick.tasks.perplexity import Perplexity
from kick.tasks.task import Task

MATRIX = "components"  # the name of the study's part of a store
Say = Callable[[str], None]


@dataclass(frozen=True)
class StudyOptions:
    """Options of `kick study components`.

    prompts: of the probe task, for each matrix. spread: of the allocation (`allocation`). probe, fidelity,
    perplexity: the tasks on which matrices are ranked, and allocations compared. limit: items of the latter.
    """

    model: str
    step: Step
    calibration: CalibrationSpec
    out: str
    prompts: int = 32
    spread: float = 0.1
    probe: str = "kick_mini_fidelity_calibration"
    fidelity: str = "kick_mini_fidelity"
    perplexity: str = "kick_mini_perplexity"
    limit: int | None = None
    data_root: str | None = None
    task_folders: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    executor: str = "local"
    workers: int | None = None
    retry_failed: bool = False
    offline: bool = False


@dataclass(frozen=True)
class WeightMatrix:
    """A weight matrix of the model: its full name, its block's number, and its shape."""

    name: str
    block: int
    rows: int
    columns: int


@dataclass(frozen=True)
class Study:
    """A planned study: the model, its matrices, and the tasks. Making its cells computes nothing."""

    options: StudyOptions
    model: ModelSpec
    matrices: tuple[WeightMatrix, ...]
    tasks: Mapping[str, Task]
    corpus: str  # the digest of the calibration corpus

    @property
    def sparsity(self) -> float:
        """The share asked for."""
        return Sparsity.parse(self.options.step.options["sparsity"]).share

    @property
    def by_row(self) -> bool:
        """Whether the method prunes the same number of each row."""
        return self.options.step.options.get("per", "row") == "row"

    @cached_property
    def dense(self) -> Variant:
        return Variant("dense", self.model)

    @cached_property
    def uniform(self) -> Variant:
        """The step as it is, the same share for every matrix."""
        step = self.options.step
        return Variant(
            self._label, self.model, (step,), self._calibration(self.options.calibration.propagate)
        )

    def guided(self, counts: Mapping[str, int]) -> Variant:
        """The step with a share for each matrix, of how many of its weights go."""
        own = shares(counts, self.parts())
        step = self._step(sparsities=own)
        spec = self._calibration(self.options.calibration.propagate)
        return Variant(f"{self._label}-by-fdt-{self.options.spread:g}", self.model, (step,), spec)

    def alone(self, matrix: WeightMatrix) -> Variant:
        """The step for one matrix, all others dense."""
        name = f"{self._label}-only={matrix.name}"
        return Variant(name, self.model, (self._step(only=matrix.name),), self._calibration("dense"))

    def parts(self, harm: Mapping[str, tuple[float, float]] | None = None) -> list[Pruned]:
        """The matrices for the allocation, with (mean FDT, mean KL) of each where they are known."""
        return [
            Pruned(one.name, one.rows, one.columns, *(harm[one.name] if harm else ()))
            for one in self.matrices
        ]

    def cell(self, variant: Variant, task: str) -> Cell:
        """The cell of a variant on one of the study's tasks."""
        dense = Cell(self.dense, self._spec(task))
        needs = self.tasks[task].needs_reference and not variant.dense
        return Cell(variant, self._spec(task), dense.key) if needs else replace(dense, variant=variant)

    def whole(self, variant: Variant, cost: float) -> Job:
        """The job of a whole model: on the comparison's tasks, and for the dense one on the probe too."""
        names = [self.options.fidelity, self.options.perplexity]
        names = [self.options.probe, *names] if variant.dense else names
        return Job(variant, tuple(self.cell(variant, name) for name in names), cost)

    def by_block(self) -> list[Job]:
        """The jobs of one matrix at a time: a block each, the longest first, which are those of the first."""
        found: dict[int, list[Cell]] = {}
        for matrix in self.matrices:
            cell = self.cell(self.alone(matrix), self.options.probe)
            found.setdefault(matrix.block, []).append(cell)
        return [
            Job(cells[0].variant, tuple(cells), float(len(cells) * (len(found) - block)))
            for block, cells in found.items()
        ]

    @property
    def _label(self) -> str:
        return f"{self.options.step.method}-{self.options.step.options['sparsity']}"

    def _step(self, **scope: Any) -> Step:
        return compress.canonical(self.options.step.method, {**self.options.step.options, **scope})

    def _calibration(self, propagate: Any) -> CalibrationSpec | None:
        if not compress.calibrated(self.options.step):
            return None
        return replace(self.options.calibration, propagate=propagate, digest=self.corpus)

    def _spec(self, name: str) -> TaskSpec:
        task, limit = self.tasks[name], self.options.limit
        limit = self.options.prompts if name == self.options.probe else limit
        limit = None if limit is not None and task.size is not None and limit >= task.size else limit
        return TaskSpec(name, task.digest, task.scoring, limit=limit)


@dataclass(frozen=True)
class StudyWork:
    """What a worker process does with a job: one matrix at a time, or a whole model as in any sweep."""

    whole: Worker
    alone: OneByOne

    def __call__(self, job: Job) -> None:
        step = job.variant.recipe[0] if job.variant.recipe else None
        (self.alone if step is not None and "only" in step.options else self.whole)(job)


def plan(options: StudyOptions) -> Study:
    """The study. Raises KickError for all that is wrong with it, before a model is loaded."""
    check(options)
    if options.offline:
        paths.offline()
    folders = [Path(folder) for folder in options.task_folders]
    loaded = _tasks(options, folders)
    corpus = digest(options.calibration.corpus, options.data_root)
    spec = model.resolve(options.model)
    own_sources(folders).fits(spec, [options.step])
    return Study(options, spec, tuple(_matrices(spec)), loaded, corpus)


def check(options: StudyOptions) -> None:
    """Raises KickError for a step that is not about single matrices, and for numbers out of range."""
    step = options.step
    kind = methods[step.method].kind
    if kind != "prune":
        doing = {"structure": "makes matrices smaller", "compensate": "makes up for another method"}
        raise KickError(
            f"{step.method} {doing.get(kind, 'rounds weights')}; component studies take a method that prunes "
            f"each matrix in place: {', '.join(_takes())}"
        )
    why = methods[step.method].own_choice(step.options)
    if why:
        raise KickError(
            f"{step.method} cannot be given a share for each matrix: {why}; take {', '.join(_takes())}"
        )
    sparsity = Sparsity.parse(step.options["sparsity"])
    if sparsity.m or not sparsity.share:
        raise KickError(
            f"sparsity: got {sparsity}; expected: a share between 0 and 1, to be spread over matrices"
        )
    if "only" in step.options or "sparsities" in step.options:
        raise KickError("only and sparsities are what the study itself sets; leave them out")
    check_spread(sparsity.share, options.spread)
    for name, least in (("prompts", 2), ("limit", 2), ("workers", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise KickError(f"{name}: got {value}; expected: a whole number of at least {least}")


def _takes() -> list[str]:
    pruning = [name for name in methods if methods[name].kind == "prune"]
    return [name for name in pruning if not methods[name].own_choice({})]


def _tasks(options: StudyOptions, folders: Sequence[Path]) -> dict[str, Task]:
    """The three tasks. Raises KickError if one is of another kind, or asks what another one asks."""
    names = {"probe": options.probe, "fidelity": options.fidelity, "perplexity": options.perplexity}
    found = tasks.load(list(names.values()), options.data_root, folders)
    for role, name in names.items():
        kind = Perplexity if role == "perplexity" else Fidelity
        if not isinstance(found.get(name), kind):
            raise KickError(f"{role}: the task {name!r} does not have the protocol {kind.__name__.lower()!r}")
    probe, judged = (
        {item.requests[0].context for item in found[name].items(TaskSpec(name), None)}
        for name in (options.probe, options.fidelity)
    )
    if probe & judged:
        raise KickError(
            f"probe and fidelity share {len(probe & judged)} prompts: an allocation must not be judged on "
            "the prompts that it was chosen by; name tasks on different texts"
        )
    return dict(found)


def _matrices(spec: ModelSpec) -> list[WeightMatrix]:
    """Every weight matrix of the model, from its shapes alone."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(
        model.source.locate(spec.name, spec.revision), trust_remote_code=False
    )
    empty = skeleton(config)
    return [WeightMatrix(name, index, *linear.weight.shape) for name, index, linear in named_linears(empty)]


def run(options: StudyOptions, command: Sequence[str], say: Say) -> tuple[Study, Store, Summary]:
    """Do all cells of the study that are not done. Raises KickError before anything runs."""
    study = plan(options)
    store = Store(options.out, MATRIX)
    doing = work(study, command)
    passes = float(len(study.matrices))  # costs are in runs of the model, near enough
    say(
        f"{len(study.matrices)} matrices, {counted(options.prompts, 'prompt')} each; "
        f"results: {options.out}/{MATRIX}"
    )
    jobs = [study.whole(study.dense, 4 * passes), study.whole(study.uniform, 2 * passes), *study.by_block()]
    first = _sweep(study, store, doing, jobs)
    if first.status or first.interrupted:
        return study, store, first
    last = _sweep(study, store, doing, [study.whole(study.guided(allocation(study, store)), passes)])
    return study, store, last


def work(study: Study, command: Sequence[str]) -> StudyWork:
    options = study.options
    common: dict[str, Any] = {
        "root": options.out,
        "matrix": MATRIX,
        "data_root": options.data_root,
        "task_folders": options.task_folders,
        "plugins": options.plugins,
        "command": tuple(command),
    }
    return StudyWork(
        Worker(dense=study.dense, task_names=tuple(study.tasks), **common),
        OneByOne(task_name=options.probe, **common),
    )


def _sweep(study: Study, store: Store, work: StudyWork, jobs: Sequence[Job]) -> Summary:
    how = make_executor(study.options.executor, workers=study.options.workers)
    with show(jobs, store, "auto") as view:
        return run_sweep(work, jobs, store, how, retry_failed=study.options.retry_failed, on_event=view)


def allocation(study: Study, store: Store) -> dict[str, int]:
    """How many weights of each matrix go in the guided variant, by the stored FDT of each alone."""
    parts = study.parts(harm(study, store))
    return guided(parts, study.sparsity, study.options.spread, study.by_row)


def harm(study: Study, store: Store) -> dict[str, tuple[float, float]]:
    """The stored mean FDT (tokens) and mean KL (nats) of each matrix alone, by its full name.

    Raises KickError if one is not measured yet.
    """
    found = {}
    for matrix in study.matrices:
        result = store.result(study.cell(study.alone(matrix), study.options.probe).key)
        scores = {score.metric: score.value for score in result.scores}
        fdt, kl = scores["fdt"], scores["kl_mean"]
        if fdt is None or kl is None:
            raise KickError(
                f"{matrix.name} alone has no FDT or KL: the model computed NaN; see `kick status`"
            )
        found[matrix.name] = (fdt, kl)
    return found
