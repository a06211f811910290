"""What a search found: formulas.csv, search.md, and the losses over the budget as search.png and .pdf."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kick.analysis import items
from kick.compress.formula import Formula, parse
from kick.compress.methods.pruner_zero import PUBLISHED
from kick.errors import KickError
from kick.report import wording
from kick.report.figures import style
from kick.stats import metrics
from kick.store import Store
from kick.study.genetics import DEEP, SHALLOW, ranking
from kick.study.pages import StudyTable
from kick.study.search import KNOWN, SearchStudy, Tried, best

SHOWN = 10  # formulas in the table
PERPLEXITY = metrics.describe("perplexity")


@dataclass(frozen=True)
class FoundFormula:
    """Perplexities of dense, of the published formula and of the one found, with the paired difference
    found - published, its interval, its p, and what that says."""

    dense: float
    published: float
    found: float
    gap: float
    low: float
    high: float
    p: float
    n: int
    units: int

    @property
    def verdict(self) -> str:
        """In words; a difference counts if its interval leaves out 0 and p is below 5 %."""
        if self.p < 0.05 and not self.low <= 0 <= self.high:
            return "found is better" if self.gap < 0 else "found is worse"
        return "inside the noise"


def write(
    study: SearchStudy, tried: Sequence[Tried], known: Mapping[str, float | None], store: Store, folder: Path
) -> tuple[list[StudyTable], list[Path]]:
    """Write the search's files; its tables, the comparison last, and the files."""
    made = best(tried)
    compared = compare(study, made.formula, store)
    tables = [_losses(tried, known), _comparison(compared)]
    data, page = folder / "formulas.csv", folder / "search.md"
    rows = [{"number": one.number, "formula": str(one.formula), "loss": one.loss} for one in tried]
    data.write_text(wording.csv(pd.DataFrame(rows)), encoding="utf-8")
    page.write_text("\n\n".join(_page(study, tried, compared, tables)) + "\n", encoding="utf-8")
    drawn = [folder / "search.png", folder / "search.pdf"]
    with mpl.rc_context(style.settings()):
        figure = draw(tried, known)
        for file in drawn:
            figure.savefig(file)
    return tables, [data, page, *drawn]


def compare(study: SearchStudy, found: Formula, store: Store) -> FoundFormula:
    """The stored cells of the comparison. Raises KickError if one is missing."""
    dense, published, mine = (_items(store, study.cell(one).key) for one in (None, parse(PUBLISHED), found))
    gap = items.difference(published, mine, PERPLEXITY, dense=False)
    if gap is None:
        raise KickError(f"{study.task.name}: its items have no {PERPLEXITY.column}; `kick rescore` adds it")
    before, known, new = (items.aggregate(one, PERPLEXITY) for one in (dense, published, mine))
    scored = items.score(mine, PERPLEXITY)
    size = int(scored["n"]), int(scored["units"])
    return FoundFormula(before, known, new, gap.gap, gap.low, gap.high, gap.p, *size)


def _items(store: Store, key: str) -> items.Items:
    ids, groups, columns = store.arrays(key)
    return items.Items(tuple(ids), tuple(groups), columns)


def _losses(tried: Sequence[Tried], known: Mapping[str, float | None]) -> StudyTable:
    """The best formulas and the known ones, by their perplexity on the fitness text."""
    finite = sorted((one for one in tried if one.loss is not None), key=lambda one: (one.loss, one.number))
    rows = [(one.loss, f"`{one.formula}`", str(one.number + 1)) for one in finite[:SHOWN]]
    rows += [(loss, f"{name}: `{KNOWN[name]}`", "known") for name, loss in known.items() if name in KNOWN]
    ordered = sorted(rows, key=lambda row: math.inf if row[0] is None else row[0])
    return StudyTable(
        ("formula", "measured as", "perplexity on the fitness text"),
        [[text, place, _perplexity(loss)] for loss, text, place in ordered],
    )


def _perplexity(loss: float | None) -> str:
    return wording.number(math.nan if loss is None else math.exp(min(loss, 700.0)), "ratio")


def _comparison(one: FoundFormula) -> StudyTable:
    values = [wording.number(value, "ratio") for value in (one.dense, one.published, one.found)]
    span = wording.signed_span(one.low, one.high, "ratio")
    gap = f"{wording.number(one.gap, 'ratio', signed=True)} ({span})"
    heads = ("n", "dense", "published", "found", "found - published", "p", "")
    return StudyTable(heads, [[str(one.n), *values, gap, wording.p_value(one.p), one.verdict]])


def _page(
    study: SearchStudy, tried: Sequence[Tried], compared: FoundFormula, tables: Sequence[StudyTable]
) -> Iterator[str]:
    options, how, made = study.options, study.options.breeding, best(tried)
    spec = options.calibration
    yield f"# A search for a saliency: {study.model.name} at {options.sparsity}"
    if study.model.name in wording.MODELS:
        yield wording.MODELS[study.model.name]
    broken = sum(one.loss is None for one in tried)
    yield (
        f"{len(tried)} formulas of Pruner-Zero's space were measured (seed {how.seed}, population "
        f"{how.population}, first trees {SHALLOW} to {DEEP} deep); {broken} gave no finite saliency or loss. "
        f"Fitness is the loss of this model pruned by the formula, on {options.text} sequences of "
        f"{spec.length} tokens of `{spec.corpus}`, which the comparison does not ask; gradients and inputs "
        f"come from {spec.sequences} other sequences of it. Formulas that rank alike are measured once."
    )
    yield "![losses over the budget](search.png)"
    yield f"## Found: `{made.formula}`"
    same = ranking(made.formula) == ranking(parse(PUBLISHED))
    yield (
        "It ranks weights as the published formula does."
        if same
        else f'As a method: `pruner-zero` with `formula: "{made.formula}"`.'
    )
    yield (
        f"Compared with the published formula on `{study.task.name}`, pruned as `kick run` prunes. The "
        f"difference is paired over {compared.n} windows of {compared.units} documents; it counts if its "
        "95 % interval leaves out 0 and its p is below 5 %. A formula that is best of many on one text is "
        "flattered by that text: this is the number to believe."
    )
    yield tables[1].markdown()
    yield "## The best formulas on the fitness text"
    yield tables[0].markdown()


def draw(tried: Sequence[Tried], known: Mapping[str, float | None]) -> Figure:
    """Each formula's perplexity on the fitness text in the order measured, the best so far as a line."""
    figure = Figure(figsize=(5.2, 2.9), layout="constrained")
    ax = figure.subplots()
    losses = np.array([np.nan if one.loss is None else one.loss for one in tried])
    at = np.arange(1, len(tried) + 1)
    shown = np.exp(np.minimum(losses, 700.0))
    ax.plot(at, shown, "o", color=style.SKY, markersize=3, label="a formula")
    ax.plot(at, np.fmin.accumulate(shown), "-", color=style.BLUE, label="best so far")
    for (name, loss), look in zip(known.items(), ((0, (1, 1)), (0, (4, 2)), "-.", ":"), strict=False):
        if loss is not None:
            ax.axhline(math.exp(min(loss, 700.0)), color=style.INK, linestyle=look, linewidth=0.8, label=name)
    ax.set_yscale("log")
    ax.set_xlabel("formulas measured")
    ax.set_ylabel("perplexity on the fitness text")
    style.key(figure, ax.get_legend_handles_labels()[0])
    return figure
