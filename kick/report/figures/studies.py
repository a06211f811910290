"""Studies of one question: calibration size, shots, seeds, a small dense model against a large sparse one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from kick.analysis.headlines import task_info
from kick.report import palette, select, wording
from kick.report.figures import levels, style
from kick.report.figures.entry import figure


def _several(column: str, keys: list[str], what: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Headline rows of what was measured at two or more values of `column`, all else in `keys` equal."""

    def rows(frame: pd.DataFrame) -> pd.DataFrame:
        chosen = select.whole(select.headlines(frame))  # points are compared with each other
        chosen = chosen[chosen[column].notna()]
        counts = chosen.groupby(keys, dropna=False)[column].transform("nunique")
        return select.wanted(chosen[counts > 1], what)

    return rows


def _level(row: Mapping[str, Any]) -> str:
    """Level of compression in words: "50 %", "2:4", "4-bit"."""
    pruned = (
        row["pattern"] if ":" in row["pattern"] else f"{100 * row['sparsity']:g} %" * bool(row["sparsity"])
    )
    bits = "" if math.isnan(row["bits"]) else f"{row['bits']:g}-bit"
    return " ".join(part for part in (pruned, bits) if part)


@figure(
    "calibration_size",
    "Score against the number of calibration sequences",
    _several(
        "sequences",
        ["base", "task", "method", "sparsity", "pattern", "bits", "group_size"],
        "variant calibrated on several numbers of sequences",
    ),
    paper="Fig 7",
    across=True,
)
def calibration_size(rows: pd.DataFrame) -> Figure:
    """One panel per task and level, one line per method, over calibration sequences of all matrices."""
    rows = rows.assign(level=[_level(row) for row in select.records(rows)])
    parts = [part for _, part in rows.groupby(["base", "task", "level"], sort=False)]
    drawn, axes = style.panels(len(parts))
    for ax, part in zip(axes, parts, strict=True):
        _over(ax, part, "sequences", "calibration sequences")
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        first = part.iloc[0]
        style.head(
            ax, f"{task_info(first['task']).title}\n{first['level']}", wording.metric_label(first["metric"])
        )
    style.legend(drawn, select.method_order(rows))
    return drawn


@figure(
    "shots",
    "Score against sparsity by number of shots",
    _several("shots", ["base", "task", "variant"], "task asked with several numbers of shots"),
    paper="Fig 14",
    across=True,
)
def shots(rows: pd.DataFrame) -> Figure:
    """One panel per task and method, one line per number of shots, over sparsity."""
    dense = rows[rows["dense"]]
    parts = [
        (method, pd.concat([dense[(dense["task"] == task) & (dense["base"] == base)], part]))
        for (base, task, method), part in rows[~rows["dense"]].groupby(["base", "task", "method"], sort=False)
    ] or [("dense", part) for _, part in dense.groupby(["base", "task"], sort=False)]
    drawn, axes = style.panels(len(parts))
    for ax, (method, part) in zip(axes, parts, strict=True):
        for number, (count, line) in enumerate(part.groupby("shots")):
            look = palette.numbered(number)
            line = line.sort_values("sparsity")
            values = style.scaled(line, "value")
            ax.plot(
                line["sparsity"] * 100, values, color=look.hex, marker=look.marker, label=f"{count:g}-shot"
            )
        style.percent_axis(ax, list(part["sparsity"] * 100))
        style.head(
            ax,
            f"{task_info(part['task'].iloc[0]).title}\n{method}",
            wording.metric_label(part["metric"].iloc[0]),
        )
    axes[0].legend(fontsize=7)
    return drawn


@figure(
    "seeds",
    "Spread over calibration seeds",
    _several(
        "seed",
        ["matrix", "base", "task", "setting", "recipe", "training_seed"],
        "recipe with several calibration seeds",
    ),
)
def seeds(rows: pd.DataFrame) -> Figure:
    """Each seed's score as a dot, its item interval as a thin whisker: how much of the spread is items."""
    tasks = select.tasks(rows)
    drawn, axes = style.panels(len(tasks))
    for ax, task in zip(axes, tasks, strict=True):
        part = select.of_task(rows, task)
        trainings = part["training_seed"].map("{:g}".format)  # "nan" without a training
        part = part.assign(recipe=part["recipe"] + " " + trainings)  # a column per training
        recipes = list(dict.fromkeys(part["recipe"]))
        names = part.drop_duplicates("recipe")["label"].str.replace(r", seed \d+$", "", regex=True)
        for number, name in enumerate(recipes):
            one = part[part["recipe"] == name]
            at = number + np.linspace(-0.2, 0.2, len(one))
            look = palette.method_look(one["method"].iloc[0])
            ax.plot(at, style.scaled(one, "value"), look.marker, color=look.hex)
            ax.vlines(at, style.scaled(one, "low"), style.scaled(one, "high"), color=look.hex, linewidth=0.6)
        ax.set_xticks(range(len(recipes)), names, rotation=0 if len(recipes) < 3 else 30)
        ax.set_xlim(-0.6, len(recipes) - 0.4)
        style.head(ax, wording.task_label(part.iloc[0]), wording.metric_label(part["metric"].iloc[0]))
    return drawn


def _over(axes: Axes, rows: pd.DataFrame, column: str, text: str) -> None:
    """One line per method over `column`."""
    for name in select.method_order(rows):
        part, look = rows[rows["method"] == name].sort_values(column), palette.method_look(name)
        values = style.scaled(part, "value")
        axes.plot(part[column], values, color=look.hex, marker=look.marker, linestyle=look.line)
        low, high = style.scaled(part, "low"), style.scaled(part, "high")
        axes.fill_between(part[column], low, high, color=look.hex, alpha=0.13, linewidth=0)
    axes.set_xlabel(text)


def _sizes(frame: pd.DataFrame) -> pd.DataFrame:
    """Unstructured rows of several base models with known sizes: the parameters that are left of each."""
    rows = select.level(select.whole(select.headlines(frame)), "sparsity")
    rows = rows[rows["parameters"].notna()]
    rows = rows.assign(left=rows["parameters"] * (1 - rows["sparsity"]))
    models = rows.groupby("task")["base"].transform("nunique")
    return select.wanted(rows[models > 1], "task measured on base models of two sizes")


@figure("small_dense_large_sparse", "Small dense against large sparse", _sizes, paper="Sec 4", across=True)
def small_dense_large_sparse(rows: pd.DataFrame) -> Figure:
    """Score against parameters that are left: a dense model is a large mark, its pruned versions a line."""
    tasks = list(dict.fromkeys(rows["task"]))
    drawn, axes = style.panels(len(tasks))
    bases = list(dict.fromkeys(rows["base"]))
    for ax, task in zip(axes, tasks, strict=True):
        part = rows[rows["task"] == task]
        for (base, method), line in part[~part["dense"]].groupby(["base", "method"], sort=False):
            start = part[part["dense"] & (part["base"] == base)]
            line = pd.concat([start, line]).sort_values("left")
            look = palette.method_look(method)
            mark = "-" if bases.index(base) == 0 else "--"
            ax.plot(line["left"] / 1e6, style.scaled(line, "value"), mark, color=look.hex, marker=look.marker)
        for _, dense in part[part["dense"]].iterrows():
            value = dense["value"] * wording.UNITS[dense["unit"]][0]
            ax.plot(dense["left"] / 1e6, value, "*", color=style.INK, markersize=9)
            ax.annotate(
                dense["base"], (dense["left"] / 1e6, value), (4, 4), textcoords="offset points", fontsize=7
            )
        ax.set_xlabel("parameters left (millions)")
        style.head(ax, part["title"].iloc[0], wording.metric_label(part["metric"].iloc[0]))
    style.legend(drawn, select.method_order(rows[~rows["dense"]]))
    return drawn


# ---------------------------------------------------------------------------------------- divergence


def _divergence(frame: pd.DataFrame) -> pd.DataFrame:
    rows = select.family(frame[(frame["group"] == "") & (frame["replica"] == "")], "fidelity")
    rows = rows[rows["metric"].isin(["fdt", "sdt", "kl_mean", "agreement"])]
    return levels.leveled(rows, "fidelity variant")


@figure("divergence", "Divergence from the dense model", _divergence, paper="DTM")
def divergence(rows: pd.DataFrame) -> Figure:
    """FDT, SDT, agreement and KL against sparsity, N:M pattern and bits."""
    names = [name for name in ("fdt", "sdt", "agreement", "kl_mean") if (rows["metric"] == name).any()]
    return levels.three_ways(rows, [("divergence", rows[rows["metric"] == name]) for name in names])


COMPONENT_ORDER = ("q_proj", "k_proj", "v_proj", "c_attn", "o_proj", "gate_proj", "up_proj", "down_proj")


def _components(frame: pd.DataFrame) -> pd.DataFrame:
    """FDT of the variants that change one matrix; if a block has two of one name, by path."""
    rows = frame[(frame["metric"] == "fdt") & (frame["group"] == "") & (frame["component"] != "")]
    rows = select.wanted(rows, "variant that changes one component of one layer")
    if rows.duplicated(["layer", "component", "method", "sparsity"], keep=False).any():
        path = rows["variant"].str.extract(r"only=\D*\d+\.(\S+)")[0]
        rows = rows.assign(component=path.fillna(rows["component"]))
    return rows.sort_values("layer", kind="stable")


@figure("components", "First divergent token by layer and component", _components, paper="DTM")
def components(rows: pd.DataFrame) -> Figure:
    """A heat map: one weight matrix compressed at a time; darker is an earlier divergence.

    The scale ends at the dense model's own value, at which nothing diverges.
    """
    place = {name: number for number, name in enumerate(COMPONENT_ORDER)}
    names = sorted(
        set(rows["component"]), key=lambda name: (place.get(name.split(".")[-1], len(place)), name)
    )
    table = rows.pivot_table(index="component", columns="layer", values="value", sort=False).loc[names]
    table = table[sorted(table.columns)]
    width = 1.6 + 0.21 * table.shape[1]
    drawn = Figure(figsize=(max(4.0, width), 1.1 + 0.26 * len(names)), layout="constrained")
    ax = drawn.subplots()
    top = np.nanmax(rows[["value", "dense_value"]].to_numpy(float))
    image = ax.imshow(table.to_numpy(), cmap="cividis", aspect="auto", vmin=0, vmax=top)
    ax.set_yticks(range(len(names)), names)
    ax.set_xticks(range(table.shape[1]), [f"{layer:g}" for layer in table.columns], fontsize=6)
    ax.set_xlabel("layer")
    ax.grid(visible=False)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    first = rows.iloc[0]
    level = f" {100 * first['sparsity']:g} %" if first["sparsity"] > 0 else ""
    ax.set_title(f"{first['method']}{level}: mean first divergent token, {first['n']:g} prompts")
    drawn.colorbar(image, ax=ax, label="tokens (top: no divergence)", pad=0.01)
    return drawn
