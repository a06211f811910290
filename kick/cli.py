"""The command line: each command calls one function and prints what it gives.

Exit status 0 is success, 1 a cell failed (the rest ran), 2 wrong usage or configuration. Results go to
standard output; progress and errors go to standard error. A traceback is shown only with --debug.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from kick import __version__
from kick.records import CellFailed, KickError
from kick.study import command as study
from kick.terminal import DataRoot, TaskFolders, print_json, print_table, say

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Measures what compression does to a language model.",
)

app.add_typer(study.app, name="study")

Matrix = Annotated[str, typer.Argument(help="a matrix file, or a preset: smoke, demo, demo-full, ...")]
Results = Annotated[list[str], typer.Argument(help="folders (or URLs) of results")]
Out = Annotated[str, typer.Option(help="where results are stored: a folder or an fsspec URL")]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
Limit = Annotated[int | None, typer.Option(help="items of every task, in place of the matrix's own")]


def main(arguments: list[str] | None = None) -> None:
    """The `kick` command. Ends the process with the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not os.environ.get("XDG_CACHE_HOME", "unset"):
        del os.environ["XDG_CACHE_HOME"]  # empty is unset by its standard, but not to the hub's library
    if arguments[:1] == ["lm-eval"]:
        from kick.engine import harness

        return harness.main(arguments[1:])
    if "--offline" in arguments:  # the hub's library reads it once, as it is imported
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    debug = "--debug" in arguments
    try:
        app(args=[one for one in arguments if one != "--debug"], prog_name="kick")
    except (KickError, CellFailed) as error:
        if debug:
            raise
        say(f"kick: {error}")
        sys.exit(2 if isinstance(error, KickError) else 1)  # 1: as a run with failed cells ends


def _opened(folder: str) -> Any:
    """The store of a folder or URL that is read. Raises KickError where the folder is not there."""
    from kick.store import Store

    if "://" not in folder and not Path(folder).is_dir():
        raise KickError(f"{folder!r} is not a folder of results; `kick run` makes one, results/ by default")
    return Store(folder)


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    """Measures what compression does to a language model."""
    if show:
        print(f"kick {__version__}")
        raise typer.Exit


# ------------------------------------------------------------------------------ running


@app.command()
def run(
    matrix: Matrix,
    out: Out = "results",
    limit: Limit = None,
    data_root: DataRoot = None,
    tasks: TaskFolders = None,
    executor: Annotated[str, typer.Option(help="local, ray or inline")] = "local",
    workers: Annotated[int | None, typer.Option(help="jobs at once")] = None,
    address: Annotated[str | None, typer.Option(help="of a Ray cluster")] = None,
    retry_failed: Annotated[bool, typer.Option(help="try failed cells again")] = False,
    log_json: Annotated[bool, typer.Option(help="progress as JSON lines on standard output")] = False,
    offline: Annotated[bool, typer.Option(help="never ask the hub")] = False,
) -> None:
    """Run a matrix; what is done already is not done again."""
    from kick import running

    options = running.Options(
        out=out,
        limit=limit,
        data_root=data_root,
        task_folders=tuple(tasks or ()),
        executor=executor,
        workers=workers,
        address=address,
        retry_failed=retry_failed,
        view="json" if log_json else "auto",
        offline=offline,
    )
    planned, summary = running.run(matrix, options, ["kick", *sys.argv[1:]], say)
    if not log_json:
        _scores(f"{out.rstrip('/')}/{planned.matrix.name}")
    raise typer.Exit(summary.status)


def _scores(results: str) -> None:
    """The headline scores of what is done, and where it is stored."""
    from kick.report import frame, tables
    from kick.store import Store

    store = Store(results)
    if next(store.runs(), None) is None:
        return
    table = tables.tables["scores"].make(frame.read([store]).frame)
    print_table(list(table.heads), [list(row) for row in table.cells])
    print(f"results: {results}\nnext: kick leaderboard {results} --out leaderboards/{Path(results).name}")


@app.command()
def plan(
    matrix: Matrix,
    out: Out = "results",
    limit: Limit = None,
    data_root: DataRoot = None,
    tasks: TaskFolders = None,
    offline: Annotated[bool, typer.Option(help="never ask the hub")] = False,
    measure: Annotated[bool, typer.Option(help="time one forward for a better estimate")] = False,
    as_json: Json = False,
) -> None:
    """Check a matrix and list its cells, what is done, and the estimated time, memory and disk."""
    from kick import planning, running

    options = running.Options(
        out=out, limit=limit, data_root=data_root, task_folders=tuple(tasks or ()), offline=offline
    )
    report = planning.report(matrix, options, measure)
    if as_json:
        print_json(report)
        return
    print_table(planning.HEADS, planning.rows(report))
    for line in planning.lines(report):
        print(line)


@app.command()
def status(results: Results, as_json: Json = False) -> None:
    """What is done, running, failed with its cause."""
    from kick import planning

    states = planning.status([_opened(folder) for folder in results])
    if as_json:
        print_json(states)
        return
    print_table(planning.STATUS_HEADS, planning.status_rows(states))
    print(planning.status_line(states))


@app.command()
def rescore(results: str, tasks: TaskFolders = None) -> None:
    """Score again from stored answers, with no model."""
    from kick import rescoring

    done = rescoring.rescore(results, tuple(tasks or ()), say)
    print(f"{done} cells scored again")


@app.command()
def reproduce(
    cell: Annotated[str, typer.Argument(help="RESULTS/KEY")],
    data_root: DataRoot = None,
    tasks: TaskFolders = None,
) -> None:
    """Run one stored cell again and compare its scores with the stored ones."""
    from kick import reproducing

    found = reproducing.reproduce(cell, data_root, tasks or ())
    print_table(reproducing.HEADS, reproducing.rows(found))
    raise typer.Exit(0 if found.equal else 1)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def compress(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="an alias, a hub id, a folder, a .gguf file")],
    out: Annotated[str, typer.Option(help="the folder to write, new or empty")],
    corpus: Annotated[str, typer.Option(help="of calibration text")] = "kick_mini_calibration",
    sequences: Annotated[int, typer.Option(help="of calibration")] = 16,
    length: Annotated[int, typer.Option(help="tokens of a sequence")] = 256,
    calibration_seed: Annotated[int, typer.Option(help="which sequences of the corpus")] = 0,
    data_root: DataRoot = None,
) -> None:
    """Compress a model and save it: --method wanda --sparsity 0.5 [--method rtn --bits 4] --out DIR."""
    from kick import compressing

    recipe = compressing.steps(context.args)
    spec = compressing.calibration_of(corpus, sequences, length, calibration_seed)
    print_json(compressing.run(model, recipe, spec, Path(out), data_root))


@app.command()
def judge(
    matrix: Matrix,
    out: Out = "results",
    data_root: DataRoot = None,
    tasks: TaskFolders = None,
    calls: Annotated[
        int | None, typer.Option(help="requests at most; the rest is done by a later call")
    ] = None,
    tokens: Annotated[int | None, typer.Option(help="tokens at most")] = None,
) -> None:
    """Have the matrix's judge grade the stored answers; what is judged already is not asked again."""
    from kick import config, judge
    from kick.store import Store

    parsed = config.load(matrix)
    if parsed.judge is None:
        raise KickError(f"{matrix} names no judge; wanted: judge: {{model: ..., base_url: ...}}")
    how = judge.settings(parsed.judge, calls=calls, tokens=tokens)
    store = Store(out, parsed.name)
    report = judge.judge_results(store, how, data_root=data_root, task_folders=tasks or (), say=say)
    print(report)
    raise typer.Exit(0 if report.whole else 1)


# ------------------------------------------------------------------------------ reading


@app.command()
def leaderboard(results: Results, out: Annotated[str, typer.Option(help="the folder to write")]) -> None:
    """Write index.html (one self-contained page), leaderboard.csv, .md, .tex and .json."""
    from kick.report import frame, leaderboard

    for file in leaderboard.render(frame.read([_opened(folder) for folder in results]), Path(out)):
        print(file)


@app.command()
def figures(
    results: Results,
    out: Annotated[str, typer.Option(help="the folder to write")],
    paper: Annotated[str | None, typer.Option(help="llm-kick: the paper's figures and numbers")] = None,
) -> None:
    """Write each figure as PNG and PDF, with the CSV behind it."""
    from kick.report import figures, frame

    drawn = figures.draw(frame.read([_opened(folder) for folder in results]).frame, Path(out), paper=paper)
    for one in drawn:
        files = ", ".join(str(file) for file in one.files)
        print(f"{one.name}: {files}" if files else f"{one.name}: not drawn, {one.skipped}")


@app.command()
def compare(results: str, a: str, b: str, as_json: Json = False) -> None:
    """Compare two variants item by item: differences, intervals, and the items that flipped."""
    from kick.report import compare

    found = compare.compare(_opened(results), a, b)
    if as_json:
        print_json(found.to_json())
    else:
        wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
        Console(width=wide).print(found)  # into a file or a pipe a row stays a line


# ------------------------------------------------------------------------------ what there is


@app.command()
def methods(as_json: Json = False) -> None:
    """The compression methods with their options, sources and needs."""
    from kick import compress

    described = [compress.describe(name) for name in compress.methods]
    if as_json:
        print_json(described)
        return
    for one in described:
        needs = f", needs {', '.join(one['needs'])}" if one["needs"] else ""
        print(f"{one['name']}  {one['title']} ({one['paper']}; {one['kind']}{needs})")
        for option in one["options"]:
            default = "required" if option["required"] else f"default {json.dumps(option['default'])}"
            choices = f"; one of {', '.join(map(str, option['choices']))}" if option["choices"] else ""
            print(f"    {option['name']}: {option['type']}, {default}{choices}. {option['help']}")


@app.command()
def tasks(as_json: Json = False, tasks: TaskFolders = None) -> None:
    """The tasks and groups; any of lm-eval's own can be named too."""
    from kick.tasks import describe

    described = describe([Path(folder) for folder in tasks or ()])
    if as_json:
        print_json(described)
        return
    rows = [
        [one["name"], one["kind"] or "", one["title"], ", ".join(one["members"] or one["metrics"])]
        for one in described
    ]
    print_table(["name", "kind", "title", "metrics or members"], rows)


@app.command()
def doctor(as_json: Json = False) -> None:
    """What works on this machine, and what to do about the rest."""
    from kick import doctor

    checks = doctor.check()
    if as_json:
        print_json(doctor.as_json(checks))
    else:
        print_table(
            ["check", "state", "found", "to mend"], [[c.name, c.state, c.found, c.mend] for c in checks]
        )
    raise typer.Exit(0 if all(one.state != "missing" for one in checks) else 1)


@app.command(
    name="lm-eval",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def lm_eval() -> None:
    """lm-eval's own command line, with the engine as `--model kick`. Handled before any option is read."""


if __name__ == "__main__":
    main()
