"""Calls for notebooks, scripts and the command line: plan, run, compress_model, results, compare.

    import kick

    print(kick.plan("smoke"))
    ran = kick.run("smoke")
    ran.results()                                       # a DataFrame, a row per cell and metric
    kick.compare(ran.folder, "dense", "wanda 50 %").frame()

A matrix is a path, the name of a preset, YAML text or a dict. Every mistake in it is a KickError, raised
before a model is loaded; its message says what would be right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kick.errors import KickError
from kick.printable import say
from kick.records import CalibrationSpec, Step

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from kick.analysis.compare import Compared
    from kick.compress.single import CompressedModel
    from kick.matrix.load import Given
    from kick.sweep.contract import Summary
    from kick.sweep.preview import Preview
    from kick.sweep.run import RunOptions

FolderOrUrl = str | PathLike[str]
Folders = str | PathLike[str] | Sequence[str | PathLike[str]]


@dataclass(frozen=True)
class Run:
    """A run of a matrix that has ended; `folder` holds its results, `summary` counts its cells."""

    matrix: str
    folder: str
    summary: Summary

    @property
    def status(self) -> int:
        """0 if every cell is done, else 1."""
        return self.summary.status

    @property
    def total(self) -> int:
        """The number of cells of the matrix."""
        return self.summary.total

    @property
    def done(self) -> int:
        """The number of cells that are done, those of earlier runs included."""
        return self.summary.before + self.summary.done

    @property
    def failed(self) -> int:
        """The number of cells that have failed; `failures` says why."""
        return self.summary.failed + self.summary.failed_before

    def failures(self) -> dict[tuple[str, str], str]:
        """The cause of each failure, by variant and task."""
        from kick.store import Store

        failed = [(one.cell, one.cause) for one in Store(self.folder).failures()]
        return {(cell.variant.name, cell.task.name): cause for cell, cause in failed if cell}

    def results(self) -> DataFrame:
        """The scores, see `kick.results`."""
        return results(self.folder)


def plan(
    matrix: Given,
    *,
    out: FolderOrUrl | None = None,
    limit: int | None = None,
    tasks: Sequence[FolderOrUrl] = (),
    plugins: Sequence[FolderOrUrl] = (),
    options: RunOptions | None = None,
    timed: bool = False,
) -> Preview:
    """Check a matrix and list its cells, what is done, and the estimated time, memory and disk.

    Args:
        matrix: a path, the name of a preset, YAML text or a dict.
        out: where results are stored, results/ by default.
        limit: items of every task, in place of the matrix's own.
        tasks: folders of your own task files.
        plugins: files or folders of your own methods.
        options: everything else; what is given beside it comes first.
        timed: measure one forward of the model for a better estimate.

    Raises:
        KickError: everything that is wrong with the matrix, a line each.

    >>> found = plan("smoke", limit=4)
    >>> len(found.cells), found.cells[0].variant, found.cells[0].task, found.cells[0].items
    (6, 'dense', 'kick_mini_mcq', 4)
    >>> list(found.frame()["state"].unique())
    ['to do']
    >>> plan({"name": "mine", "model": "smoke", "tasks": ["kick_mini_mcq"],
    ...       "variants": [{"method": "wanda", "sparsty": 0.5}]})
    Traceback (most recent call last):
    kick.errors.KickError: matrix: variants[0]...: unknown option 'sparsty'...did you mean 'sparsity'?
    """
    from kick.sweep.preview import preview

    return preview(matrix, _options(options, out=out, limit=limit, tasks=tasks, plugins=plugins), timed=timed)


def run(
    matrix: Given,
    *,
    out: FolderOrUrl | None = None,
    limit: int | None = None,
    tasks: Sequence[FolderOrUrl] = (),
    plugins: Sequence[FolderOrUrl] = (),
    workers: int | None = None,
    options: RunOptions | None = None,
) -> Run:
    """Run a matrix; what is done already is not done again. Progress goes to standard error.

    A cell that fails does not stop the others: see `Run.status` and `Run.failures`. Ctrl-C, in a notebook
    "interrupt", ends a run early and loses nothing.

    Args:
        matrix: a path, the name of a preset, YAML text or a dict.
        out: where results are stored, results/ by default: a folder or an fsspec URL.
        limit: items of every task, in place of the matrix's own.
        tasks: folders of your own task files.
        plugins: files or folders of your own methods.
        workers: jobs at once.
        options: everything else, such as `kick.RunOptions(executor="inline", offline=True)`; what is given
            beside it comes first.

    Raises:
        KickError: everything that is wrong with the matrix, before anything runs.

    >>> ran = run("smoke", limit=2, options=RunOptions(executor="inline"))
    >>> ran.status, ran.done, ran.failed, ran.folder
    (0, 6, 0, 'results/smoke')
    >>> run("smoke", limit=2).summary.done  # nothing is left to do
    0
    """
    from kick.sweep import run as sweep_run

    how = _options(options, out=out, limit=limit, tasks=tasks, plugins=plugins, workers=workers)
    planned, summary = sweep_run.run(matrix, how, how.command or _called(matrix), say)
    return Run(planned.matrix.name, f"{how.out.rstrip('/')}/{planned.matrix.name}", summary)


def compress_model(
    model: str | PathLike[str] | PreTrainedModel,
    recipe: Mapping[str, Any] | Step | Sequence[Mapping[str, Any] | Step],
    *,
    calibration: str | Mapping[str, Any] | CalibrationSpec | Sequence[Tensor] = "kick_mini_calibration",
    tokenizer: PreTrainedTokenizerBase | None = None,
    out: str | PathLike[str] | None = None,
    data_root: str | None = None,
    plugins: Sequence[FolderOrUrl] = (),
) -> CompressedModel:
    """Compress a model by a recipe, and save it if `out` is given; the model, its tokenizer and a report.

    Args:
        model: an alias, a hub id, a folder or a .gguf file, loaded in float32; or a loaded causal language
            model of transformers, which is changed in place.
        recipe: one step or several in order, each as in a matrix file: {"method": "wanda", "sparsity": 0.5}.
        calibration: the name of a corpus; a mapping as in a matrix file, {"corpus": "c4", "sequences": 128};
            or token sequences, LongTensors (1, length). Not looked at if no step needs it.
        tokenizer: of a loaded model; without one, that of the folder or hub id it was loaded from.
        out: a folder to save to, new or empty; `CompressedModel.save` does so later.
        data_root: a local mirror of data sets.
        plugins: files or folders of your own methods.

    Raises:
        KickError: a name, option or folder that is wrong, or a step that cannot serve this model.
        CellFailed: a KickError for what fails on the way, such as NaN in the weights.

    >>> made = compress_model("smoke", {"method": "wanda", "sparsity": "2:4"},
    ...                       calibration={"sequences": 2, "length": 64})
    >>> made.report["steps"][0]["sparsity"]
    0.5
    >>> weight = made.model.get_submodule("model.layers.0.mlp.up_proj").weight
    >>> bool(((weight.reshape(-1, 4) == 0).sum(1) == 2).all())
    True
    """
    from kick.compress import single
    from kick.plugins import load as load_plugins

    load_plugins(_paths("plugins", plugins))
    return single.compress_model(
        fspath(model) if isinstance(model, str | PathLike) else model,
        _recipe(recipe),
        _calibration(calibration),
        tokenizer=tokenizer,
        out=None if out is None else Path(out),
        data_root=data_root,
    )


def results(folder: Folders, *, paired: bool = True) -> DataFrame:
    """The scores under a folder of results as one tidy DataFrame, a row per cell and metric.

    Every score has its 95 % interval and its difference to dense with interval, p and verdict; the columns
    are explained in `kick.analysis.frame`. `frame.attrs["notes"]` holds what a reader must know, such as
    damaged cells that were left out.

    Args:
        folder: of one matrix or of several, or a list of folders; URLs too.
        paired: read the items for intervals of differences and verdicts; False is quicker.

    Raises:
        KickError: the folder is not there or holds no finished cell.

    >>> frame = results("results/smoke")
    >>> sorted(frame["label"].unique())
    ['dense', 'rtn 4-bit', 'wanda 50 %']
    >>> accuracy = frame[frame["metric"] == "acc"].set_index("label")
    >>> low, value, high = accuracy.loc["dense", ["low", "value", "high"]].iloc[0]
    >>> bool(0 <= low <= value <= high <= 1 and low < high)
    True
    """
    from kick.analysis import frame
    from kick.store import opened

    folders = [folder] if isinstance(folder, str | PathLike) else folder
    found = frame.read([opened(fspath(one)) for one in folders], paired=paired)
    found.frame.attrs["notes"] = list(found.notes)
    return found.frame


def compare(folder: FolderOrUrl, a: str, b: str, *, matrix: str | None = None) -> Compared:
    """Compare variant `b` with variant `a` item by item: differences, intervals, and the items that flipped.

    Args:
        folder: of results.
        a, b: variants, by name (wanda-0.5) or by label, as page and tables have it (wanda 50 %).
        matrix: needed only if several matrices in the folder hold both.

    Raises:
        KickError: an unknown variant, with those of similar name; or no task that both have answered.

    >>> found = compare("results/smoke", "dense", "wanda 50 %")
    >>> [task.task for task in found.tasks]
    ['kick_mini_mcq', 'kick_mini_perplexity']
    >>> found.frame()["n"].tolist()
    [2, 2]
    """
    from kick.analysis import compare as analysis_compare
    from kick.store import opened

    return analysis_compare.compare(opened(fspath(folder)), a, b, matrix=matrix)


def _options(given: RunOptions | None, **named: Any) -> RunOptions:
    """The options with what was named beside them; nothing named leaves them as they are."""
    from kick.sweep.run import RunOptions

    if named.get("out") is not None:
        named["out"] = fspath(named["out"])
    for field, name in (("task_folders", "tasks"), ("plugins", "plugins")):
        named[field] = _paths(name, named.pop(name, ())) or None
    return replace(
        given or RunOptions(), **{name: value for name, value in named.items() if value is not None}
    )


def _paths(name: str, given: Sequence[FolderOrUrl]) -> tuple[str, ...]:
    """Paths as text. Raises KickError for one path in place of a list."""
    if isinstance(given, str | PathLike):
        raise KickError(f"{name}: got {fspath(given)!r}; expected a list of paths")
    return tuple(fspath(path) for path in given)


def _called(matrix: Given) -> list[str]:
    """Command that is recorded of a run from Python."""
    name = fspath(matrix) if isinstance(matrix, str | PathLike) else "\n"
    return ["kick.run(...)" if "\n" in name else f"kick.run({name!r})"]


def _recipe(given: Mapping[str, Any] | Step | Sequence[Mapping[str, Any] | Step]) -> list[Step]:
    """The steps of a recipe, defaults written out. Raises KickError for others."""
    from kick import compress

    steps = []
    for place, one in enumerate([given] if isinstance(given, Mapping | Step) else given):
        if isinstance(one, Step):
            steps.append(one)
            continue
        if not isinstance(one, Mapping) or not isinstance(one.get("method"), str):
            raise KickError(f'recipe[{place}]: got {one!r}; expected {{"method": "wanda", "sparsity": 0.5}}')
        options = {name: value for name, value in one.items() if name != "method"}
        try:
            steps.append(compress.canonical(one["method"], options))
        except (ValueError, KeyError, OverflowError) as error:
            raise KickError(f"recipe[{place}]: {error}") from error
    if not steps:
        raise KickError('recipe: got no step; expected [{"method": "wanda", "sparsity": 0.5}]')
    return steps


def _calibration(
    given: str | Mapping[str, Any] | CalibrationSpec | Sequence[Tensor],
) -> CalibrationSpec | Sequence[Tensor]:
    """The calibration of a corpus' name or a mapping; others as they are. Raises KickError."""
    from kick.compress.calibrate.corpus import CORPORA
    from kick.matrix.load import calibration
    from kick.registry import unknown

    if isinstance(given, str):
        given = {"corpus": given}
    if not isinstance(given, Mapping):
        return given
    spec = calibration(given)
    if spec.corpus not in CORPORA:
        raise KickError(unknown("calibration corpus", spec.corpus, CORPORA))
    return spec
