"""The claims of a paper tested on stored results: a verdict each, with the numbers behind it.

Three kinds of claim. Of all that it names (`verdict`, `kept`): supported if each comparison is shown to be
as it says, contradicted if one is shown to be the opposite. Of one thing against another (`order`): supported
if one comparison is shown in its favour and none against it, contradicted the other way round. That something
exists (`hidden`, `flips`, `parts`): supported if it is shown once, contradicted if the opposite is shown
everywhere. Otherwise undecided; and it cannot be tested here if these results do not hold what it speaks of.
"Shown" is the verdict of `kick.stats.paired` (`verdict`, `hidden`, `parts`, which are not adjusted for the
number of comparisons; of a metric without a verdict the interval), the 95 % interval of the ratio (`kept`),
p Holm-adjusted over the claim, without one the interval (`order`), or the observed share (`flips`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from kick.analysis import compare, verdicts
from kick.analysis.cells import StoredCell
from kick.analysis.frame import Results
from kick.analysis.frame_rows import SECTION, headlines, records
from kick.analysis.papers_file import Paper, PaperClaim
from kick.printable import plain
from kick.stats.paired import holm

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"
CANNOT = "cannot be tested here"
VERDICTS = (SUPPORTED, CONTRADICTED, UNDECIDED, CANNOT)
APART = "beyond the noise of dense"
ALPHA = 0.05
Says = Literal["for", "against", ""]


@dataclass(frozen=True)
class ClaimEvidence:
    """One comparison: a gap with its interval in the metric's unit, and whether it speaks for the claim.

    what: the variant, or "a against b"; gap: of what is claimed better minus the other, or variant minus
    dense.
    """

    what: str
    task: str
    unit: str
    value: float
    reference: float
    gap: float
    low: float
    high: float
    n: int
    of: int
    says: Says
    word: str


@dataclass(frozen=True)
class Tested:
    """A claim with its verdict, the reason if it cannot be tested, and the evidence."""

    claim: PaperClaim
    verdict: str
    reason: str = ""
    evidence: tuple[ClaimEvidence, ...] = ()


class Untestable(Exception):
    """These results do not hold what a claim speaks of; the message says what is missing."""


def tested(paper: Paper, results: Results) -> list[Tested]:
    """The claims of a paper, each with its verdict on these results."""
    return [_tested(claim, results) for claim in paper.claims]


def _tested(claim: PaperClaim, results: Results) -> Tested:
    if claim.cannot:
        return Tested(claim, CANNOT, claim.cannot)
    try:
        evidence = tuple(TESTS[claim.test](claim.measure, results))
    except Untestable as missing:
        return Tested(claim, CANNOT, f"these results have no {missing}")
    return Tested(claim, _verdict(claim.test, [one.says for one in evidence]), "", evidence)


def _verdict(test: str, says: Sequence[Says]) -> str:
    good, bad, all_good, all_bad = (
        "for" in says,
        "against" in says,
        {*says} == {"for"},
        {*says} == {"against"},
    )
    if test in ("verdict", "kept"):
        supported, contradicted = all_good, bad
    elif test == "order":
        supported, contradicted = good and not bad, bad and not good
    else:
        supported, contradicted = good, all_bad
    return SUPPORTED if supported else CONTRADICTED if contradicted else UNDECIDED


# ---------------------------------------------------------------------------------------- rows


def _headlines(results: Results, tasks: Sequence[str]) -> pd.DataFrame:
    """Headline rows on tasks of these families, or of these names."""
    chosen = headlines(results.frame)
    rows = chosen[chosen["family"].isin(tasks) | chosen["task"].isin(tasks)]
    if rows.empty:
        raise Untestable(f"task of {' or '.join(tasks)}")
    first = rows["method"].str.partition(" + ")[0]
    return rows.assign(level=(10 * rows["sparsity"]).round() / 10, first=first)


def _variants(rows: pd.DataFrame, choice: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of variants that a claim names: recipes of several steps ("wanda + eora") only if it names
    them as such."""
    named = _listed(choice.get("method", ()))
    keep = ~rows["dense"] & (~rows["method"].str.contains(" + ", regex=False) | rows["method"].isin(named))
    for name, value in choice.items():
        if name in ("method", "pattern"):
            keep &= rows[name].isin(_listed(value))
        else:
            low, high = value if isinstance(value, list) else (value, value)
            keep &= rows[name].between(low - 1e-9, high + 1e-9)
    if not keep.any():
        raise Untestable(f"variant with {', '.join(f'{name} {value}' for name, value in choice.items())}")
    return rows[keep]


def _listed(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value


def _beside_dense(row: Mapping[str, Any], says: Says, word: str) -> ClaimEvidence:
    return ClaimEvidence(
        what=row["label"],
        task=row["title"],
        unit=row["unit"],
        value=row["value"],
        reference=row["dense_value"],
        gap=row["gap"],
        low=row["gap_low"],
        high=row["gap_high"],
        n=int(row["n"]),
        of=int(row["of"]),
        says=says,
        word=word,
    )


# ---------------------------------------------------------------------------------------- tests


def _expects(measure: Mapping[str, Any], results: Results) -> Iterable[ClaimEvidence]:
    """Each chosen variant on each task has the expected verdict against dense: worse, or matching."""
    expect = measure["expect"]
    opposite = {"worse": ("matching", "better"), "matching": ("worse",)}
    for row in records(_variants(_headlines(results, measure["tasks"]), measure["variants"])):
        word = verdicts.of_row(row)
        says: Says = "for" if word == expect else "against" if word in opposite[expect] else ""
        yield _beside_dense(row, says, word or "no verdict")


def _kept(measure: Mapping[str, Any], results: Results) -> Iterable[ClaimEvidence]:
    """Each chosen variant keeps at least this share of dense's score."""
    least = measure["least"]
    for row in records(_variants(_headlines(results, measure["tasks"]), measure["variants"])):
        low, high = row["relative_low"], row["relative_high"]
        says: Says = "for" if low > least - 1 else "against" if high < least - 1 else ""
        share = 100 * (1 + row["relative"])
        ends = "" if math.isnan(low) else f" ({100 * (1 + low):.0f} to {100 * (1 + high):.0f} %)"
        yield _beside_dense(row, says, f"keeps {share:.0f} %{ends}")


def _hidden(measure: Mapping[str, Any], results: Results) -> Iterable[ClaimEvidence]:
    """A loss, or a distance, is shown although perplexity rose by at most the margin; against: a match."""
    corpus = _headlines(results, ["perplexity"])
    corpus = corpus[~corpus["dense"] & (corpus["stopped"] == "")].drop_duplicates([*SECTION, "variant"])
    level = corpus[corpus["relative"] <= corpus["margin"]]
    if level.empty:
        raise Untestable("variant whose perplexity is within the margin of dense's")
    rows = _headlines(results, measure["tasks"]).merge(level[[*SECTION, "variant"]], on=[*SECTION, "variant"])
    for row in records(_variants(rows, measure.get("variants") or {})):
        word = APART if verdicts.apart(row) else verdicts.of_row(row)
        says: Says = "for" if word in ("worse", APART) else "against" if word == "matching" else ""
        yield _beside_dense(row, says, word or "no verdict")


def _flips(measure: Mapping[str, Any], results: Results) -> Iterable[ClaimEvidence]:
    """Variants whose score is not shown to differ flip at least this share of the items."""
    for row in records(_variants(_headlines(results, measure["tasks"]), measure["variants"])):
        if verdicts.of_row(row) in ("worse", "better") or math.isnan(row["lost"]):
            continue
        share = (row["lost"] + row["won"]) / row["n"]
        word = f"{row['lost']:g} lost, {row['won']:g} won of {row['n']:g}: {100 * share:.1f} % flip"
        yield _beside_dense(row, "for" if share >= measure["least"] else "against", word)


def _parts(measure: Mapping[str, Any], results: Results) -> Iterable[ClaimEvidence]:
    """The headline score and another metric of the same items do not go together: of one that is shown to be
    lost, the other is shown not to be. The evidence has the other metric's numbers."""
    rows = _variants(_headlines(results, measure["tasks"]), measure.get("variants") or {})
    rows = rows[rows["replica"].eq("")]
    frame = results.frame
    other = frame[frame["metric"].eq(measure["metric"]) & frame["group"].eq("")]
    at = [*SECTION, "variant", "task", "setting"]
    words = {tuple(row[name] for name in at): verdicts.of_row(row) for row in records(rows)}
    found = [row for row in records(other) if tuple(row[name] for name in at) in words]
    if not found:
        raise Untestable(f"{measure['metric']} of {' or '.join(measure['tasks'])}")
    for row in found:
        score, shown = words[tuple(row[name] for name in at)], _moved(row)
        says: Says = ""
        if (score, shown) in (("worse", "better"), ("matching", "worse")):
            says = "for"
        elif (score, shown) == ("worse", "worse"):
            says = "against"
        yield _beside_dense(row, says, f"score {score or 'without a verdict'}, {row['metric']} {shown}")


def _moved(row: Mapping[str, Any]) -> str:
    """Whether a metric without a verdict is shown to have moved: its interval leaves 0, beyond the noise."""
    low, high = row["gap_low"], row["gap_high"]
    if row["within_noise"] or not (low > 0 or high < 0):
        return "not shown to differ"
    return "better" if (low > 0) == row["higher_is_better"] else "worse"


def _order(measure: Mapping[str, Any], results: Results) -> Iterable[ClaimEvidence]:
    """One group of variants beats another on the same items; `equal`: what both of a pair have alike."""
    rows = _headlines(results, measure["tasks"])
    first, second = _variants(rows, measure["better"]), _variants(rows, measure["than"])
    equal = [*SECTION, *measure.get("equal", ["sparsity"])]
    columns = [*equal, "variant", "label"]
    unique = [part[columns].drop_duplicates() for part in (first, second)]
    pairs = unique[0].merge(unique[1], on=equal, suffixes=("", "_than"))
    pairs = pairs[pairs["variant"] != pairs["variant_than"]]
    if pairs.empty:
        raise Untestable(f"pair of both with equal {', '.join(equal)}")
    tasks = set(rows["task"])
    sections: dict[tuple[str, str], list[StoredCell]] = {}
    for cell in results.cells:
        if plain(cell.run.cell.task.name) in tasks:
            sections.setdefault(_section(cell), []).append(cell)
    found = []
    for pair in records(pairs):
        cells = sections[pair["matrix"], pair["base"]]
        made = compare.of_tasks(cells, pair["variant_than"], pair["variant"])
        found += [(pair, task) for task in made if not task.across]
    if not found:
        raise Untestable("task that both of a pair were asked")
    adjusted = holm([task.difference.p for _, task in found])
    for (pair, task), p in zip(found, adjusted, strict=True):
        yield _paired(pair, task, float(p))


def _section(cell: StoredCell) -> tuple[str, str]:
    matrix, base = cell.section
    return plain(matrix), plain(base)


def _paired(pair: Mapping[str, Any], task: compare.ComparedTask, p: float) -> ClaimEvidence:
    gap = task.difference
    clear = gap.low > 0 or gap.high < 0
    shown = (p < ALPHA if math.isfinite(p) else clear) and abs(gap.gap) > (
        task.noise if task.noise > 0 else 0
    )
    says: Says = "" if not shown else "for" if (gap.gap > 0) == task.higher_is_better else "against"
    word = {"for": "better", "against": "worse", "": "no difference shown"}[says]
    if math.isfinite(p):
        word += f" (p {p:.3f})" if p >= 0.001 else " (p < 0.001)"
    return ClaimEvidence(
        what=f"{pair['label']} against {pair['label_than']}", task=task.title, unit=task.unit, value=task.b,
        reference=task.a, gap=gap.gap, low=gap.low, high=gap.high, n=gap.n, of=task.of, says=says, word=word,
    )  # fmt: skip


TESTS: Mapping[str, Callable[[Mapping[str, Any], Results], Iterable[ClaimEvidence]]] = {
    "verdict": _expects,
    "order": _order,
    "kept": _kept,
    "hidden": _hidden,
    "flips": _flips,
    "parts": _parts,
}
