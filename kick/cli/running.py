"""Commands that do work: run, plan, status, rescore, reproduce, compress, judge."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from kick import api
from kick.cli import panels
from kick.cli.terminal import (
    AllowCode,
    DataRoot,
    Json,
    Limit,
    Matrix,
    Out,
    Plugins,
    Results,
    Stop,
    TaskFolders,
    Unconfined,
    code,
    opened,
    print_json,
    print_table,
)
from kick.errors import KickError
from kick.printable import counted, say

app = typer.Typer()


@app.command(rich_help_panel=panels.RUN)
def run(
    matrix: Matrix,
    out: Out = "results",
    limit: Limit = None,
    stop: Stop = None,
    data_root: DataRoot = None,
    tasks: TaskFolders = None,
    plugins: Plugins = None,
    executor: Annotated[str, typer.Option(help="local, ray or inline")] = "local",
    workers: Annotated[int | None, typer.Option(help="jobs in parallel")] = None,
    address: Annotated[str | None, typer.Option(help="the address of a Ray cluster")] = None,
    retry_failed: Annotated[bool, typer.Option(help="run failed cells again")] = False,
    allow_code: AllowCode = False,
    unconfined: Unconfined = False,
    log_json: Annotated[bool, typer.Option(help="progress as JSON lines on standard output")] = False,
    offline: Annotated[bool, typer.Option(help="do not contact the hub")] = False,
) -> None:
    """Run a matrix; what is done already is not done again."""
    from kick.sweep.run import RunOptions

    options = RunOptions(
        out=out,
        limit=limit,
        stop=stop,
        data_root=data_root,
        task_folders=tuple(tasks or ()),
        plugins=tuple(plugins or ()),
        executor=executor,
        workers=workers,
        address=address,
        retry_failed=retry_failed,
        view="json" if log_json else "auto",
        offline=offline,
        allow_code=code(allow_code, unconfined),
        command=("kick", *sys.argv[1:]),
    )
    ran = api.run(matrix, options=options)
    if ran.done and not log_json:
        _scores(ran)
    raise typer.Exit(ran.status)


def _scores(ran: api.Run) -> None:
    """Print the headline scores of what is done, and the folder of the results."""
    from kick.report import tables

    found = ran.results()
    for note in found.attrs["notes"]:
        print(f"note: {note}")
    table = tables.known["scores"].make(found)
    print_table(list(table.heads), [list(row) for row in table.cells])
    print(f"results: {ran.folder}\nnext: kick leaderboard {ran.folder} --out leaderboards/{ran.matrix}")


@app.command(rich_help_panel=panels.RUN)
def plan(
    matrix: Matrix,
    out: Out = "results",
    limit: Limit = None,
    stop: Stop = None,
    data_root: DataRoot = None,
    tasks: TaskFolders = None,
    plugins: Plugins = None,
    offline: Annotated[bool, typer.Option(help="do not contact the hub")] = False,
    measure: Annotated[bool, typer.Option(help="time one forward for a better estimate")] = False,
    allow_code: AllowCode = False,
    unconfined: Unconfined = False,
    as_json: Json = False,
) -> None:
    """Check a matrix and list its cells, what is done, and the estimated time, memory and disk."""
    from kick.cli import plan as cli_plan
    from kick.sweep.run import RunOptions

    options = RunOptions(
        out=out,
        limit=limit,
        stop=stop,
        data_root=data_root,
        task_folders=tuple(tasks or ()),
        offline=offline,
        allow_code=code(allow_code, unconfined),
    )
    found = api.plan(matrix, options=options, timed=measure)
    if as_json:
        print_json(found.to_json())
        return
    print_table(cli_plan.HEADS, cli_plan.rows(found))
    print(found)


@app.command(rich_help_panel=panels.RUN)
def status(results: Results, as_json: Json = False) -> None:
    """List cells that are done, running, or failed with the cause."""
    from kick.cli import plan as cli_plan

    states = cli_plan.status([opened(folder) for folder in results])
    if as_json:
        print_json(states)
        return
    print_table(cli_plan.STATUS_HEADS, cli_plan.status_rows(states))
    print(cli_plan.status_line(states))


@app.command(rich_help_panel=panels.RUN)
def rescore(
    results: str,
    tasks: TaskFolders = None,
    allow_code: AllowCode = False,
    unconfined: Unconfined = False,
) -> None:
    """Score again from stored answers, with no model."""
    from kick.sweep import rescore as sweep_rescore
    from kick.tasks import sandbox

    sandbox.allow(code(allow_code, unconfined))
    done = sweep_rescore.rescore(results, tuple(tasks or ()), say)
    print(f"{counted(done, 'cell')} scored again")


@app.command(rich_help_panel=panels.RUN)
def reproduce(
    cell: Annotated[str, typer.Argument(help="a stored cell: RESULTS/KEY")],
    data_root: DataRoot = None,
    tasks: TaskFolders = None,
    plugins: Plugins = None,
) -> None:
    """Run one stored cell again and compare its scores with the stored ones."""
    from kick.sweep import reproduce as sweep_reproduce

    found = sweep_reproduce.reproduce(cell, data_root, tasks or (), plugins or ())
    print_table(sweep_reproduce.HEADS, sweep_reproduce.rows(found))
    raise typer.Exit(0 if found.equal else 1)


@app.command(
    cls=panels.MethodCommand,
    context_settings=panels.OPEN,
    rich_help_panel=panels.COMPRESS,
)
def compress(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="an alias, a hub id, a folder, a .gguf file")],
    out: Annotated[str, typer.Option(help="the folder to write, new or empty")],
    corpus: Annotated[str, typer.Option(help="the calibration corpus")] = "kick_mini_calibration",
    sequences: Annotated[int, typer.Option(help="number of calibration sequences")] = 16,
    length: Annotated[int, typer.Option(help="tokens per calibration sequence")] = 256,
    calibration_seed: Annotated[int, typer.Option(help="which sequences of the corpus")] = 0,
    dtype: Annotated[str | None, typer.Option(help="of saved weights (default: the checkpoint's)")] = None,
    form: Annotated[str, typer.Option("--format", help="of the files: plain, or bitmap")] = "plain",
    data_root: DataRoot = None,
    plugins: Plugins = None,
) -> None:
    """Compress a model and save it: --method wanda --sparsity 0.5 [--method rtn --bits 4] --out DIR."""
    from kick.cli import compress as cli_compress

    recipe = cli_compress.steps(context.args)
    spec = cli_compress.calibration_of(corpus, sequences, length, calibration_seed)
    how = cli_compress.Saving(Path(out), dtype, form, data_root)
    print_json(cli_compress.carry_out(model, recipe, spec, how))


@app.command(rich_help_panel=panels.COMPRESS)
def decompress(
    folder: Annotated[Path, typer.Argument(help="what `kick compress --format bitmap` wrote")],
    out: Annotated[Path, typer.Option(help="the folder to write, new or empty")],
) -> None:
    """Write a checkpoint in the bitmap format as the one it was made of, byte for byte."""
    from kick.compress import bitmaps

    for file in bitmaps.decode(folder, out):
        print(file)


@app.command(rich_help_panel=panels.RUN)
def judge(
    matrix: Matrix,
    out: Out = "results",
    data_root: DataRoot = None,
    tasks: TaskFolders = None,
    calls: Annotated[int | None, typer.Option(help="most requests; a later call does the rest")] = None,
    tokens: Annotated[int | None, typer.Option(help="most tokens")] = None,
) -> None:
    """Have the matrix's judge grade the stored answers; what is judged already is not asked again."""
    from kick.judge.results import judge_results, settings
    from kick.matrix import load
    from kick.store import Store

    parsed = load.load(matrix)
    if parsed.judge is None:
        raise KickError(f"{matrix} names no judge; expected: judge: {{model: ..., base_url: ...}}")
    how = settings(parsed.judge, calls=calls, tokens=tokens)
    store = Store(out, parsed.name)
    report = judge_results(store, how, data_root=data_root, task_folders=tasks or (), say=say)
    print(report)
    raise typer.Exit(0 if report.whole else 1)


@app.command(rich_help_panel=panels.RUN)
def extend(
    results: Annotated[str, typer.Argument(help="the folder of a matrix that was run with `stop`")],
    until: Annotated[
        list[str] | None, typer.Option(help='"wanda-0.5 matches [on TASK]"; or worse, better, decided')
    ] = None,
    precision: Annotated[float | None, typer.Option(help="points of the interval's half-width")] = None,
    variant: Annotated[list[str] | None, typer.Option(help="a name, label or pattern")] = None,
    task: Annotated[list[str] | None, typer.Option(help="a task's name or a pattern")] = None,
    cell: Annotated[list[str] | None, typer.Option(help="a cell's key")] = None,
    data_root: DataRoot = None,
    tasks: TaskFolders = None,
    plugins: Plugins = None,
    executor: Annotated[str, typer.Option(help="local, ray or inline")] = "local",
    workers: Annotated[int | None, typer.Option(help="jobs in parallel")] = None,
) -> None:
    """Ask more items of cells that ended early, until they are decided or precise, or all are asked."""
    from kick.sweep import extend as sweep_extend

    options = sweep_extend.ExtendOptions(
        until=tuple(until or ()),
        precision=precision,
        variants=tuple(variant or ()),
        tasks=tuple(task or ()),
        cells=tuple(cell or ()),
        data_root=data_root,
        task_folders=tuple(tasks or ()),
        plugins=tuple(plugins or ()),
        executor=executor,
        workers=workers,
        command=("kick", *sys.argv[1:]),
    )
    found = sweep_extend.extend(results, options, say)
    if found:
        print_table(sweep_extend.HEADS, [one.row() for one in found])
    raise typer.Exit(1 if any(one.failed for one in found) else 0)
