"""Questions to a judge from an item's answers, and the item's columns from its verdicts.

Columns, NaN if a verdict that they need is missing:
judge                 the grade, 1 to 10: the mean over the turns, of each the mean of the runs that gave one
judge_coherence, ...  the four criteria of a summary, each by itself; there is then no `judge`
judge_win             against the dense model's answer, in both orders: 1 better, 0 worse, 0.5 a tie or a
                      preference that turned with the order; equal answers are a tie that nobody is asked for
judge_same_order      whether both orders gave one preference; NaN for equal answers
judge_failure         the share of the item's verdicts that failed
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from kick.judge.judge import Verdict
from kick.judge.rubrics import CRITERIA, HIGHEST, LOWEST, Question, Turn
from kick.judge.settings import Settings

Kind = Literal["instruction", "summary"]
COLUMN = "judge"  # what every column of a judge starts with
RUBRIC_OF = {"coding": "coding", "math": "math"}  # by category; all others: general


def of_judge(name: str) -> bool:
    """Whether a column or metric of that name is a judge's."""
    return name == COLUMN or name.startswith(f"{COLUMN}_")


@dataclass(frozen=True, order=True)
class Slot:
    """Place of a question among an item's: turn, run, and for a pair which place the variant's answer has."""

    turn: int
    run: int
    place: int = -1  # 0 first, 1 second; -1: graded alone


@dataclass(frozen=True)
class Answered:
    """An item's document with the texts of its answers, one a turn, and the dense model's or None."""

    doc: Mapping[str, Any]
    texts: tuple[str, ...]
    dense: tuple[str, ...] | None = None


def questions(kind: Kind, item: Answered, settings: Settings) -> dict[Slot, Question]:
    """All that the judge is asked about an item; nothing about answers that equal the dense model's."""
    found: dict[Slot, Question] = {}
    requests, references = _requests(kind, item.doc)
    rubric = "summary" if kind == "summary" else RUBRIC_OF.get(str(item.doc.get("category")), "general")
    for turn, run in itertools.product(_turns(kind, item), range(settings.runs)):
        mine = _conversation(requests, item.texts, turn)
        if settings.mode in ("grade", "both"):
            found[Slot(turn, run)] = Question(rubric, (mine,), references[turn], run)
        if settings.mode in ("pair", "both") and _differs(item, turn):
            other = _conversation(requests, item.dense or (), turn)
            found[Slot(turn, run, 0)] = Question(rubric, (mine, other), references[turn], run)
            found[Slot(turn, run, 1)] = Question(rubric, (other, mine), references[turn], run)
    return found


def _requests(kind: Kind, doc: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Requests of each turn, and a reference answer to it or ""."""
    if kind == "summary":
        return [doc["article"]], [""]
    turns = list(doc["turns"])
    references = list(doc.get("reference") or [])
    return turns, [*references, *[""] * len(turns)][: len(turns)]


def _turns(kind: Kind, item: Answered) -> range:
    """The turns that were asked and answered."""
    return range(min(len(_requests(kind, item.doc)[0]), len(item.texts)))


def _conversation(requests: Sequence[str], texts: Sequence[str], turn: int) -> tuple[Turn, ...]:
    return tuple(Turn(request, text) for request, text in zip(requests[: turn + 1], texts, strict=False))


def _differs(item: Answered, turn: int) -> bool:
    """Whether there is a dense answer to this turn and what was said up to it is not the same."""
    if item.dense is None or len(item.dense) <= turn:
        return False
    return item.texts[: turn + 1] != item.dense[: turn + 1]


def columns(
    kind: Kind, item: Answered, settings: Settings, verdicts: Mapping[Slot, Verdict]
) -> dict[str, float]:
    """The item's columns; `verdicts` answers all of `questions`."""
    found: dict[str, float] = {}
    turns = _turns(kind, item)
    if settings.mode in ("grade", "both"):
        alone = {slot: verdict for slot, verdict in verdicts.items() if slot.place < 0}
        for name in CRITERIA if kind == "summary" else ("grade",):
            by_turn = [_over_runs(alone, turn, name) for turn in turns]
            found["judge" if name == "grade" else f"judge_{name}"] = _mean(by_turn)
    if settings.mode in ("pair", "both") and item.dense is not None:
        found |= _pair_columns(item, settings, verdicts, turns)
    failed = [bool(verdict.failure) for verdict in verdicts.values()]
    if failed:
        found["judge_failure"] = sum(failed) / len(failed)
    return found


def _over_runs(alone: Mapping[Slot, Verdict], turn: int, name: str) -> float:
    """The mean of the runs that gave this grade; NaN if none did."""
    given = [v.values[name] for slot, v in alone.items() if slot.turn == turn and name in v.values]
    return _mean(given)


def _pair_columns(
    item: Answered, settings: Settings, verdicts: Mapping[Slot, Verdict], turns: Sequence[int]
) -> dict[str, float]:
    wins, same = [], []
    for turn in turns:
        if not _differs(item, turn):
            wins.append(0.5 if len(item.dense or ()) > turn else math.nan)
            continue
        both = [_preferences(verdicts, turn, run) for run in range(settings.runs)]
        whole = [(first, second) for first, second in both if first is not None and second is not None]
        wins.append(_mean([((first + second) / 2 + 1) / 2 for first, second in whole]))
        same.append(_mean([float(first == second) for first, second in whole]))
    return {"judge_win": _mean(wins), "judge_same_order": _mean(same)}


def _preferences(verdicts: Mapping[Slot, Verdict], turn: int, run: int) -> tuple[float | None, float | None]:
    """1, 0 or -1 for the variant's answer, in first and in second place; None for a failed verdict."""
    first = verdicts[Slot(turn, run, 0)].values.get("better")
    second = verdicts[Slot(turn, run, 1)].values.get("better")
    return first, None if second is None else 0.0 - second


def _mean(values: Sequence[float]) -> float:
    """The mean, NaN if one is NaN or there is none: a missing part is never left out silently."""
    return sum(values) / len(values) if values else math.nan


# ------------------------------------------------------------------------------------------- two runs


def agreement(verdicts: Mapping[Any, Mapping[Slot, Verdict]]) -> dict[str, dict[str, float | None]]:
    """Agreement of runs on the same questions, over all pairs of runs; `verdicts` by item and slot.

    grade: pairs (grades compared), equal and within_one (shares), difference (mean absolute, points), kappa
    (quadratic weights, None if the grades do not vary). preference: pairs, equal, kappa. Pairs in which a
    verdict failed are counted under failed. Empty with a single run.
    """
    found: dict[str, dict[str, float | None]] = {}
    for name, scale in (("grade", range(LOWEST, HIGHEST + 1)), ("preference", range(-1, 2))):
        pairs, failed = _run_pairs(verdicts, name == "preference")
        if not pairs and not failed:
            continue
        found[name] = {"pairs": len(pairs), "failed": failed}
        if pairs:
            one, other = np.array(pairs).T
            found[name] |= {"equal": float((one == other).mean()), "kappa": _kappa(one, other, scale)}
            if name == "grade":
                apart = np.abs(one - other)
                found[name] |= {"within_one": float((apart <= 1).mean()), "difference": float(apart.mean())}
    return found


def _run_pairs(
    verdicts: Mapping[Any, Mapping[Slot, Verdict]], preference: bool
) -> tuple[list[tuple[float, float]], int]:
    pairs, failed = [], 0
    for slots in verdicts.values():
        for a, b in itertools.combinations(sorted(slots), 2):
            if (a.turn, a.place) != (b.turn, b.place) or (a.place >= 0) != preference:
                continue
            one, other = slots[a].values, slots[b].values
            pairs += [(one[name], other[name]) for name in one if name in other]
            failed += not one or not other
    return pairs, failed


def _kappa(one: np.ndarray, other: np.ndarray, scale: range) -> float | None:
    """Cohen's kappa with quadratic weights; None if all values are the same."""
    from statsmodels.stats.inter_rater import cohens_kappa

    if len({*one, *other}) < 2:
        return None
    table = np.zeros((len(scale), len(scale)))
    for a, b in zip(one, other, strict=True):
        table[scale.index(int(a)), scale.index(int(b))] += 1
    return float(cohens_kappa(table, wt="quadratic", return_results=False))
