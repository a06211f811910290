"""What training brought back: a recovered variant beside the pruned one and the dense model trained alike.

    recovered = (R - P) / (D - P)

P is the score as pruned, R pruned and trained, D dense with the same training: what training does to the
dense model is not recovery. The interval is of the items that all three were asked, drawn together (95 %,
percentiles); there is none of fewer than ten items, or if the draws do not agree on the sign of D - P:
then pruning is not shown to take anything. If D is not better than P there is no share either: training
itself took what there was to bring back. Columns of the frame, NaN or "" of other rows and metrics:

    recovered, recovered_low, recovered_high    the share; of headline metrics and of FORM
    pruned_value, trained_dense_value, recovered_of    P, D, and the label of the pruned variant
    trained_tokens, trained_steps, trained_share, trained_lr, trained_seed, trained_seconds, trained_memory,
    heldout_before, heldout_after, trained_text    what the training took, and its loss on held-out text
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd

from kick import catalog
from kick.analysis.cells import StoredCell, by_asked, steps_of
from kick.analysis.headlines import headline
from kick.analysis.items import Items, align
from kick.analysis.pairs import Keeping
from kick.analysis.rows import number
from kick.analysis.stopped import early
from kick.records import POOL, RANDOM, Step, Variant
from kick.stats import metrics
from kick.stats.intervals import LEAST, LEVEL, Floats, safe_exp
from kick.stats.metrics import Metric, units_of
from kick.stats.resample import resampled_means

TAIL = (1 - LEVEL) / 2
FORM = (
    "format_failure",
    "empty",
    "unfinished",
    "loop",
)  # answers that fail by form, not by content
SHARE: dict[str, Any] = {
    **dict.fromkeys(
        ("recovered", "recovered_low", "recovered_high", "pruned_value", "trained_dense_value"), math.nan
    ),
    "recovered_of": "",
}
TOOK = {
    "trained_tokens": "tokens",
    "trained_steps": "steps",
    "trained_share": "share",
    "trained_lr": "lr",
    "trained_seed": "seed",
    "trained_seconds": "cpu_seconds",
    "trained_memory": "peak_memory",
    "heldout_before": "heldout_before",
    "heldout_after": "heldout_after",
}


def add(
    frame: pd.DataFrame, cells: Sequence[StoredCell], shares: Mapping[tuple[str, str], Mapping[str, Any]]
) -> pd.DataFrame:
    """The frame with these columns; `shares`: by a cell's key and a metric, see `shares`."""
    took = {cell.run.key: _took(cell) for cell in cells}
    keys = frame["key"].tolist()
    columns = {name: [took[key][name] for key in keys] for name in (*TOOK, "trained_text")}
    whole = frame["group"].eq("")  # not those of a group of items
    places = list(zip(keys, frame["metric"].where(whole, "").tolist(), strict=True))
    for name, nothing in SHARE.items():
        columns[name] = [shares[place][name] if place in shares else nothing for place in places]
    return pd.concat([frame, pd.DataFrame(columns, index=frame.index, dtype=object).infer_objects()], axis=1)


def _took(cell: StoredCell) -> dict[str, Any]:
    """What the training of a cell's variant took."""
    records = [step.get("training") for step in steps_of(cell.run) if isinstance(step, Mapping)]
    record = next((one for one in records if isinstance(one, Mapping)), {})
    found: dict[str, Any] = {name: number(record.get(key)) for name, key in TOOK.items()}
    text = record.get("corpus")
    return found | {"trained_text": text if isinstance(text, str) else ""}


def shares(cells: Sequence[StoredCell], kept: Keeping) -> dict[tuple[str, str], dict[str, Any]]:
    """The columns of each recovered cell that has both of its others, by its key and a metric: its headline
    and those of FORM that all three have."""
    found = {}
    for asked in by_asked(cells).values():
        whole = [cell for cell in asked if not early(cell) and cell.variant.replica is None]
        for cell in whole:
            place = catalog.recovery(cell.variant.recipe)
            if place is None or place == 0:
                continue
            pruned = _pruned(cell.variant, place, whole)
            trained = _trained_dense(cell.variant, place, whole)
            if not pruned or not trained:
                continue
            three = (pruned, cell, trained)
            primary = headline(cell.run)  # a distance to dense is larger after any training: not brought back
            for name in ([primary] if metrics.describe(primary).compared else []) + _form(three):
                make = functools.partial(_share_of, three, metrics.describe(name))
                if columns := kept.get(cell, ["recovered", name, *three], make):
                    found[cell.run.key, name] = {**columns, "recovered_of": pruned.label}
    return found


def _form(three: Sequence[StoredCell]) -> list[str]:
    """The metrics of FORM that all of these cells have."""
    named = [{score.metric for score in cell.run.scores} for cell in three]
    return [name for name in FORM if all(name in one for one in named)]


def _pruned(variant: Variant, place: int, cells: Sequence[StoredCell]) -> StoredCell | None:
    """The cell of the same recipe without its training."""
    recipe = variant.recipe[:place] + variant.recipe[place + 1 :]
    for cell in cells:
        other = cell.variant
        if replace(other, name="", label="") == replace(variant, name="", label="", recipe=recipe):
            return cell
    return None


def _trained_dense(variant: Variant, place: int, cells: Sequence[StoredCell]) -> StoredCell | None:
    """The cell of the dense model with the same training, run alike, of the same seed if there is one."""
    recipe = variant.recipe[place:]
    alike = [
        cell
        for cell in cells
        if not cell.variant.checkpoint
        and cell.variant.runtime == variant.runtime
        and _without_seed(cell.variant.recipe) == _without_seed(recipe)
    ]
    return next((cell for cell in alike if cell.variant.recipe == recipe), alike[0] if alike else None)


def _without_seed(recipe: Sequence[Step]) -> list[dict[str, Any]]:
    """The steps without the seed of the one that trains. A form that was trained beside it without zeros to
    keep, MaskLoRA or LoRA, is compared with its own; one on text that PASER chose for the pruned model, which
    the dense one gives no reason to choose, with dense on text at random."""
    steps = [asdict(step) for step in recipe]
    for step in steps[:1]:
        given = step["options"]
        step["options"] = {name: value for name, value in given.items() if name != "seed"}
        if given.get("select") == "paser":
            step["options"] |= {"select": RANDOM, "pool": POOL}
    return steps


def _share_of(three: Sequence[StoredCell], metric: Metric) -> dict[str, float] | None:
    return _share([one.items() for one in three], metric)


def _share(three: Sequence[Items], metric: Metric) -> dict[str, float] | None:
    """The recovered share over the items that all three have; None without any."""
    if not all(items.has(metric) for items in three):
        return None
    pruned, recovered = align(three[0], three[1])
    pruned, trained = align(pruned, three[2])
    recovered, trained = align(pruned, recovered)[1], align(pruned, trained)[1]
    columns = np.column_stack([items.values(metric)[0] for items in (pruned, recovered, trained)])
    weights = pruned.values(metric)[1]
    whole = np.column_stack([columns, np.ones(len(columns)) if weights is None else weights])
    units = units_of(metric, pruned.columns)
    known = np.isfinite(whole).all(axis=1)
    whole = _by_unit(whole[known], None if units is None else units[known])
    if not len(whole):
        return None
    p, r, d = _scores(whole.mean(axis=0), metric)
    taken = d > p if metric.higher_is_better else d < p
    low = high = math.nan
    if taken and len(whole) >= LEAST:
        low, high = _interval(_scores(resampled_means(whole).T, metric), d - p)
    return {
        "recovered": (r - p) / (d - p) if taken else math.nan,
        "recovered_low": low,
        "recovered_high": high,
        "pruned_value": p,
        "trained_dense_value": d,
    }


def _by_unit(rows: Floats, units: Floats | None) -> Floats:
    """Rows that are independent: those of one document added up."""
    if units is None:
        return rows
    names, places = np.unique(units, return_inverse=True)
    summed = np.zeros((len(names), rows.shape[1]))
    np.add.at(summed, places, rows)
    return summed


def _scores(means: Any, metric: Metric) -> list[Any]:
    """The three scores of means of values and weights."""
    *values, weight = means
    scores = [value / weight for value in values]
    return [_exp(one) for one in scores] if metric.kind == "exp_mean" else scores


def _exp(value: Any) -> Any:
    return safe_exp(value) if np.ndim(value) == 0 else np.exp(value)


def _interval(draws: Sequence[Any], lost: float) -> tuple[float, float]:
    """95 % of the draws of the share; NaN if D - P has another sign in more than 2.5 % of them.

    lost: D - P, not 0.
    """
    p, r, d = draws
    same = (d - p) * np.sign(lost) > 0
    if same.mean() < 1 - TAIL:
        return math.nan, math.nan
    low, high = np.quantile((r - p)[same] / (d - p)[same], [TAIL, 1 - TAIL])
    return float(low), float(high)
