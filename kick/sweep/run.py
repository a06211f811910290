"""A matrix from file to stored results: plan, say what is stale, rescore what only scoring changed, sweep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kick import paths, plugins
from kick.engine.backend import AUTO, LAYERED
from kick.engine.layers import Passing
from kick.errors import KickError
from kick.matrix import costs, load, names, needs, stale
from kick.matrix.load import Given
from kick.matrix.plan import Plan, plan
from kick.matrix.sources import own_sources
from kick.printable import counted
from kick.store import Store
from kick.sweep.contract import Summary
from kick.sweep.executors import check, ignored, make_executor, places
from kick.sweep.groups import grouped, sharing
from kick.sweep.loop import run_sweep
from kick.sweep.progress import show
from kick.tasks import sandbox

if TYPE_CHECKING:
    from kick.sweep.worker import Worker  # brings torch in; a mistyped name is told without it

SHOWN = 3  # variants named with a warning
Say = Callable[[str], None]


@dataclass(frozen=True)
class RunOptions:
    """Options of `kick run` beside the matrix; None leaves a choice to the matrix or the machine."""

    out: str = "results"
    limit: int | None = None
    stop: str | None = None  # decided or off, in place of the matrix's own
    data_root: str | None = None
    task_folders: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    executor: str = "local"
    workers: int | None = None
    address: str | None = None
    retry_failed: bool = False
    view: Literal["auto", "live", "lines", "json"] = "auto"
    offline: bool = False
    allow_code: Literal["", "confined", "unconfined"] = ""  # whether a model's programs are run, and how
    command: tuple[str, ...] = ()  # the command line, for the record


def prepare(matrix: Given, options: RunOptions) -> tuple[Plan, Store]:
    """The plan of a matrix file or preset, and the store of its results.

    Raises KickError for everything that is wrong with the matrix, before a model is loaded: first its form,
    then its names, then options and what does not fit the model.
    """
    if options.offline:
        paths.offline()
    sandbox.allow(options.allow_code)
    paths.offload_folder()  # is looked at before anything is loaded
    plugins.load(options.plugins)
    parsed = load.with_stop(load.load(matrix), options.stop)
    folders = [Path(folder) for folder in options.task_folders]
    for folder in folders:
        if not folder.is_dir():
            raise KickError(f"--tasks: {str(folder)!r} is not a folder of task files")
    names.check(parsed, folders)
    needs.check(parsed, folders, options.data_root)
    planned = plan(parsed, data_root=options.data_root, limit=options.limit, sources=own_sources(folders))
    return planned, Store(options.out, parsed.name)


def run(matrix: Given, options: RunOptions, command: Sequence[str], say: Say) -> tuple[Plan, Summary]:
    """Do all cells of a matrix that are not done. Raises KickError before anything runs, StoreError after."""
    check(options.executor, options.workers, options.address)
    for note in ignored(options.executor, workers=options.workers):
        say(note)
    planned, store = prepare(matrix, options)
    from kick.sweep import reuse
    from kick.sweep.rescore import rename, rescore_stale  # brings lm-eval in: after what can be refused

    local = None if "://" in options.out else Path(options.out)
    for warning in costs.preflight(planned.estimates, local, note=planned.engine.why):
        say(f"warning: {warning}")
    if planned.engine.why:
        say(planned.engine.why)
    for line in generated(planned, store):
        say(line)
    moved = rescore_stale(planned, store)
    if moved:
        say(f"{counted(moved, 'cell')} scored again from stored answers: only their scoring had changed")
    if replayed := reuse.replay(planned, store):
        say(f"{counted(replayed, 'cell')} made of stored answers: only the rule of when to end is another")
    renamed, margins = rename(planned, store)
    if renamed:
        say(f"{renamed} stored cells renamed as the matrix calls their variants now")
    if margins:
        say(
            f"{counted(margins, 'stored cell')} read with the margin of {planned.matrix.margin:g} from now on"
        )
    for line in stale.summary(planned.stale(store)):
        say(line)
    limit, jobs = planned.matrix.time_limit, list(planned.jobs)
    if planned.engine.name == LAYERED:
        jobs = grouped(jobs, places(options.executor, options.workers))
    else:
        jobs = sharing(jobs)
    cells = max(len(job.cells) for job in jobs)
    how = make_executor(
        options.executor,
        workers=options.workers,
        time_limit=limit * cells if limit else None,
        address=options.address,
    )
    work = worker(planned, store, options, command)
    with show(planned.jobs, store, options.view) as view:
        summary = run_sweep(work, jobs, store, how, retry_failed=options.retry_failed, on_event=view)
    for line in signs(planned, store):
        say(line)
    return planned, summary


def signs(planned: Plan, store: Store) -> list[str]:
    """The warnings of the stored cells, each once, with the variants that it is of."""
    found: dict[tuple[str, str], list[str]] = {}
    for key, cell in planned.by_key.items():
        for warning in store.result(key).warnings if store.done(key) else ():
            found.setdefault((cell.task.name, warning), []).append(cell.variant.name)
    lines = []
    for (task, warning), of in found.items():
        more = [f"{len(of) - SHOWN} more"] if len(of) > SHOWN else []
        lines.append(f"warning: {task}: {warning} ({', '.join([*of[:SHOWN], *more])})")
    return lines


def generated(planned: Plan, store: Store) -> list[str]:
    """What generating answers block by block takes, a line per task that has answers to be generated."""
    if not planned.engine.generated:
        return []
    done = store.done_among(planned.keys)
    tasks = planned.tasks
    waiting = {
        cell.task.name
        for key, cell in planned.by_key.items()
        if key not in done and (cell.variant.dense or not tasks[cell.task.name].needs_reference)
    }
    return [text for name, text in planned.engine.generated.items() if name in waiting]


def engine_options(planned: Plan) -> dict[str, Any]:
    """What the engine, or what serves it, takes beside what every one does."""
    keys = planned.matrix.engine
    if planned.engine.name == LAYERED:
        # answers of a task that needs dense's are generated by dense alone: others are refused
        continued = any(task.needs_reference for task in planned.tasks.values())
        return {"how": Passing(keys.memory, keys.generate or continued)}
    return {"memory": keys.memory} if keys.memory and keys.name != AUTO else {}


def worker(planned: Plan, store: Store, options: RunOptions, command: Sequence[str]) -> Worker:
    """The work of a plan, as an executor sends it to its processes."""
    from kick.sweep import reuse
    from kick.sweep.worker import Worker

    return Worker(
        root=str(store.root),
        matrix=planned.matrix.name,
        dense=planned.variants[0],
        task_names=tuple(planned.tasks),
        margin=planned.matrix.margin,
        reuse=reuse.siblings(planned.by_key, planned.tasks, store.runs()),
        data_root=planned.data_root,
        task_folders=options.task_folders,
        plugins=plugins.load(options.plugins),
        batch_tokens=planned.matrix.engine.batch_tokens,
        backend=planned.engine.name,
        engine=engine_options(planned),
        command=tuple(command),
    )
