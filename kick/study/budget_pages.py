"""What a budget study found: budget.csv, budget.md, and losses by tokens as budget.png and .pdf."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from kick.report import wording
from kick.report.figures import style
from kick.study.budget import BudgetFound, RecipeArm
from kick.study.pages import StudyTable


def write(found: BudgetFound, folder: Path) -> tuple[StudyTable, list[Path]]:
    """Write the study's files; its table and the files."""
    folder.mkdir(parents=True, exist_ok=True)
    data, page = folder / "budget.csv", folder / "budget.md"
    rows = [
        {
            "method": one.arm.method, "share": one.arm.share, "rank": one.arm.rank, "tokens": one.tokens,
            "loss": one.loss, "packed_bytes": one.size, "cpu_seconds": one.seconds,
        }
        for one in found.trials
    ]  # fmt: skip
    data.write_text(wording.csv(pd.DataFrame(rows)), encoding="utf-8")
    made = table(found)
    page.write_text("\n\n".join(_page(found, made)) + "\n", encoding="utf-8")
    drawn = [folder / "budget.png", folder / "budget.pdf"]
    with mpl.rc_context(style.settings()):
        figure = draw(found)
        for file in drawn:
            figure.savefig(file)
    return made, [data, page, *drawn]


def table(found: BudgetFound) -> StudyTable:
    """A row per arm that fits: its size, and its loss by tokens of training; the best one's first."""
    tokens = sorted({one.tokens for one in found.trials})
    losses = {(one.arm, one.tokens): one.loss for one in found.trials}
    sizes = {(one.arm.method, one.arm.share): one.size for one in found.trials if not one.tokens}
    heads = ("recipe", "rank", "packed (MB)", *(f"{one:,} tokens" for one in tokens))
    order = sorted(found.fitting, key=lambda arm: arm != found.best.arm)
    rows = [
        [
            f"{arm.method} {arm.share:g}",
            str(arm.rank),
            f"{sizes[arm.method, arm.share] / 1e6:.1f}",
            *(_loss(losses, arm, one) for one in tokens),
        ]
        for arm in order
    ]
    return StudyTable(heads, rows)


def _loss(losses: dict[tuple[RecipeArm, int], float | None], arm: RecipeArm, tokens: int) -> str:
    if not tokens:  # without training the rank does not matter
        arm = RecipeArm(arm.method, arm.share, 0)
    if (arm, tokens) not in losses:
        return wording.NOTHING
    loss = losses[arm, tokens]
    return "not finite" if loss is None else wording.number(loss, "nats")


def _name(arm: RecipeArm) -> str:
    return f"{arm.method} {arm.share:g}, rank {arm.rank}"


def told(found: BudgetFound) -> str:
    """The best recipe as a variant of a matrix, and how it was found."""
    options, best = found.options, found.best
    recipe = json.dumps({"recipe": best.arm.entries(options, best.units)})
    spent = sum(one.seconds for one in found.trials) / 60
    said = (
        f"Best within {options.memory / 1e6:g} MB: {_name(best.arm)}: "
        f"{best.loss:.3f} nats per token on held-out text of {options.corpus}, after {best.units:,} tokens."
    )
    if not best.whole:
        said += " The time was over before the last rung: this is the best of the rung before."
    if found.regret is not None:
        said += (
            f" Every arm was tried with {best.units:,} tokens: the choice is {found.regret:.3f} nats "
            "above the best of them."
        )
    return f"{said} CPU minutes of all trials: {spent:.1f}.\nA variant of a matrix: {recipe}"


def _page(found: BudgetFound, made: StudyTable) -> Iterator[str]:
    options = found.options
    yield (
        f"# The best recipe of {options.model} for {options.memory / 1e6:g} MB in {options.minutes:g} minutes"
    )
    sentence, _, recipe = told(found).partition("\n")
    yield sentence
    yield f"`{recipe}`"
    yield "![loss on held-out text by tokens of training](budget.png)"
    rungs = "; ".join(f"{one.arms} arms with {one.units:,} tokens" for one in found.rungs)
    yield (
        f"Successive halving, one arm in {options.keep} kept: {rungs}. Losses are nats per token on "
        f"{options.windows} windows of {options.length} tokens that were not trained on. The bandit chose by "
        "them too, so that the loss of its choice is a little too low; differences of the size of a seed's "
        "are not told apart. Size is of the packed model, as `kick advise --packed` counts it. Minutes are "
        "of the processor, the sizes' and a first short training among them, the grid's apart."
    )
    yield made.markdown()


def draw(found: BudgetFound) -> Figure:
    """Losses of the arms by tokens of training, on a logarithmic axis; the chosen one in colour."""
    figure, (ax, *_) = style.panels(1)
    for arm in sorted(found.fitting, key=lambda one: one == found.best.arm):
        part = sorted(
            (one.tokens, one.loss)
            for one in found.trials
            if one.arm == arm and one.tokens and one.loss is not None
        )
        chosen = arm == found.best.arm
        ax.plot(
            [tokens for tokens, _ in part], [loss for _, loss in part], "o-", markersize=3, linewidth=1,
            color=style.BLUE if chosen else style.QUIET, label=_name(arm),
            zorder=3 if chosen else 2,
        )  # fmt: skip
    ax.set_xscale("log")
    ax.set_xlabel("tokens of training")
    style.head(ax, f"chosen: {_name(found.best.arm)}", "nats")
    return figure
