"""`kick study`: the commands of the studies, each of which calls its module and prints what it gives."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from kick.cli import panels
from kick.cli.terminal import DataRoot, Plugins, TaskFolders, print_table
from kick.errors import KickError
from kick.printable import say

app = typer.Typer(
    no_args_is_help=True,
    help="Studies beyond a matrix: components, layers, search, recovery, budget, verdicts.",
)

Model = Annotated[str, typer.Argument(help="an alias, a hub id, a folder, a .gguf file")]
Out = Annotated[
    str | None, typer.Option(help="the folder to write; by default results/<model>-<method>-<sparsity>")
]
Prompts = Annotated[int, typer.Option(help="prompts of the probe task per matrix")]
Spread = Annotated[float, typer.Option(help="how far shares of the allocation lie from the sparsity")]
Probe = Annotated[str, typer.Option(help="the fidelity task by which matrices are ranked")]
Judged = Annotated[str, typer.Option(help="the fidelity task on which allocations are compared")]
Text = Annotated[str, typer.Option(help="the perplexity task on which allocations are compared")]
Limit = Annotated[int | None, typer.Option(help="items per task on which allocations are compared")]
Corpus = Annotated[str, typer.Option(help="the calibration corpus")]
Sequences = Annotated[int, typer.Option(help="number of calibration sequences")]
Length = Annotated[int, typer.Option(help="tokens per calibration sequence")]
Seed = Annotated[int, typer.Option(help="which sequences of the corpus")]
Executor = Annotated[str, typer.Option(help="local, ray or inline")]
Workers = Annotated[int | None, typer.Option(help="blocks in parallel")]
Retry = Annotated[bool, typer.Option(help="run failed cells again")]
Given = Annotated[str | None, typer.Argument(help="a matrix file or a preset, for its tasks' sizes")]
Items = Annotated[list[int] | None, typer.Option(help="number of items, in place of a matrix; repeatable")]
DenseScore = Annotated[float, typer.Option(help="the share of items that dense has right")]
Margin = Annotated[float | None, typer.Option(help="the margin; by default the matrix's, else 0.05")]
Changes = Annotated[
    list[float] | None, typer.Option("--change", help="a true change in per cent, as -2.4; repeatable")
]
Flips = Annotated[float, typer.Option(help="per cent of items that flip against the change")]
Runs = Annotated[int, typer.Option(help="simulated studies per row")]
Written = Annotated[str | None, typer.Option(help="a folder for verdicts.csv and verdicts.md")]
Asked = Annotated[
    list[str] | None, typer.Option("--task", help="a task beside perplexity and FDT; repeatable")
]
OfEach = Annotated[int | None, typer.Option(help="items per task, prompts of FDT")]
Windows = Annotated[int | None, typer.Option(help="windows of the perplexity task")]
ForMetrics = Annotated[str, typer.Option(help="the text of the metrics, which no task asks")]
Fdt = Annotated[str, typer.Option(help="the fidelity task, for FDT and KL")]
Ppl = Annotated[str, typer.Option(help="the perplexity task")]
Parts = Annotated[int | None, typer.Option(help="parts of the blocks in parallel")]
LayersOut = Annotated[str | None, typer.Option(help="the folder to write; by default results/<model>-layers")]
Budget = Annotated[int, typer.Option(help="formulas that are measured")]
Pruned = Annotated[str, typer.Option(help="the share pruned of each row, or n:m")]
Held = Annotated[int, typer.Option("--fitness", help="sequences on which formulas are measured")]
Population = Annotated[int, typer.Option(help="formulas that are kept to breed from")]
SearchSeed = Annotated[int, typer.Option(help="of the search")]
SearchOut = Annotated[str | None, typer.Option(help="the folder to write; by default results/<model>-search")]
Compared = Annotated[str, typer.Option(help="the perplexity task of the comparison")]
Tokens = Annotated[
    list[int] | None, typer.Option("--budget", help="tokens of training, 0 for none; repeatable")
]
Form = Annotated[str, typer.Option(help="the form of recovery: masklora, lora, perp, ...")]
Rate = Annotated[float | None, typer.Option(help="the highest learning rate; by default the form's")]
Search = Annotated[
    int | None, typer.Option(help="how many learning rates around it held-out text chooses from", min=2)
]
OneRank = Annotated[int | None, typer.Option(help="of the adapters; by default the form's")]
TextOf = Annotated[str, typer.Option(help="the corpus that is trained on")]
TokensOf = Annotated[int, typer.Option("--window", help="tokens per window of training")]
SeedsOf = Annotated[list[int] | None, typer.Option("--seed", help="of the training; repeatable")]
RecoveryOut = Annotated[str | None, typer.Option(help="the folder; by default results/<model>-recovery")]
Memory = Annotated[str, typer.Option("--bytes", help="the size that the packed model may have: 120MB")]
Minutes = Annotated[float, typer.Option(help="CPU minutes for the search; --grid comes on top")]
Ways = Annotated[list[str] | None, typer.Option("--method", help="how to prune; repeatable")]
Shares = Annotated[list[float] | None, typer.Option("--share", help="how much is pruned; repeatable")]
Ranks = Annotated[
    list[int] | None, typer.Option("--rank", help="of the adapters, 0 for norms alone; repeatable")
]
Bits = Annotated[int | None, typer.Option(help="round to so many bits at the end")]
HeldOut = Annotated[int, typer.Option("--windows", help="held-out windows that a loss is of")]
Grid = Annotated[bool, typer.Option("--grid", help="then try every arm, for the regret")]
BudgetOut = Annotated[str | None, typer.Option(help="the folder; by default results/<model>-budget")]
Offline = Annotated[bool, typer.Option(help="do not contact the hub")]


@app.callback()
def studies() -> None:
    """Studies beyond a matrix."""


@app.command(
    cls=panels.MethodCommand,
    context_settings=panels.OPEN,
    rich_help_panel=panels.STUDY,
)
def components(
    context: typer.Context,
    model: Model,
    out: Out = None,
    prompts: Prompts = 32,
    spread: Spread = 0.1,
    probe: Probe = "kick_mini_fidelity_calibration",
    fidelity: Judged = "kick_mini_fidelity",
    perplexity: Text = "kick_mini_perplexity",
    limit: Limit = None,
    corpus: Corpus = "kick_mini_calibration",
    sequences: Sequences = 16,
    length: Length = 256,
    calibration_seed: Seed = 0,
    data_root: DataRoot = None,
    tasks: TaskFolders = None,
    plugins: Plugins = None,
    executor: Executor = "local",
    workers: Workers = None,
    retry_failed: Retry = False,
    offline: Offline = False,
) -> None:
    """Prune one matrix at a time, then spread the sparsity by what that did: --method wanda --sparsity 0.75.

    Writes a table and a heat map of the first divergent token by layer and component, and compares the guided
    allocation with a uniform one of the same overall sparsity. What is done already is not done again.
    """
    from kick.cli import compress
    from kick.study import components as study
    from kick.study import pages

    steps = compress.steps(context.args)
    if len(steps) != 1:
        raise KickError(f"a component study is of one method; got {len(steps)}")
    (step,), spec = steps, compress.calibration_of(corpus, sequences, length, calibration_seed)
    out = _folder(out, model, step.method, str(step.options.get("sparsity", "")))
    options = study.StudyOptions(
        model, step, spec, out, prompts=prompts, spread=spread, probe=probe, fidelity=fidelity,
        perplexity=perplexity, limit=limit, data_root=data_root, task_folders=tuple(tasks or ()),
        plugins=tuple(plugins or ()), executor=executor, workers=workers, retry_failed=retry_failed,
        offline=offline,
    )  # fmt: skip
    planned, store, summary = study.run(options, ["kick", *sys.argv[1:]], say)
    if summary.status == 0:
        parts, compared, files = pages.write(planned, store, Path(out))
        for table in (parts, compared):
            print_table(list(table.heads), table.rows)
        print("\n".join(str(file) for file in files))
    raise typer.Exit(summary.status)


@app.command(rich_help_panel=panels.STUDY)
def layers(
    model: Model,
    out: LayersOut = None,
    task: Asked = None,
    fidelity: Fdt = "kick_mini_fidelity",
    perplexity: Ppl = "kick_mini_perplexity",
    limit: OfEach = None,
    windows: Windows = None,
    corpus: ForMetrics = "kick_mini_calibration",
    sequences: Sequences = 16,
    length: Length = 256,
    calibration_seed: Seed = 0,
    data_root: DataRoot = None,
    tasks: TaskFolders = None,
    plugins: Plugins = None,
    executor: Executor = "local",
    workers: Parts = None,
    retry_failed: Retry = False,
    offline: Offline = False,
) -> None:
    """Drop each block alone: what that does to perplexity, FDT and tasks, and which metric tells beforehand.

    Writes the curves with intervals, and the rank correlation of block influence, angular distance, Taylor,
    magnitudes, perplexity and reverse order with the harm. What is done already is not done again.
    """
    from kick.cli import compress
    from kick.study import layer_pages
    from kick.study import layers as study

    spec = compress.calibration_of(corpus, sequences, length, calibration_seed)
    out = _folder(out, model, "layers")
    options = study.LayerOptions(
        model, spec, out, tasks=tuple(task or ("kick_mini_mcq",)), fidelity=fidelity, perplexity=perplexity,
        limit=limit, windows=windows, data_root=data_root, task_folders=tuple(tasks or ()),
        plugins=tuple(plugins or ()), executor=executor, workers=workers, retry_failed=retry_failed,
        offline=offline,
    )  # fmt: skip
    planned, store, summary = study.run(options, ["kick", *sys.argv[1:]], say)
    if summary.status == 0:
        tables, files = layer_pages.write(planned, store, Path(out))
        for table in tables:
            print_table(list(table.heads), table.rows)
        print("\n".join(str(file) for file in files))
    raise typer.Exit(summary.status)


@app.command(rich_help_panel=panels.STUDY)
def search(
    model: Model,
    budget: Budget,
    out: SearchOut = None,
    sparsity: Pruned = "0.5",
    population: Population = 10,
    seed: SearchSeed = 0,
    corpus: Corpus = "kick_mini_calibration",
    sequences: Sequences = 8,
    length: Length = 128,
    calibration_seed: Seed = 0,
    fitness: Held = 8,
    perplexity: Compared = "kick_mini_perplexity",
    windows: Windows = None,
    data_root: DataRoot = None,
    tasks: TaskFolders = None,
    executor: Executor = "local",
    offline: Offline = False,
) -> None:
    """Search a saliency by genetic programming, as Pruner-Zero does: --budget 60.

    Formulas of weight, gradient and input are measured on calibration text; the best is compared with the
    published one as `kick run` prunes, on a task. Run again, the search goes on where it was.
    """
    from kick.cli import compress
    from kick.study import search as study
    from kick.study import search_pages
    from kick.study.genetics import Breeding

    spec = compress.calibration_of(corpus, sequences, length, calibration_seed)
    out = _folder(out, model, "search")
    options = study.SearchOptions(
        model, spec, out, budget, sparsity=sparsity, text=fitness, perplexity=perplexity, windows=windows,
        breeding=Breeding(population=population, seed=seed), data_root=data_root,
        task_folders=tuple(tasks or ()), executor=executor, offline=offline,
    )  # fmt: skip
    planned, tried, known, store, summary = study.run(options, ["kick", *sys.argv[1:]], say)
    if summary.status == 0:
        tables, files = search_pages.write(planned, tried, known, store, Path(out))
        for table in tables:
            print_table(list(table.heads), table.rows)
        print("\n".join(str(file) for file in files))
    raise typer.Exit(summary.status)


@app.command(
    cls=panels.MethodCommand,
    context_settings=panels.OPEN,
    rich_help_panel=panels.STUDY,
)
def recovery(
    context: typer.Context,
    model: Model,
    out: RecoveryOut = None,
    form: Form = "masklora",
    budget: Tokens = None,
    lr: Rate = None,
    search: Search = None,
    rank: OneRank = None,
    text: TextOf = "world_english_bible",
    window: TokensOf = 256,
    seed: SeedsOf = None,
    task: Asked = None,
    limit: OfEach = None,
    corpus: Corpus = "kick_mini_calibration",
    sequences: Sequences = 16,
    length: Length = 256,
    calibration_seed: Seed = 0,
    data_root: DataRoot = None,
    tasks: TaskFolders = None,
    executor: Executor = "local",
    workers: Workers = None,
    retry_failed: Retry = False,
    offline: Offline = False,
) -> None:
    """Train a pruned model on more and more tokens: --method wanda --sparsity 0.5 --budget 0 --budget 8192.

    Writes the share brought back by tokens, with its interval, beside the dense model trained alike.
    """
    from kick.cli import compress
    from kick.study import recovery as study
    from kick.study import recovery_pages
    from kick.sweep.run import RunOptions

    how = {"lr": lr, "search": search, "rank": rank, "corpus": text, "length": window}.items()
    options = study.RecoveryOptions(
        model, tuple(compress.steps(context.args)), form, tuple(budget or study.BUDGETS),
        compress.calibration_of(corpus, sequences, length, calibration_seed), tuple(task or study.TASKS),
        tuple((name, value) for name, value in how if value is not None), tuple(seed or (0,)), limit,
    )  # fmt: skip
    running = RunOptions(
        _folder(out, model, "recovery"), data_root=data_root, task_folders=tuple(tasks or ()),
        executor=executor, workers=workers, retry_failed=retry_failed, offline=offline,
    )  # fmt: skip
    store, summary = study.run(options, running, ["kick", *sys.argv[1:]], say)
    if summary.status == 0:
        table, files = recovery_pages.write(options, store, Path(running.out))
        print_table(list(table.heads), table.rows)
        print("\n".join(str(file) for file in files))
    raise typer.Exit(summary.status)


@app.command(rich_help_panel=panels.STUDY)
def budget(
    memory: Memory,
    minutes: Minutes,
    model: Model = "smollm2-135m",
    out: BudgetOut = None,
    method: Ways = None,
    share: Shares = None,
    rank: Ranks = None,
    bits: Bits = None,
    windows: HeldOut = 8,
    text: TextOf = "world_english_bible",
    window: TokensOf = 256,
    seed: SearchSeed = 0,
    grid: Grid = False,
    corpus: Corpus = "kick_mini_calibration",
    sequences: Sequences = 8,
    length: Length = 128,
    calibration_seed: Seed = 0,
    data_root: DataRoot = None,
    offline: Offline = False,
) -> None:
    """Name the best recipe for a device's memory that a given time finds: --bytes 120MB --minutes 60.

    Successive halving over method, share and rank of the adapters, by the loss on held-out text.
    """
    from kick.cli import compress
    from kick.cli.advise import size
    from kick.study import budget as study
    from kick.study import budget_pages

    default = study.BudgetOptions
    options = study.BudgetOptions(
        model, size(memory, "--bytes"), minutes, _folder(out, model, "budget"),
        compress.calibration_of(corpus, sequences, length, calibration_seed),
        methods=tuple(method or default.methods), shares=tuple(share or default.shares),
        ranks=tuple(rank or default.ranks), bits=bits, windows=windows, length=window, corpus=text, seed=seed,
        grid=grid, data_root=data_root, offline=offline,
    )  # fmt: skip
    found = study.run(options, say)
    table, files = budget_pages.write(found, Path(options.out))
    print_table(list(table.heads), table.rows)
    print(budget_pages.told(found))
    print("\n".join(str(file) for file in files))


def _folder(out: str | None, model: str, *study: str) -> str:
    """The folder that was asked for, or one named by model and study: results/smollm2-135m-wanda-0.75."""
    name = model.rstrip("/").rpartition("/")[2].removesuffix(".gguf")
    return out or f"results/{'-'.join([name, *study])}"


@app.command(rich_help_panel=panels.STUDY)
def verdicts(
    matrix: Given = None,
    items: Items = None,
    dense: DenseScore = 0.6,
    margin: Margin = None,
    change: Changes = None,
    flips: Flips = 1.0,
    runs: Runs = 1000,
    out: Written = None,
    data_root: DataRoot = None,
    tasks: TaskFolders = None,
    plugins: Plugins = None,
) -> None:
    """Simulate what a matrix can show: verdicts and the share of items asked with `stop: decided`.

    A row per task and true change; then the errors at the ends of the margin. No model is loaded.

    kick study verdicts demo-full --dense 0.5; kick study verdicts --items 256 --items 1000 --margin 0.02
    """
    from kick.matrix.load import load
    from kick.matrix.plan import plan
    from kick.stats.sequential import Rule
    from kick.study import verdicts as study

    if matrix is not None and items:
        raise KickError("--items is in place of a matrix; got both")
    sizes, rule = {f"{count} items": count for count in items or study.SIZES}, Rule()
    if matrix is not None:
        given = load(matrix)
        sizes = study.of_plan(plan(given, data_root=data_root))
        rule = Rule(margin=given.margin, looks=given.looks)
    rule = rule if margin is None else replace(rule, margin=margin)
    changes = [one / 100 for one in change] if change else study.CHANGES
    scenario = study.Scenario(sizes, dense, changes, flips / 100, rule, runs)
    rows, wrong = study.rows(scenario), study.edges(scenario)
    for table in (study.table(rows), study.errors(wrong)):
        print_table(list(table.heads), table.rows)
    print(study.possible(scenario))
    if out is not None:
        print("\n".join(str(file) for file in study.write(scenario, rows, wrong, Path(out))))
