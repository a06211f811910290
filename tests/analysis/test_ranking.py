"""Ranks are by the mean share of dense's scores kept, with intervals that say what is tied."""

import pandas as pd
import pytest

from kick.analysis.frame import read
from kick.analysis.ranking import ranks, said
from tests.support.synthetic import DENSE, FakeStore, fill, pruned


def row(label, task, share, half, **more):
    """A row of the frame: dense has 0.5, or a perplexity of 50."""
    up = more.get("higher_is_better", True)
    dense = 0.5 if up else 50.0
    relative = (share if up else 1 / share) - 1
    ends = (relative - half, relative + half)
    columns = {
        "label": label, "task": task, "title": task, "setting": "", "group": "", "primary": True,
        "replica": "", "trains": False, "task_data": False, "leaked": 0,
        "dense": label == "dense", "metric": "exact_match" if up else "perplexity", "foreign": False,
        "dense_value": dense, "value": dense * (1 + relative), "higher_is_better": up,
        "relative": relative, "relative_low": ends[0], "relative_high": ends[1],
    }  # fmt: skip
    return columns | more


def test_shares_are_averaged_over_tasks_and_lower_is_better_is_turned_round():
    lines = [row("dense", "a", 1.0, 0.0), row("dense", "b", 1.0, 0.0, higher_is_better=False)]
    lines += [row("x", "a", 0.8, 0.0), row("x", "b", 0.5, 0.0, higher_is_better=False)]
    lines += [row("y", "a", 0.4, 0.0), row("y", "b", 0.25, 0.0, higher_is_better=False)]
    found = ranks(pd.DataFrame(lines))
    assert {label: one.kept for label, one in found.items()} == pytest.approx(
        {"dense": 1, "x": 0.65, "y": 0.325}
    )
    assert {label: (one.place, one.text) for label, one in found.items()} == {
        "dense": (1, "1"), "x": (2, "2"), "y": (3, "3"),
    }  # fmt: skip


def test_ties_inside_the_noise_share_an_interval_and_equal_ones_the_place():
    lines = [
        row("dense", "a", 1.0, 0.0),
        row("x", "a", 0.6, 0.2),
        row("y", "a", 0.58, 0.2),
        row("z", "a", 0.1, 0.02),
    ]
    found = ranks(pd.DataFrame(lines))
    assert (found["x"].text, found["y"].text, found["z"].text) == ("2\u20133", "2\u20133", "4")
    same = ranks(
        pd.DataFrame([row("dense", "a", 1.0, 0.0), row("x", "a", 0.6, 0.0), row("y", "a", 0.6, 0.0)])
    )
    assert same["x"] == same["y"]
    assert same["x"].text == "2\u20133"


def test_who_was_not_asked_everything_has_no_rank():
    lines = [row("dense", "a", 1.0, 0.0), row("dense", "b", 1.0, 0.0), row("x", "a", 0.9, 0.0)]
    assert ranks(pd.DataFrame(lines)) == {}
    store = fill(FakeStore(), [DENSE, pruned("wanda", 0.5)], ["kick_mini_fidelity"], n=12)
    assert ranks(read([store]).frame) == {}, "a distance to dense is not a score"


def test_variants_that_train_or_see_task_data_change_no_rank_of_others():
    lines = [row("dense", "a", 1.0, 0.0), row("x", "a", 0.6, 0.2), row("y", "a", 0.5, 0.2)]
    own = [row("z", "a", 0.9, 0.1, trains=True), row("v", "a", 0.7, 0.1, task_data=True)]
    found = ranks(pd.DataFrame(lines + own))
    assert {label: found[label] for label in ("dense", "x", "y")} == ranks(pd.DataFrame(lines))
    assert {label: (one.place, one.apart) for label, one in found.items() if label in "zv"} == {
        "z": (2, True), "v": (3, True),
    }  # fmt: skip
    assert "ranked apart" in said(found)
    alone = ranks(pd.DataFrame(lines[:1] + own))
    assert not any(one.apart for one in alone.values()), "there are no others to be apart from"
    assert "ranked apart" not in said(alone)
