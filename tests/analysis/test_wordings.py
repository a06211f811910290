"""Spread over prompts: the variance component, its intervals and difference; influences' correlation."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from kick.analysis import wordings
from kick.analysis.frame import read
from kick.report import tables
from tests.support.synthetic import DENSE, FakeStore, fill, pruned

PROMPTS = 6


def right(rng, n, level, shifts):
    """Answers `(n, prompts)` of items of different difficulty under prompts with an effect each."""
    chance = np.clip(level + rng.normal(0, 0.2, (n, 1)) + np.asarray(shifts), 0, 1)
    return (rng.random((n, len(shifts))) < chance).astype(float)


def test_the_noise_of_items_is_taken_off_and_nothing_else():
    rng = np.random.default_rng(1)
    shifts = np.array([-0.1, -0.05, 0.0, 0.0, 0.05, 0.1])
    none, some = [], []
    for _ in range(400):
        for found, own in ((none, 0 * shifts), (some, shifts)):
            answers = right(rng, 80, 0.5, own)
            found.append(answers.mean(axis=0).var(ddof=1) - wordings.noise(answers))
    assert np.mean(none) == pytest.approx(0, abs=3 * np.std(none) / 20)
    assert np.mean(some) == pytest.approx(shifts.var(ddof=1), abs=3 * np.std(some) / 20)


def test_the_noise_is_the_interaction_mean_square_over_n():
    rng = np.random.default_rng(2)
    answers = right(rng, 30, 0.5, [0.0, 0.1, -0.1])
    n, prompts = answers.shape
    left = answers - answers.mean(0) - answers.mean(1, keepdims=True) + answers.mean()
    assert wordings.noise(answers) == pytest.approx((left**2).sum() / ((n - 1) * (prompts - 1)) / n)


def stored(shifts, n=160):
    """A store of dense and a variant with answers under six prompts, whose effects are `shifts` of each."""
    store = fill(FakeStore(), [DENSE, pruned("magnitude", 0.5)], ["kick_mini_mcq"], n=n)
    rng = np.random.default_rng(5)
    for result in list(store.runs()):
        answers = right(rng, n, 0.6, shifts[0 if result.cell.variant.dense else 1])
        told = [
            replace(one, scores={"acc": row.mean(), **{f"acc@p{k}": v for k, v in enumerate(row, 1)}})
            for one, row in zip(store.samples(result.key), answers, strict=True)
        ]
        more = [replace(result.scores[0], metric=f"acc@p{k}") for k in range(1, PROMPTS + 1)]
        store.put(replace(result, scores=(*result.scores, *more)), told)
    return store


def test_a_variant_that_depends_on_the_prompt_is_told_from_dense():
    apart = [-0.25, -0.15, -0.05, 0.05, 0.15, 0.25]
    frame = read([stored([[0.0] * PROMPTS, apart])]).frame
    row = frame[(frame["metric"] == "prompt_spread") & ~frame["dense"]].iloc[0]
    assert row["low"] <= row["value"] <= row["high"]
    assert row["gap_low"] > 0
    assert row["value"] == pytest.approx(np.std(apart, ddof=1), abs=0.05)
    worst = frame[(frame["metric"] == "prompt_worst") & ~frame["dense"]].iloc[0]
    means = [frame[(frame["metric"] == f"acc@p{k}") & ~frame["dense"]].iloc[0]["value"] for k in (1, 2)]
    assert worst["value"] <= min(means) + 1e-9
    drawn = tables.known["wordings"].make(frame)
    assert [line[0] for line in drawn.cells] == ["dense", row["label"]]
    assert drawn.cells[0][6] == ""


def test_equal_prompts_show_no_difference():
    frame = read([stored([[0.0] * PROMPTS] * 2)]).frame
    row = frame[(frame["metric"] == "prompt_spread") & ~frame["dense"]].iloc[0]
    assert row["gap_low"] <= 0 <= row["gap_high"]


def test_influences_are_correlated_with_denses():
    store = fill(FakeStore(), [DENSE, pruned("magnitude", 0.5)], ["kick_mini_mcq"], n=64)
    rng, columns = np.random.default_rng(7), {}
    base = rng.normal(0, 1, 64)
    for result in list(store.runs()):
        values = base if result.cell.variant.dense else base + rng.normal(0, 0.7, 64)
        columns[result.cell.variant.dense] = values
        told = [
            replace(one, scores={"influence": value, "moved": abs(value)})
            for one, value in zip(store.samples(result.key), values, strict=True)
        ]
        scores = (replace(result.scores[0], metric="influence"), replace(result.scores[0], metric="moved"))
        store.put(replace(result, scores=scores), told)
    frame = read([store]).frame
    rows = frame[frame["metric"] == "influence_rho"]
    assert list(rows["dense"]) == [False]
    row = rows.iloc[0]
    assert row["value"] == pytest.approx(stats.spearmanr(columns[True], columns[False]).statistic)
    assert 0 < row["low"] < row["value"] < row["high"] <= 1
