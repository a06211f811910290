"""Scores by subject, discipline or category: the items of a task told apart by their group."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from kick.analysis import items
from kick.analysis.items import Items
from kick.analysis.rows import RESAMPLES, compared, plain_gap
from kick.stats.metrics import Metric
from kick.stats.paired import MARGIN

MOST = 60  # more groups than this are not categories
MACRO = "macro average"
Z = 1.96  # of a 95 % interval by the normal

_DISCIPLINES = {
    "STEM": """abstract_algebra anatomy astronomy college_biology college_chemistry
        college_computer_science college_mathematics college_physics computer_security conceptual_physics
        electrical_engineering elementary_mathematics high_school_biology high_school_chemistry
        high_school_computer_science high_school_mathematics high_school_physics high_school_statistics
        machine_learning""",
    "humanities": """formal_logic high_school_european_history high_school_us_history
        high_school_world_history international_law jurisprudence logical_fallacies moral_disputes
        moral_scenarios philosophy prehistory professional_law world_religions""",
    "social sciences": """econometrics high_school_geography high_school_government_and_politics
        high_school_macroeconomics high_school_microeconomics high_school_psychology human_sexuality
        professional_psychology public_relations security_studies sociology us_foreign_policy""",
    "other": """business_ethics clinical_knowledge college_medicine global_facts human_aging management
        marketing medical_genetics miscellaneous nutrition professional_accounting professional_medicine
        virology""",
}
DISCIPLINES = {name: frozenset(subjects.split()) for name, subjects in _DISCIPLINES.items()}
SUBJECTS = frozenset().union(*DISCIPLINES.values())


def of(names: Iterable[str]) -> Mapping[str, frozenset[str]]:
    """The groups to report of items with these group names: MMLU's disciplines, else the names themselves."""
    found = set(names) - {""}
    if not found or len(found) > MOST:
        return {}
    if found <= SUBJECTS and len(found) > 4:
        members = {name: subjects & found for name, subjects in DISCIPLINES.items()}
        return {name: subjects for name, subjects in members.items() if subjects}
    return {name: frozenset({name}) for name in sorted(found)} if len(found) > 1 else {}


def rows(
    metric: Metric, dense: Items | None, theirs: Items, *, is_dense: bool, margin: float = MARGIN
) -> Iterator[dict]:
    """One row per group of the headline metric, and one for their mean, each with its gap to dense."""
    found = of(theirs.groups) if theirs.has(metric) else {}
    for name, members in found.items():
        before = dense.where(members) if dense is not None else None
        yield {"group": name, **compared(metric, theirs.where(members), before, is_dense, margin)}
    if len(found) > 1:
        yield {"group": MACRO, **_macro_row(metric, theirs, dense)}


def _macro_row(metric: Metric, theirs: Items, dense: Items | None) -> dict[str, Any]:
    found = macro(theirs, metric)
    before = math.nan
    if dense is not None and dense.has(metric):
        scores = [items.aggregate(part, metric) for part in _parts(dense)]
        known = [score for score in scores if math.isfinite(score)]
        before = float(np.mean(known)) if known else math.nan
    return {
        "metric": metric.name,
        "primary": False,
        "higher_is_better": metric.higher_is_better,
        "unit": metric.unit,
        "n": len(theirs.ids),
        "units": len(theirs.ids),
        "missing": 0,
        **found._asdict(),
        **plain_gap(found.value, before),
    }


class Macro(NamedTuple):
    """The mean over groups, its 95 % interval and its standard error."""

    value: float
    low: float
    high: float
    stderr: float


def macro(theirs: Items, metric: Metric) -> Macro:
    """The mean of the groups' scores; every subject counts the same, however many items it has.

    The groups are the items' own (subjects), not the disciplines. Half the widths of their own intervals, or
    1.96 standard errors if these are more, add up as standard errors do, and a group without an interval
    counts with the whole range that it can have: one that is right with all of its few items is not certain.
    """
    scores = [items.score(part, metric, RESAMPLES) for part in _parts(theirs)]
    known = [score for score in scores if math.isfinite(score["value"])]
    if not known:
        return Macro(*[math.nan] * 4)
    value, low, high, stderr = (np.array([score[name] for score in known]) for name in Macro._fields)
    lows = np.where(np.isnan(low), metric.support.low, low)
    highs = np.where(np.isnan(high), metric.support.high, high)
    reaches = np.fmax((highs - lows) / 2, Z * stderr)
    mean, reach = float(value.mean()), float(np.sqrt(np.sum(np.square(reaches)))) / len(known)
    if not math.isfinite(reach):
        reach = math.nan
    ends = max(mean - reach, metric.support.low), min(mean + reach, metric.support.high)
    return Macro(mean, *ends, float(np.sqrt(np.nansum(np.square(stderr)))) / len(known))


def _parts(theirs: Items) -> list[Items]:
    return [theirs.where(name) for name in sorted(set(theirs.groups))]
