"""What a recovery study found: recovery.csv, recovery.md, and the curves as recovery.png and .pdf."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kick.report import wording
from kick.report.figures import style
from kick.store import Store
from kick.study import recovery
from kick.study.pages import StudyTable
from kick.study.recovery import BudgetPoint, RecoveryOptions


def write(options: RecoveryOptions, store: Store, folder: Path) -> tuple[StudyTable, list[Path]]:
    """Write the study's files; its table and the files. Raises KickError if it has no recovered cell."""
    found, dense = recovery.read(store)
    data, page = folder / "recovery.csv", folder / "recovery.md"
    data.write_text(wording.csv(pd.DataFrame([asdict(one) for one in found])), encoding="utf-8")
    made = table(found)
    page.write_text("\n\n".join(_page(options, found, made)) + "\n", encoding="utf-8")
    drawn = [folder / "recovery.png", folder / "recovery.pdf"]
    with mpl.rc_context(style.settings()):
        figure = draw(found, dense)
        for file in drawn:
            figure.savefig(file)
    return made, [data, page, *drawn]


def table(found: Sequence[BudgetPoint]) -> StudyTable:
    """A row per task, budget and seed."""
    heads = (
        "task",
        "tokens",
        "seed",
        "pruned",
        "recovered",
        "dense trained",
        "brought back (%)",
        "interval",
        "n",
        "learning rate",
        "held out",
    )
    rows = [
        [
            f"{one.task}: {wording.metric_label(one.title)}",
            f"{one.tokens:,}",
            str(one.seed),
            *(wording.number(value, one.unit) for value in (one.pruned, one.value, one.trained_dense)),
            wording.number(one.share, "share"),
            wording.NOTHING
            if math.isnan(one.share_low)
            else wording.span(one.share_low, one.share_high, "share"),
            str(one.n),
            f"{one.lr:g}",
            f"{one.heldout:.3f}",
        ]
        for one in found
    ]
    return StudyTable(heads, rows)


def _page(options: RecoveryOptions, found: Sequence[BudgetPoint], made: StudyTable) -> Iterator[str]:
    steps = " + ".join(f"{step.method}" for step in options.steps)
    yield f"# What training brings back: {options.model}, {steps}, {options.form}"
    yield (
        f"Trained on {found[0].tokens:,} to {max(one.tokens for one in found):,} tokens, each budget a "
        "training of its own. Brought back: (recovered - pruned) / (dense with the same training - pruned), "
        "with a 95 % interval over the items that all three were asked; none of fewer than ten items, and "
        "none where pruning is not shown to take anything. Without training the share is 0 by definition. "
        "The interval is of items: only several seeds show the noise of training. Held out: nats per token, "
        "after the recovered model's training, of text that was not trained on; with `--search` it chose the "
        "learning rate."
    )
    yield "![scores and the share brought back by tokens of training](recovery.png)"
    yield made.markdown()


def draw(found: Sequence[BudgetPoint], dense: dict[tuple[str, str], float]) -> Figure:
    """Per task a panel of scores and one of the share brought back, tokens on a logarithmic axis."""
    tasks = list(dict.fromkeys(one.task for one in found))
    figure, axes = style.panels(2 * len(tasks))
    for place, task in enumerate(tasks):
        part = [one for one in found if one.task == task]
        _scores(axes[2 * place], part, dense.get((task, part[0].title)))
        _shares(axes[2 * place + 1], part)
    return figure


def _tokens(ax: Axes, part: Sequence[BudgetPoint]) -> list[int]:
    budgets = sorted({one.tokens for one in part})
    ax.set_xscale("log")
    ax.set_xticks(budgets, [f"{one:,}" for one in budgets])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("tokens of training")
    return budgets


def _scores(ax: Axes, part: Sequence[BudgetPoint], dense: float | None) -> None:
    factor, _, unit = wording.UNITS[part[0].unit]
    _tokens(ax, part)
    at = [one.tokens for one in part]
    value, low, high = (
        np.array([getattr(one, name) for one in part]) * factor for name in ("value", "low", "high")
    )
    ax.errorbar(
        at, value, [value - low, high - value], fmt="o-", color=style.BLUE, markersize=3, linewidth=1,
        label="recovered",
    )  # fmt: skip
    ax.plot(
        at, [one.trained_dense * factor for one in part], "s--", color=style.ORANGE, markersize=3,
        linewidth=1,
        label="dense, trained alike",
    )  # fmt: skip
    ax.axhline(part[0].pruned * factor, color=style.INK, linestyle=":", linewidth=0.8, label="pruned")
    if dense is not None:
        ax.axhline(dense * factor, color=style.INK, linestyle=(0, (4, 2)), linewidth=0.8, label="dense")
    style.head(ax, part[0].task, unit or wording.metric_label(part[0].title))
    style.log_if_wide(ax, pd.Series([*value, part[0].pruned * factor]), part[0].unit)
    ax.legend(fontsize=5, frameon=False)


def _shares(ax: Axes, part: Sequence[BudgetPoint]) -> None:
    _tokens(ax, part)
    for one in part:
        if not math.isnan(one.share_low):
            ax.plot(
                [one.tokens] * 2, [100 * one.share_low, 100 * one.share_high], color=style.BLUE, linewidth=1
            )
    ax.plot(
        [one.tokens for one in part], [100 * one.share for one in part], "o-", color=style.BLUE, markersize=3
    )
    for level in (0, 100):
        ax.axhline(level, color=style.INK, linestyle=":", linewidth=0.8)
    style.head(ax, f"{part[0].task}\nn = {part[0].n}", "brought back (%)")
