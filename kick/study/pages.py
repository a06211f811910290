"""What a component study found, as tables: matrices.csv, components.md, and the figure of the same name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from kick.analysis import frame, items
from kick.errors import KickError
from kick.printable import counted
from kick.records import Cell, Variant
from kick.report import figures, wording
from kick.stats import metrics, paired
from kick.store import Store
from kick.study.allocation import quantiles
from kick.study.components import Study, WeightMatrix, allocation, harm

MEASURES = ("fdt", "sdt", "kl_mean")
SHOWN = 8  # matrices at either end of the ranking
Rows = list[list[str]]


@dataclass(frozen=True)
class StudyTable:
    """Column heads and rows of text."""

    heads: tuple[str, ...]
    rows: Rows

    def markdown(self) -> str:
        """As Markdown; all but the first column to the right."""
        line = ["---", *["---:"] * (len(self.heads) - 1)]
        return "\n".join("| " + " | ".join(row) + " |" for row in [list(self.heads), line, *self.rows])


def write(study: Study, store: Store, folder: Path) -> tuple[StudyTable, StudyTable, list[Path]]:
    """Write the study's files; the tables by component and of the comparison, and the files.

    Raises KickError if a cell of the study is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found, parts, compared = matrices(study, store), by_component(study, store), comparison(study, store)
    table, page = folder / "matrices.csv", folder / "components.md"
    table.write_text(wording.csv(found), encoding="utf-8")
    page.write_text(
        "\n\n".join(_page(study, found, parts, _rule(study, store, found), compared)) + "\n", encoding="utf-8"
    )
    drawn = figures.draw(frame.read([store]).frame, folder, names=["components"])
    return parts, compared, [table, page, *(file for one in drawn for file in one.files)]


# ------------------------------------------------------------------------------ one matrix at a time


def matrices(study: Study, store: Store) -> pd.DataFrame:
    """A row a matrix, the most harmful first: its place, size, FDT, SDT and KL with n and 95 % intervals over
    prompts, and its share in the guided allocation."""
    counts, places = allocation(study, store), quantiles(study.parts(harm(study, store)))
    rows = []
    for matrix in study.matrices:
        result = store.result(study.cell(study.alone(matrix), study.options.probe).key)
        scores = {score.metric: score for score in result.scores}
        size = matrix.rows * matrix.columns
        row = {"layer": matrix.block, "component": component(matrix), "matrix": matrix.name, "weights": size}
        row |= {"pruned": result.compression["steps"][0]["pruned"], "n": scores["fdt"].n}
        for name in MEASURES:
            row |= {
                name: scores[name].value,
                f"{name}_low": scores[name].low,
                f"{name}_high": scores[name].high,
            }
        rows.append(row | {"place": places[matrix.name], "guided_sparsity": counts[matrix.name] / size})
    return pd.DataFrame(rows).sort_values("place", ignore_index=True)


def by_component(study: Study, store: Store) -> StudyTable:
    """A row a component: the mean over layers of each prompt, its interval over prompts."""
    heads = (
        "component",
        "layers",
        "FDT, tokens",
        "SDT, %",
        "KL, nats",
        "earliest layer",
        "guided sparsity, %",
    )
    groups: dict[str, list[WeightMatrix]] = {}
    for matrix in study.matrices:
        groups.setdefault(component(matrix), []).append(matrix)
    counts, rows = allocation(study, store), []
    for name, group in groups.items():
        columns = [_arrays(study.cell(study.alone(one), study.options.probe), store) for one in group]
        means = {name: np.mean([own[name] for own in columns], axis=0) for name in columns[0]}
        worst = group[int(np.argmin([own["fdt"].mean() for own in columns]))]
        share = sum(counts[one.name] for one in group) / sum(one.rows * one.columns for one in group)
        row = [name, str(len(group)), *(_with_interval(means, metrics.describe(name)) for name in MEASURES)]
        rows.append([*row, str(worst.block), f"{100 * share:.1f}"])
    return StudyTable(heads, rows)


def component(matrix: WeightMatrix) -> str:
    """A matrix's path within its block: "self_attn.q_proj"."""
    return matrix.name.partition(f".{matrix.block}.")[2]


def _arrays(cell: Cell, store: Store) -> dict[str, np.ndarray]:
    return store.scores(cell.key)[1]


def _with_interval(columns: Mapping[str, np.ndarray], metric: metrics.Metric) -> str:
    """ "12.3 (10.1 to 14.8)"."""
    found = items.score(_items(columns), metric)
    span = wording.span(found["low"], found["high"], metric.unit)
    return f"{wording.number(found['value'], metric.unit)} ({span})"


def _items(columns: Mapping[str, np.ndarray]) -> items.Items:
    """Columns of the same items in the same order."""
    names = tuple(map(str, range(len(next(iter(columns.values()))))))
    return items.Items(names, ("",) * len(names), columns)


# ------------------------------------------------------------------------------ guided against uniform


def comparison(study: Study, store: Store) -> StudyTable:
    """A row a measure: dense, uniform, guided, and the paired difference guided - uniform.

    A difference counts as one where its 95 % interval leaves out 0 and its p, adjusted by Holm over the rows,
    is below 5 %; else it is inside the noise.
    """
    measured = [(name, study.options.fidelity) for name in MEASURES]
    measured.append(("perplexity", study.options.perplexity))
    found = [_compared(study, store, name, task) for name, task in measured]
    adjusted = paired.holm([one.p for _, _, one in found])
    rows = []
    for (metric, texts, one), p in zip(found, adjusted, strict=True):
        span = wording.signed_span(one.low, one.high, metric.unit)
        gap = f"{wording.number(one.gap, metric.unit, signed=True)} ({span})"
        clear = p < 0.05 and not one.low <= 0 <= one.high
        better = (one.gap > 0) == metric.higher_is_better
        verdict = f"guided {'better' if better else 'worse'}" if clear else "inside the noise"
        rows.append([wording.metric_label(metric.name), str(one.n), *texts, gap, wording.p_value(p), verdict])
    heads = ("measure", "n", "dense", "uniform", "guided", "guided - uniform", "p (Holm)", "")
    return StudyTable(heads, rows)


def _compared(
    study: Study, store: Store, name: str, task: str
) -> tuple[metrics.Metric, list[str], paired.Difference]:
    metric = metrics.describe(name)
    stored = [
        items.Items(tuple(names), ("",) * len(names), columns)
        for names, columns in (
            store.scores(study.cell(variant, task).key) for variant in (study.dense, *_pair(study, store))
        )
    ]
    dense, uniform, guided = stored[0], *items.align(stored[1], stored[2])
    texts = [
        wording.number(items.aggregate(dense, metric), metric.unit),
        *(_with_interval(one.columns, metric) for one in (uniform, guided)),
    ]
    found = items.difference(uniform, guided, metric, dense=False)
    if found is None:
        raise KickError(f"{task}: its items have no {metric.column}; `kick rescore` adds it")
    return metric, texts, found


def _pair(study: Study, store: Store) -> tuple[Variant, Variant]:
    """The uniform and the guided variant."""
    return study.uniform, study.guided(allocation(study, store))


def _pruned(study: Study, store: Store, variant: Variant) -> int:
    """How many weights really went."""
    result = store.result(study.cell(variant, study.options.fidelity).key)
    return int(result.compression["steps"][0]["pruned"])


# ------------------------------------------------------------------------------ the page


def _page(
    study: Study, found: pd.DataFrame, parts: StudyTable, rule: str, compared: StudyTable
) -> Iterator[str]:
    options, name = study.options, study.model.name
    yield f"# Components of {name}: {options.step.method} at {100 * study.sparsity:g} %"
    if name in wording.MODELS:
        yield wording.MODELS[name]
    n = int(found["n"].iloc[0])
    yield (
        f"Each of {len(found)} matrices pruned alone, {counted(n, 'prompt')} of `{options.probe}`: first "
        "divergent token (FDT), share of divergent tokens (SDT), KL to the dense model, mean over prompts "
        "with a 95 % bootstrap interval over prompts. Prompts of one document are not independent, which the "
        "intervals do not know."
    )
    yield "## By component\n\nMean over layers of each prompt."
    yield parts.markdown()
    yield f"## The {SHOWN} most and least harmful matrices\n\nAll of them are in matrices.csv."
    ends = pd.concat([found.head(SHOWN), found.tail(SHOWN)]) if len(found) > 2 * SHOWN else found
    yield _ends(ends).markdown()
    yield "## The allocation against a uniform one"
    yield rule
    yield compared.markdown()


def _ends(rows: pd.DataFrame) -> StudyTable:
    heads = ("matrix", "FDT, tokens", "SDT, %", "KL, nats", "guided sparsity, %")
    lines = []
    for row in rows.to_dict("records"):
        numbers = [
            f"{wording.number(row[m], unit)} ({wording.span(row[f'{m}_low'], row[f'{m}_high'], unit)})"
            for m, unit in ((m, metrics.describe(m).unit) for m in MEASURES)
        ]
        lines.append([f"{row['layer']} {row['component']}", *numbers, f"{100 * row['guided_sparsity']:.1f}"])
    return StudyTable(heads, lines)


def _rule(study: Study, store: Store, found: pd.DataFrame) -> str:
    weights, options = int(found["weights"].sum()), study.options
    pruned, other = (_pruned(study, store, one) for one in _pair(study, store))
    if pruned != other:
        raise KickError(
            f"{options.step.method} pruned {pruned:,} weights uniformly and {other:,} by the allocation: it "
            "counts neither by row nor by matrix, and the two cannot be compared"
        )
    return (
        f"Both prune {pruned:,} of {weights:,} weights ({100 * pruned / weights:.4f} %). Guided: matrices in "
        f"the order of their FDT, shares from {100 * found['guided_sparsity'].min():.1f} to "
        f"{100 * found['guided_sparsity'].max():.1f} % (spread {options.spread:g}). The order comes of "
        f"`{options.probe}`; the numbers below are on `{options.fidelity}` and `{options.perplexity}`, other "
        "texts. Dense is the unpruned model on its own continuations."
    )
