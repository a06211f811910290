"""What a worker process does with a job: load, compress once, measure on every task, store each cell."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kick import model, paths, plugins, tasks
from kick.analysis import kept
from kick.analysis.stopping import Stopping
from kick.catalog import retokenises
from kick.engine.backend import DEFAULT, LAYERED, VLLM, Backend, backends, identity
from kick.engine.layered import LayeredEngine
from kick.engine.reference import Reference
from kick.matrix.running import asks
from kick.model.heap import give_back
from kick.model.mapped import let_libraries_go
from kick.model.owned import own
from kick.model.packed import settle
from kick.paths import reference_folder, tokens_folder
from kick.provenance import provenance
from kick.records import Cell, Job, Result, Variant
from kick.stats.paired import MARGIN
from kick.stats.sequential import Rule
from kick.store import Store, StoreError
from kick.sweep import by_vllm, layered, leaked, lean, planned, reuse, served, sparse
from kick.sweep.cells import Loaded, beside, cause, chat_notes, dense_samples, identical, keeper, learn
from kick.sweep.clock import peak, reset_peak, timed
from kick.sweep.compressed import Compressor
from kick.sweep.groups import one_pass
from kick.sweep.leaked import LeakCheck
from kick.sweep.onepass import Apart, Member, measure
from kick.sweep.reuse import Reuse
from kick.sweep.together import OpenCell, Together
from kick.tasks import evaluate
from kick.tasks.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)
REPLICA_BATCH = 3  # a batch replica computes this many times fewer tokens at once


@dataclass
class Worker:
    """The work of a matrix: called with a job, in any process; tasks and calibration are kept between jobs.

    Args:
        root: the store. matrix: its name. dense: the variant that the others are compared with.
        task_names: of all jobs, loaded together.
        margin: the share of dense's score within which the matrix calls a variant matching.
        data_root: a local mirror of data sets. task_folders: the user's own task files.
        plugins: files that register methods of the user's own, see `kick.plugins`.
        batch_tokens: tokens computed at once; None leaves it to the engine.
        backend: the name of the one that answers. engine: what it, or what serves it, takes beside what every
            one does.
        command: the command line, for the record.
        reuse: by a cell's key those of stored cells whose answers it can take, see `kick.sweep.reuse`.
        as_planned: refuse a method whose code is not that of the job's step: its numbers had a wrong key.
    """

    root: str
    matrix: str
    dense: Variant
    task_names: tuple[str, ...]
    margin: float = MARGIN
    data_root: str | None = None
    task_folders: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    batch_tokens: int | None = None
    backend: str = DEFAULT
    engine: Mapping[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    reuse: Reuse = field(default_factory=dict)
    as_planned: bool = True
    _tasks: dict[str, Task] = field(default_factory=dict, repr=False)
    _compressor: Compressor | None = field(default=None, repr=False)
    _leaks: LeakCheck | None = field(default=None, repr=False)
    _stopping: dict[Any, Stopping] = field(default_factory=dict, repr=False)
    _layered: layered.OpenModels = field(default_factory=dict, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Only what says what to do travels to another process; what was loaded does not."""
        given = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return lean.arrive, (lean.Prepared(), type(self), given)

    def __call__(self, job: Job) -> None:
        """Do the job's cells. A cell that fails is recorded, and the next one is tried.

        Raises what keeps the whole job from being done: a model that does not load or compress, a store
        that cannot be written.
        """
        store = Store(self.root, self.matrix)
        plugins.load(self.plugins)
        give_back()  # what the job before has left
        let_libraries_go()
        reset_peak()
        if self.backend == LAYERED and all(map(one_pass, job.variants)):
            self._group(job, store)
        else:
            self._alone(job, store)

    def _alone(self, job: Job, store: Store) -> None:
        """Do the cells of one variant, or of several that share its weights, with a model of its own."""
        if job.variant.endpoint:
            self._load_tasks()
            self._ask(job, served.loaded(job.variant, store))
            return
        if self.as_planned:
            planned.check(job)
        seconds: dict[str, float] = {}
        with self._model(job.variant, seconds) as (network, tokenizer, report):
            with timed(seconds, "load"):
                self._load_tasks()
            job, known = self._reference(job, store, tokenizer)
            with known as reference:
                if any(map(retokenises, job.variant.recipe)):
                    reference = None  # of dense's ids, which are not this variant's
                engine = self._engine(job.variant, network, tokenizer, reference)
                said = beside(job.variant, self.dense)
                ask = self._ask if len(job.variants) == 1 else self._ask_sharing
                ask(job, Loaded(engine, tokenizer, store, seconds, report, said=said))

    def _ask_sharing(self, job: Job, loaded: Loaded) -> None:
        """Ask the cells of variants that share their prompts, one task after another: memory stays flat."""
        engines = sparse.beside(loaded.engine, job.variants)
        parts = {name: replace(loaded, engine=engine) for name, engine in engines.items()}
        for cells in sparse.by_task(job.cells):
            named = [(cell.variant.name, cell) for cell in cells]
            opened = [(name, self._open(cell, parts[name])) for name, cell in named]
            there = [(engines[name], self._together(parts[name]), one) for name, one in opened if one]
            sparse.ask([sparse.Sharer(*one) for one in there])

    def _group(self, job: Job, store: Store) -> None:
        """Do the cells of variants that go through the blocks of their model together."""
        seconds: dict[str, float] = {}
        members: list[Member] = []
        with timed(seconds, "load"):
            network, tokenizer = layered.load(job.variant.model, self._layered)
            self._load_tasks()
        job, known = self._reference(job, store, tokenizer)
        with known as reference:
            base = self._engine(job.variant, network, tokenizer, reference)
            if not isinstance(base, LayeredEngine):
                raise RuntimeError(f"a group of variants with the engine {self.backend}")
            try:
                for variant in job.variants:
                    apart = Apart(variant, self.data_root, self.engine.get("how"), self.batch_tokens)
                    engine = base.variant(apart)
                    loaded = Loaded(engine, tokenizer, store, seconds, apart.report)
                    cells = [cell for cell in job.cells if cell.variant == variant]
                    opened = [found for cell in cells if (found := self._open(cell, loaded))]
                    member = Member(variant, engine, self._together(loaded), opened, apart)
                    members.append(member)
                    member.asking.begin(opened)
                    member.asking.guard(partial(self._ready, member, tokenizer))
                measure(base, members)
            finally:
                for member in members:
                    member.asking.close()

    def _ready(self, member: Member, tokenizer: PreTrainedTokenizerBase) -> None:
        """Have the calibration data of a group's variant there, if its method is the one that was planned."""
        if self.as_planned:
            planned.check_code(member.variant)
        member.sequences = self._compress().sequences(member.variant, tokenizer)

    @contextmanager
    def _model(self, variant: Variant, seconds: dict[str, float]) -> Iterator[tuple[Any, Any, Any]]:
        """The variant's model, in memory, layered or served, its tokenizer, the report on its compression."""
        if self.backend == LAYERED:
            with layered.opened(variant, self.data_root, seconds, self._layered) as made:
                yield made
            return
        if self.backend == VLLM:
            compressing = partial(self._compress(), variant)
            with by_vllm.opened(variant, compressing, seconds, self.engine) as made:
                yield made
            return
        with timed(seconds, "load"):
            network, tokenizer = model.load(variant.model, device=paths.device())
            own(network)
        with timed(seconds, "compress"):
            report, context = self._compress()(variant, network, tokenizer)
            tokenizer = context.tokenizer or tokenizer
            del context  # with the masks
            settle(network)
            give_back()
            let_libraries_go()  # of what compressed
        yield network, tokenizer, report

    def _ask(self, job: Job, loaded: Loaded) -> None:
        """Ask the cells that can end early together, then the others one after another: memory stays flat."""
        together = self._together(loaded)
        opened = {cell.key: self._open(cell, loaded) for cell in job.cells if cell.task.stop}
        together([one for one in opened.values() if one is not None and one.early])
        found = (opened[one.key] if one.key in opened else self._open(one, loaded) for one in job.cells)
        rest = (one for one in found if one is not None and not one.early)
        if self.backend == LAYERED:  # a call is a pass over all weights
            together(list(rest))
            return
        for one in rest:
            together([one])

    def _together(self, loaded: Loaded) -> Together:
        """What asks cells of a variant, and stores them or why they failed."""
        return Together(
            loaded.engine,
            lambda one, found: self._done(one, found, loaded),
            lambda one, error: self._failed(one.cell, error, loaded.store),
        )

    def _open(self, cell: Cell, loaded: Loaded) -> OpenCell | None:
        """The cell ready to be asked; None if it fails, which is recorded."""
        seconds, store = dict(loaded.seconds), loaded.store
        origin = self.reuse.get(cell.key, ())
        try:
            task = self._tasks[cell.task.name]
            with timed(seconds, "build"):
                reference = dense_samples(cell, store) if task.needs_reference else None
                items = task.items(cell.task, loaded.tokenizer, reference)
                known = reuse.known(store, origin, items)
                waves = self._waves(cell, store, {item.id for item in items})
        except StoreError:
            raise
        except Exception as error:
            self._failed(cell, error, store)
            return None
        keep = keeper(store, cell, again=task.needs_reference and cell.variant.dense)
        if waves is None:
            steps = evaluate.whole(task, items, keep, known)
        else:
            by_id = {item.id: item for item in items}
            steps = evaluate.in_waves(task, [by_id[item] for item in waves.order], waves, keep, known)
        early = waves is not None and waves.ruled
        return OpenCell(cell, steps, early, seconds, known=known, origin=origin)

    def _waves(self, cell: Cell, store: Store, items: set[str]) -> Stopping | None:
        """The waves in which the cell is asked; None if it has no rule, or other items than dense."""
        if not cell.task.stop:
            return None
        place = cell.reference, cell.task.stop
        if place not in self._stopping:
            samples = list((dense_samples(cell, store) or {}).values())
            dense = store.result(str(cell.reference))
            self._stopping[place] = Stopping.of(dense, samples, Rule.of(cell.task.stop))
        found = self._stopping[place]
        return found if set(found.order) == items else None

    def _failed(self, cell: Cell, error: Exception, store: Store) -> None:
        """Store why a cell failed: this is where a failure becomes data."""
        store.fail(cell.key, cause(error), cell, "".join(traceback.format_exception(error)))

    def _done(self, one: OpenCell, found: evaluate.Evaluation, loaded: Loaded) -> None:
        """Store a cell."""
        try:
            result = self._result(one, found, loaded)
        except Exception as error:
            self._failed(one.cell, error, loaded.store)
            return
        stored = loaded.store.put(result, found.samples)
        give_back()
        self._note(stored, loaded.store)
        learn(one, result, self._tasks[one.cell.task.name].beside(one.cell.task.limit).items)

    def _note(self, stored: Result, store: Store) -> None:
        """Keep the cell's statistics beside dense's, where dense has been measured.

        They are derived: a reader computes what is not there, so nothing that goes wrong here costs a cell.
        """
        dense = replace(stored.cell, variant=self.dense, reference=None)
        try:
            kept.note(store, stored, store.result(stored.cell.reference or dense.key))
        except Exception as error:
            log.info("%s: its statistics are left to the reader: %s", stored.key, error)

    def _result(self, one: OpenCell, found: evaluate.Evaluation, loaded: Loaded) -> Result:
        reused = sum(sample.item in one.known for sample in found.samples)
        task = self._tasks[one.cell.task.name]
        self._leaks = self._leaks or LeakCheck(self.data_root)
        leaks = self._leaks.documents(one.cell.variant, task)
        return Result(
            key=one.cell.key,
            matrix=self.matrix,
            cell=one.cell,
            scores=found.scores,
            counts={**found.counts, **({"leaked": sum(leaks.values())} if leaks else {})},
            warnings=(
                *found.warnings,
                *served.lacking(found.scores, task, loaded.lacks),
                *loaded.said,
                *leaked.said(leaks, task),
                *identical(one.cell, found.samples, self.dense, loaded.store),
            ),
            seconds={name: round(seconds, 3) for name, seconds in one.seconds.items()},
            peak_memory=peak(),
            compression=sparse.counted(loaded.engine, loaded.report),
            about={**task.about, "asks": asks(task)},
            margin=self.margin,
            stopping=found.stopping,
            provenance={
                **provenance(list(self.command)),
                "engine": {"backend": self.backend, **loaded.engine.notes()},
                "chat": chat_notes(one.cell, loaded.tokenizer),
                **({"reused": {"from": list(one.origin), "items": reused}} if reused else {}),
            },
        )

    def _load_tasks(self) -> None:
        if not self._tasks:
            folders = [Path(folder) for folder in self.task_folders]
            self._tasks = tasks.load(self.task_names, self.data_root, folders)

    def _compress(self) -> Compressor:
        """What compresses variants."""
        if self._compressor is None:
            self._compressor = Compressor(self.data_root)
        return self._compressor

    def _reference(self, job: Job, store: Store, tokenizer: PreTrainedTokenizerBase) -> tuple[Job, Any]:
        """The job, and a context that gives the dense model's drafts and hidden states, or None without any.

        The dense job writes them, the others read them; where they were lost, the dense model is asked again.
        If they cannot be had, the cells that compare with them have failed, and the job is without them.
        """
        folder = reference_folder(self.root, self.matrix, self.dense, identity(self.backend))
        if job.variant.dense:
            return job, Reference(folder, write=True)
        compared = [cell for cell in job.cells if self._tasks[cell.task.name].needs_reference]
        try:
            if compared:
                self._complete(folder, compared, store, tokenizer)
        except StoreError:
            raise
        except Exception as error:
            for cell in compared:
                self._failed(cell, error, store)
            job = replace(job, cells=tuple(cell for cell in job.cells if cell not in compared))
        exists = (folder / "index.json").exists()
        return job, nullcontext(Reference(folder) if exists else None)

    def _complete(
        self, folder: Path, cells: Sequence[Cell], store: Store, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        """Ask the dense model again what these cells read and its reference lacks."""
        known = Reference(folder) if (folder / "index.json").exists() else None
        missing = [
            request
            for cell in cells
            for item in self._tasks[cell.task.name].items(cell.task, tokenizer, dense_samples(cell, store))
            for request in item.requests
            if known is None or known.hidden(request) is None
        ]
        if missing:
            with self._model(self.dense, {}) as (network, _, _), Reference(folder, write=True) as written:
                self._engine(self.dense, network, tokenizer, written).answer(missing)

    def _engine(
        self,
        variant: Variant,
        network: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        reference: Reference | None,
    ) -> Backend:
        options: dict[str, Any] = {
            "reference": reference,
            "token_cache": tokens_folder(variant.model.tokenizer),
        }
        if variant.runtime is not None:
            options["batch_tokens"] = self.batch_tokens
            return sparse.engine(variant.runtime, network, tokenizer, **options)

        def engine(batch_tokens: int | None) -> Backend:
            own = {} if self.backend == VLLM else self.engine
            return backends[self.backend](network, tokenizer, batch_tokens=batch_tokens, **options, **own)

        made = engine(self.batch_tokens)
        if variant.replica == "batch":
            return engine(max(1, made.notes()["batch_tokens"] // REPLICA_BATCH))
        return made
