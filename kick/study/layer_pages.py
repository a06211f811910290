"""What a layer study found: layers.csv, metrics.csv, layers.md, and the curves as layers.png and .pdf."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from kick.study import harm, layers
from kick.study.harm import Correlation, Measure
from kick.study.layers import LayerStudy
from kick.study.pages import StudyTable


def write(study: LayerStudy, store: Store, folder: Path) -> tuple[list[StudyTable], list[Path]]:
    """Write the study's files; its tables, the correlations first, and the files.

    Raises KickError if a cell of the study is missing.
    """
    predictors, measures = layers.measured(study), harm.read(study, store)
    curves, found = harm.curves(measures), harm.correlations(predictors, measures)
    data, ranks, page = (folder / name for name in ("layers.csv", "metrics.csv", "layers.md"))
    data.write_text(wording.csv(_wide(curves, predictors)), encoding="utf-8")
    ranks.write_text(wording.csv(pd.DataFrame([asdict(one) for one in found])), encoding="utf-8")
    tables = [ranked(found, measures), blocks(curves, measures)]
    page.write_text("\n\n".join(_page(study, measures, curves, tables)) + "\n", encoding="utf-8")
    drawn = [folder / "layers.png", folder / "layers.pdf"]
    with mpl.rc_context(style.settings()):
        figure = draw(curves, predictors, found, measures)
        for file in drawn:
            figure.savefig(file)
    return tables, [data, ranks, page, *drawn]


def _wide(curves: pd.DataFrame, predictors: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """A row a block and measure, with the block's metrics."""
    own = pd.DataFrame(predictors)
    return curves.merge(own, left_on="block", right_index=True)


# ---------------------------------------------------------------------------------------------- tables


def title(one: Measure) -> str:
    """A measure for readers: "perplexity", "FDT", "kick_mini_mcq: accuracy"."""
    label = wording.metric_label(one.metric.name)
    return label if one.name == one.metric.name else f"{one.task}: {label}"


def blocks(curves: pd.DataFrame, measures: Sequence[Measure]) -> StudyTable:
    """A row a block: the value of each measure with its interval, dense last."""
    heads = ("without block", *map(title, measures))
    rows = []
    for block in range(int(curves["block"].max()) + 1):
        cells = []
        for one in measures:
            (row,) = curves[(curves["block"] == block) & (curves["measure"] == one.name)].to_dict("records")
            unit = one.metric.unit
            cells.append(
                f"{wording.number(row['value'], unit)} ({wording.span(row['low'], row['high'], unit)})"
            )
        rows.append([str(block), *cells])
    dense = [
        wording.number(float(curves[curves["measure"] == one.name]["dense"].iloc[0]), one.metric.unit)
        for one in measures
    ]
    return StudyTable(heads, [*rows, ["none (dense)", *dense]])


def ranked(found: Sequence[Correlation], measures: Sequence[Measure]) -> StudyTable:
    """A row a metric: its rank correlation with the harm by each measure, the best by the first one first."""
    heads = ("metric", *(f"rank correlation with {title(one)}" for one in measures))
    by = {(one.predictor, one.measure): one for one in found}
    names = sorted(
        dict.fromkeys(one.predictor for one in found),
        key=lambda name: -np.nan_to_num(by[name, measures[0].name].rho, nan=-2.0),
    )
    rows = [[name, *(_rho(by[name, one.name]) for one in measures)] for name in names]
    return StudyTable(heads, rows)


def _rho(one: Correlation) -> str:
    span = wording.signed_span(one.low, one.high, "ratio")
    return f"{wording.number(one.rho, 'ratio', signed=True)} ({span})"


# ---------------------------------------------------------------------------------------------- page


def _page(
    study: LayerStudy, measures: Sequence[Measure], curves: pd.DataFrame, tables: Sequence[StudyTable]
) -> Iterator[str]:
    name, spec = study.model.name, study.options.calibration
    yield f"# Layers of {name}: each of {study.blocks} blocks dropped alone"
    if name in wording.MODELS:
        yield wording.MODELS[name]
    asked = "; ".join(
        f"{title(one)}: n = {len(one.dense.ids)}" for one in measures if one.metric.name != "kl_mean"
    )
    yield (
        "FDT is the first divergent token of the dense model's own continuation, so early means harm. "
        f"{asked}. Values have 95 % intervals over items (perplexity: over documents)."
    )
    yield "![what each block's loss does, and the metrics of each block](layers.png)"
    yield "## Which metric predicts the harm"
    yield (
        "Spearman's correlation over blocks of each metric with the harm by each measure; +1: the metric "
        "ranks the blocks as the harm does. In parentheses the range of 95 % of resampled items: how far "
        "the harm's own noise moves it. It says nothing of other models: the blocks are all that there "
        f"are. Unrelated ranks of {study.blocks} blocks come within ±{harm.chance(study.blocks):.2f} in "
        f"95 % of cases. Metrics saw {spec.sequences} sequences of {spec.length} tokens of "
        f"`{spec.corpus}`, which no task asks; `kick/study/blockmetrics.py` says what each is. Perplexity "
        "as a metric is the model's without the block, on that text."
    )
    yield tables[0].markdown()
    yield "## Without each block"
    yield _extremes(curves, measures)
    yield tables[1].markdown()


def _extremes(curves: pd.DataFrame, measures: Sequence[Measure]) -> str:
    said = []
    for one in measures:
        part = curves[curves["measure"] == one.name].sort_values("harm", ascending=False)
        shown = part[(part["gap_low"] > 0) | (part["gap_high"] < 0)]
        most, least = int(part["block"].iloc[0]), int(part["block"].iloc[-1])
        said.append(
            f"By {title(one)}, block {most} is missed most and block {least} least; the interval of the "
            f"difference to dense leaves out 0 for {len(shown)} of {len(part)} blocks."
        )
    return " ".join(said)


# ---------------------------------------------------------------------------------------------- figure


def draw(
    curves: pd.DataFrame,
    predictors: Mapping[str, Sequence[float]],
    found: Sequence[Correlation],
    measures: Sequence[Measure],
) -> Figure:
    """A panel per measure, its interval a band and dense a dashed line; then a panel per metric."""
    figure, axes = style.panels(len(measures) + len(predictors))
    for ax, one in zip(axes, measures, strict=False):
        _curve(ax, curves[curves["measure"] == one.name], one)
    first = {one.predictor: one for one in found if one.measure == measures[0].name}
    for ax, (name, values) in zip(axes[len(measures) :], predictors.items(), strict=True):
        ax.plot(range(len(values)), values, "o-", color=style.ORANGE, markersize=2.5, linewidth=1)
        rho = wording.number(first[name].rho, "ratio", signed=True)
        style.head(ax, f"metric: {name}\nrank correlation {rho}")
        style.log_if_wide(ax, pd.Series(values), "ratio" if name == "perplexity" else "")
        ax.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4)) if ax.get_yscale() == "linear" else None
        ax.set_xlabel("block")
    return figure


def _curve(ax: Axes, rows: pd.DataFrame, one: Measure) -> None:
    factor, _, unit = wording.UNITS[one.metric.unit]
    at, value, low, high = (
        rows[name].to_numpy(float) * (1 if name == "block" else factor)
        for name in ("block", "value", "low", "high")
    )
    ax.plot(at, value, "o-", color=style.BLUE, markersize=2.5, linewidth=1)
    ax.fill_between(at, low, high, color=style.BLUE, alpha=0.2, linewidth=0)
    dense = float(rows["dense"].iloc[0]) * factor
    if np.isfinite(dense):
        ax.axhline(dense, color=style.INK, linestyle=(0, (4, 2)), linewidth=0.8)
    style.head(ax, f"without the block\n{title(one)}", unit or wording.metric_label(one.metric.name))
    style.log_if_wide(ax, pd.Series([*value, dense]), one.metric.unit)
    ax.set_xlabel("block")
