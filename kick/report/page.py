"""Contents of the page, as records for the template: sections, rows, charts, answers, provenance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from kick.analysis import pairs, ranking, traits
from kick.analysis.agreement import Agreement, Flattered, agreement
from kick.analysis.cells import StoredCell, steps_of
from kick.analysis.doubts import signs
from kick.analysis.frame import Results
from kick.catalog import Facts
from kick.printable import counted, plain
from kick.report import answers, charts, select, side_by_side, tables, tradeoff, wording
from kick.report.origins import provenance
from kick.report.table_view import Column, Size, VariantLine, column, lines, score_cell
from kick.report.unasked import Unasked, unasked
from kick.stats import metrics

__all__ = ["PageView", "Section", "Size", "TaskPart", "view"]


@dataclass(frozen=True)
class TaskPart:
    """A task beyond its headline: its chart, the answers to a few items, and of whom they are."""

    title: str
    chart: Markup | None
    examples: tuple[answers.Example, ...]
    note: str


@dataclass(frozen=True)
class Section:
    """A matrix on a base model: its table, its charts, and all its metrics as data for the script."""

    title: str
    note: str
    columns: tuple[Column, ...]
    lines: tuple[VariantLine, ...]
    ranked: str
    tradeoffs: tuple[tradeoff.Tradeoff, ...]
    agreement: tuple[Agreement, ...]
    flattered: tuple[Flattered, ...]
    tasks: tuple[TaskPart, ...]
    methods: tuple[tuple[str, Markup], ...]
    hides: Markup | None
    hides_legend: tuple[tuple[str, Markup], ...]
    hidden: tuple[str, ...]
    margin: str
    unasked: Unasked | None
    books: tuple[tuple[str, ...], ...]
    seeds: tables.Table | None
    costs: tables.Table | None
    run_time: tables.Table | None
    recovered: tables.Table | None
    recovered_form: tables.Table | None
    training: tables.Table | None
    calibration_cost: tables.Table | None
    data: Mapping[str, Any]
    pair: str  # what the page holds of the items, "" if none is right or wrong


@dataclass(frozen=True)
class PageView:
    """The whole page."""

    title: str
    summary: str
    margin: str
    notes: tuple[str, ...]
    sections: tuple[Section, ...]
    methods: tuple[tuple[str, str], ...]
    metrics: tuple[tuple[str, str], ...]
    sources: tuple[str, ...]
    provenance: tuple[tuple[str, tuple[str, ...]], ...]


def view(report: Results, *, title: str | None, notes: Sequence[str], examples: int) -> PageView:
    """The page of a report."""
    frame = report.frame
    models = list(dict.fromkeys(frame["base"]))
    said = [wording.MODELS[name] for name in models if name in wording.MODELS]
    matrices = list(dict.fromkeys(frame["matrix"]))
    used = [name for name in dict.fromkeys(frame["metric"]) if name in metrics.known]
    room = side_by_side.Room(side_by_side.ROOM)
    return PageView(
        title=title or f"What compression does to {', '.join(models)}",
        summary=_summary(frame, matrices),
        margin=" or ".join(dict.fromkeys(wording.percent(one) for one in sorted(frame["margin"].dropna()))),
        notes=(*said, *notes, *signs(report.cells), *report.notes),
        sections=tuple(_section(name, part, report, examples, room) for name, part in select.sections(frame)),
        methods=tuple(_methods(report.cells)),
        metrics=tuple((metrics.known[name].label, metrics.known[name].description) for name in used),
        sources=wording.PROTOCOL_SOURCES,
        provenance=provenance(report),
    )


def _methods(cells: Iterable[StoredCell]) -> Iterable[tuple[str, str]]:
    """(name, title and source) of the methods that these results say more of than a name, in table order."""
    known: dict[str, Facts] = {}
    for cell in cells:
        known |= traits.facts(cell.variant, steps_of(cell.run))
    for facts in sorted(known.values(), key=lambda facts: (facts.order, facts.name)):
        if facts.kind:
            yield plain(facts.name), plain(": ".join(filter(None, (facts.title, facts.paper))))


def _summary(frame: pd.DataFrame, matrices: Sequence[str]) -> str:
    rows = select.headlines(frame)
    variants = rows[~rows["dense"]][[*select.SECTION, "variant"]].drop_duplicates()
    words = Counter(wording.verdict(row) for row in select.records(rows[~rows["dense"]]))
    matching, worse = words["matching"], words["worse"]
    tested = int((rows[~rows["dense"]]["verdict"] != "").sum())
    ended = int((rows["stopped"] != "").sum())
    early = f" {counted(ended, 'cell')} ended before all items were asked." if ended else ""
    return (
        f"{counted(len(variants), 'variant')} on {counted(len(select.tasks(rows)), 'task')} "
        f"(matrix {', '.join(matrices)}). Of "
        f"{tested} comparisons with the dense model {matching} are shown to match it, {worse} to be worse."
        + early
    )


# ---------------------------------------------------------------------------------------- a section


def _section(
    name: str, frame: pd.DataFrame, report: Results, examples: int, room: side_by_side.Room
) -> Section:
    rows = select.headlines(frame, replicas=True)
    tasks = select.tasks(rows)
    columns = [select.of_task(rows, task) for task in tasks]
    matrix = rows["matrix"].iloc[0]
    cells = {cell.run.key: cell for cell in report.cells if plain(cell.run.matrix) == matrix}
    hidden, chart, legend = _hides(frame)
    ranks = {} if rows["base"].iloc[0] in wording.UNRANKED else ranking.ranks(frame)
    agreed, flattered = agreement(frame)
    pair = side_by_side.data(frame, cells, report.bits, room)
    return Section(
        title=name,
        note=" ".join([_noise_note(rows), *_order_notes(rows), *_cut_notes(rows)]),
        columns=tuple(column(part) for part in columns),
        lines=tuple(lines(frame, columns, ranks)),
        ranked=ranking.said(ranks),
        tradeoffs=tradeoff.tradeoffs(frame, ranks),
        agreement=tuple(agreed),
        flattered=tuple(flattered),
        tasks=tuple(_task(part, cells, examples) for part in columns),
        methods=tuple(charts.methods(frame)),
        hides=chart,
        hides_legend=tuple(legend),
        hidden=tuple(hidden),
        margin=wording.percent(select.margin(rows)),
        unasked=unasked(frame),
        books=tuple(_books(frame)),
        seeds=_table("seeds", frame),
        costs=_table("costs", frame),
        run_time=_table("run_time", frame),
        recovered=_table("recovered", frame),
        recovered_form=_table("recovered_form", frame),
        training=_table("training", frame),
        calibration_cost=_table("calibration_cost", frame),
        data={**_data(frame), "pair": pair},
        pair=pair["said"],
    )


def _noise_note(rows: pd.DataFrame) -> str:
    replicas = sorted(set(rows["replica"]) - {""})
    if not replicas:
        return "No dense replica was measured, so there is no noise band: small differences may be noise."
    kinds = " and ".join({"batch": "another batch size", "dtype": "another dtype"}[kind] for kind in replicas)
    return f"Noise: the dense model again under {kinds}. A difference no larger is marked as noise."


def _order_notes(rows: pd.DataFrame) -> Iterable[str]:
    """A note on the noise of compression, if it was measured."""
    if (rows["orders"] > 1).any():
        yield (
            "Orders: the range over compressions with the same calibration sequences in other orders, which "
            "changes only how sums are rounded; a variant whose range holds the dense score is marked."
        )


def _cut_notes(rows: pd.DataFrame) -> Iterable[str]:
    """Notes on what was cut or could not be scored, one sentence each."""
    for name, text in (
        ("truncated", "Prompts cut to the model's window"),
        ("missing", "Items without a score"),
    ):
        counts = rows.groupby("title", sort=False)[name].max()
        if counts.any():
            found = ", ".join(f"{title} {count:g}" for title, count in counts.items() if count)
            yield f"{text} (most in one cell): {found}."


def _table(name: str, frame: pd.DataFrame) -> tables.Table | None:
    try:
        return tables.known[name].make(frame)
    except select.Nothing:
        return None


def _task(rows: pd.DataFrame, cells: Mapping[str, StoredCell], examples: int) -> TaskPart:
    rows = select.variant_order(rows[rows["replica"] == ""])
    labels = dict(zip(rows["key"], rows["label"], strict=True))
    shown = answers.shown([cells[key] for key in labels]) if examples else []
    notes = [
        f"Of {len(labels)} variants {len(shown)} are shown, evenly spaced over the table."
        * (len(shown) < len(labels)),
        "Variants that ended before an item was asked have no answer to it."
        * bool((rows["stopped"] != "").any()),
    ]
    return TaskPart(
        title=wording.task_label(rows.iloc[0]),
        chart=charts.levels(rows),
        examples=tuple(answers.examples(shown, labels, most=examples)),
        note=" ".join(filter(None, notes)),
    )


def _hides(frame: pd.DataFrame) -> tuple[list[str], Markup | None, list[tuple[str, Markup]]]:
    """(sentences, chart, its legend) on what perplexity hides; empty without perplexity."""
    try:
        rows = select.beside_perplexity(frame)
    except select.Nothing:
        return [], None, []
    sentences = []
    for row in select.records(select.hidden(rows).sort_values("relative")):
        corpus = wording.number(row["ratio"] - 1, "share", signed=True)
        lost = wording.number(row["relative"], "share", signed=True)
        text = f"{row['label']}: perplexity {corpus} %, {wording.task_label(row)} {lost} % of dense"
        tests = f"p {wording.p_value(row['p'])}, Holm {wording.p_value(row['p_holm'])}"
        sentences.append(f"{text} ({wording.ended(row) or tests})")
    return sentences, charts.hides(rows), charts.hides_legend(rows)


def _books(frame: pd.DataFrame) -> Iterable[tuple[str, ...]]:
    """(variant, known and read, lost when reading, open only, neither, knowledge lost, reading lost)."""
    order = (*pairs.QUADRANTS, *pairs.LOST)
    rows = frame[frame["metric"].isin(order) & (frame["replica"] == "")]
    for label, part in select.variant_order(rows).groupby("label", sort=False):
        found = {row["metric"]: row for row in select.records(part.drop_duplicates("metric"))}
        line = [str(label)]
        for name in order:
            row = found[name]
            text = wording.number(row["value"], "share")
            lost = name.endswith("_lost") and not row["dense"]
            line.append(f"{text} [{wording.span(row['low'], row['high'], 'share')}]" if lost else text)
        yield tuple(line)


def _data(frame: pd.DataFrame) -> dict[str, Any]:
    """All metrics of all tasks for the script: texts as they are to be shown, and what they sort by.

    {"tasks": [{"title", "metrics": [{"name", "label", "groups": [...]}]}], "rows": {label: {...}}}; a cell is
    [score, interval, gap, gap interval, verdict, p, Holm, n, lost, won, order, remark].
    """
    found: dict[str, dict[str, Any]] = {}
    for row in select.records(select.variant_order(frame)):
        task = found.setdefault(
            f"{row['task']} {row['setting']}", {"title": wording.task_label(row), "metrics": {}}
        )
        name = f"{row['metric']} {row['group']}".strip()
        label = wording.metric_label(row["metric"]) + (f", {row['group']}" if row["group"] else "")
        metric = task["metrics"].setdefault(
            name, {"label": label, "primary": bool(row["primary"]), "cells": {}}
        )
        cell = score_cell(row)
        flips = [None if math.isnan(row[way]) else int(row[way]) for way in ("lost", "won")]
        metric["cells"][row["label"]] = [
            cell.score,
            cell.interval,
            cell.gap,
            cell.gap_interval,
            cell.verdict,
            wording.p_value(row["p"]),
            wording.p_value(row["p_holm"]),
            f"{row['n']:g} of {row['of']:g}" if row["stopped"] else int(row["n"]),
            *flips,
            cell.order,
            cell.remark,
        ]
    tasks = [{**task, "metrics": list(task["metrics"].values())} for task in found.values()]
    return {"tasks": tasks}
