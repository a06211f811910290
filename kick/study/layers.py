"""The layer study: what a model loses without each of its blocks, beside metrics that claim to predict it.

1. Dense: perplexity, continuations for FDT, and the tasks, as `kick run` measures them.
2. Each block dropped alone on the same items (`dropping`).
3. The metrics of each block on calibration text, which no task asks (`blockmetrics`).
4. The harm of each block with intervals, and how each metric ranks the blocks against it (`harm`).

Cells are ordinary ones of one store: what is done is not done again, and `kick status`, `leaderboard` and
`compare` read it. The metrics are in metrics.json, kept as long as model and text are the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from kick import compress, model, tasks
from kick import paths as places
from kick.compress.calibrate.corpus import digest
from kick.errors import KickError
from kick.matrix.sources import own_sources
from kick.model import block_list, skeleton
from kick.printable import counted
from kick.records import CalibrationSpec, Cell, Job, ModelSpec, TaskSpec, Variant, key
from kick.store import Store
from kick.study import blockmetrics
from kick.study.dropping import METHOD, DropWorker, pending
from kick.sweep.contract import Summary
from kick.sweep.executors import make_executor
from kick.sweep.loop import run_sweep
from kick.sweep.progress import show
from kick.tasks.fidelity import Fidelity
from kick.tasks.perplexity import Perplexity
from kick.tasks.task import Task

MATRIX = "layers"  # the name of the study's part of a store
Say = Callable[[str], None]


@dataclass(frozen=True)
class LayerOptions:
    """Options of `kick study layers`.

    tasks: beside the perplexity and the fidelity task. limit: items of each task but perplexity, whose number
    of windows is `windows`. calibration: the text of the metrics.
    """

    model: str
    calibration: CalibrationSpec
    out: str
    tasks: tuple[str, ...] = ("kick_mini_mcq",)
    fidelity: str = "kick_mini_fidelity"
    perplexity: str = "kick_mini_perplexity"
    limit: int | None = None
    windows: int | None = None
    data_root: str | None = None
    task_folders: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    executor: str = "local"
    workers: int | None = None
    retry_failed: bool = False
    offline: bool = False


@dataclass(frozen=True)
class LayerStudy:
    """A planned study: the model, the number of its blocks, the tasks. Making its cells computes nothing."""

    options: LayerOptions
    model: ModelSpec
    blocks: int
    tasks: Mapping[str, Task]
    corpus: str  # the digest of the calibration corpus

    @cached_property
    def dense(self) -> Variant:
        return Variant("dense", self.model)

    def without(self, block: int) -> Variant:
        """The model without one of its blocks."""
        return Variant(f"without-{block}", self.model, (compress.canonical(METHOD, {"block": block}),))

    def cell(self, variant: Variant, task: str) -> Cell:
        """The cell of a variant on one of the study's tasks."""
        loaded = self.tasks[task]
        limit = self.options.windows if task == self.options.perplexity else self.options.limit
        limit = None if limit is not None and loaded.size is not None and limit >= loaded.size else limit
        cell = Cell(self.dense, TaskSpec(task, loaded.digest, loaded.scoring, limit=limit))
        needs = loaded.needs_reference and not variant.dense
        return replace(cell, variant=variant, reference=cell.key if needs else None)

    def jobs(self) -> list[Job]:
        """The dense model's job, and one of all blocks for each worker."""
        cells = [self.cell(self.without(block), task) for block in range(self.blocks) for task in self.tasks]
        dense = Job(self.dense, tuple(self.cell(self.dense, task) for task in self.tasks), 2.0)
        parts = pending(cells, self.options.workers or 1)
        return [dense, *(Job(part[0].variant, tuple(part), len(part) / 2) for part in parts)]


def plan(options: LayerOptions) -> LayerStudy:
    """The study. Raises KickError for all that is wrong with it, before a model is loaded."""
    for name, least in (("limit", 2), ("windows", 2), ("workers", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise KickError(f"{name}: got {value}; expected: a whole number of at least {least}")
    if options.offline:
        places.offline()
    folders = [Path(folder) for folder in options.task_folders]
    names = [options.perplexity, options.fidelity, *options.tasks]
    loaded = dict(tasks.load(names, options.data_root, folders))
    for role, name, kind in (
        ("perplexity", options.perplexity, Perplexity),
        ("fidelity", options.fidelity, Fidelity),
    ):
        if not isinstance(loaded.get(name), kind):
            raise KickError(f"{role}: the task {name!r} does not have the protocol {kind.__name__.lower()!r}")
    corpus = digest(options.calibration.corpus, options.data_root)
    spec = model.resolve(options.model)
    sources = own_sources(folders)
    sources.fits(spec, [compress.canonical(METHOD, {"block": 0})])
    sources.enough(spec, options.calibration, options.data_root)
    return LayerStudy(options, spec, _blocks(spec), loaded, corpus)


def _blocks(spec: ModelSpec) -> int:
    """How many blocks the model has, from its configuration alone."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(
        model.source.locate(spec.name, spec.revision), trust_remote_code=False
    )
    return len(block_list(skeleton(config))[1])


def run(options: LayerOptions, command: Sequence[str], say: Say) -> tuple[LayerStudy, Store, Summary]:
    """Do all cells of the study that are not done. Raises KickError before anything runs."""
    study = plan(options)
    store = Store(options.out, MATRIX)
    say(f"{counted(study.blocks, 'block')}, {counted(len(study.tasks), 'task')}: {options.out}/{MATRIX}")
    worker = DropWorker(
        options.out,
        MATRIX,
        study.dense,
        tuple(study.tasks),
        data_root=options.data_root,
        task_folders=options.task_folders,
        plugins=options.plugins,
        command=tuple(command),
    )
    jobs = study.jobs()
    how = make_executor(options.executor, workers=options.workers)
    with show(jobs, store, "auto") as view:
        summary = run_sweep(worker, jobs, store, how, retry_failed=options.retry_failed, on_event=view)
    return study, store, summary


def measured(study: LayerStudy) -> dict[str, list[float]]:
    """The metrics of each block, by name: those of metrics.json, or new ones, which are kept there."""
    file = Path(study.options.out) / "metrics.json"
    spec = replace(study.options.calibration, digest=study.corpus)
    asked = key([blockmetrics.VERSION, asdict(study.model), spec.identity()])
    if file.exists():
        known = json.loads(file.read_text("utf-8"))
        if known.get("key") == asked:
            return {name: list(map(float, values)) for name, values in known["metrics"].items()}
    found = blockmetrics.measure(study.model, spec, study.options.data_root)
    kept = {"key": asked, "model": study.model.name, "calibration": spec.identity(), "metrics": found}
    file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return found
