"""The bandit under a budget: successive halving by hand, memory, time, regret, and what a log keeps."""

import json
from dataclasses import replace

import pytest

from kick.errors import KickError
from kick.records import CalibrationSpec
from kick.study import budget, budget_pages
from kick.study.budget import BudgetOptions, RecipeArm
from kick.study.halving import Rung, halve, ladder

OPTIONS = BudgetOptions(
    "smoke", 1e9, 10.0, "", CalibrationSpec("kick_mini_calibration", 2, 16), methods=("magnitude",),
    shares=(0.3, 0.5), ranks=(0, 4), length=16, corpus="kick_mini_calibration",
)  # fmt: skip


def test_rungs_share_the_time_and_fit_into_it():
    rungs = ladder(8, 2, seconds=1000.0, each=3.0, per_unit=0.1, step=16)
    assert [one.arms for one in rungs] == [8, 4, 2]
    first = rungs[0].units
    assert [one.units for one in rungs] == [first, 2 * first, 4 * first]
    took = sum(one.arms * (3 + 0.1 * one.units) for one in rungs)
    assert took <= 1000 < took + 24 * 16 * 0.1  # another step per arm would not fit
    assert ladder(8, 2, seconds=45.0, each=3.0, per_unit=0.1, step=16) == []
    assert [one.arms for one in ladder(1, 2, 10.0, 1.0, 0.1, 1)] == [1]


def test_halving_keeps_the_better_half_and_stops_in_time():
    asked = []

    def trial(arm, units):
        asked.append((arm, units))
        return abs(arm - 5) + 1 / units

    rungs = [Rung(8, 1), Rung(4, 2), Rung(2, 4)]
    best = halve(range(8), rungs, trial, lambda: True)
    assert (best.arm, best.units, best.whole) == (5, 4, True)
    assert {arm for arm, units in asked if units == 2} == {4, 5, 6, 3}
    assert {arm for arm, units in asked if units == 4} == {5, 4}
    asked.clear()
    cut = halve(range(8), rungs, trial, lambda: len(asked) < 10)
    assert (cut.arm, cut.units, cut.whole) == (5, 1, False)  # the second rung was cut off after two arms


@pytest.fixture
def measured(monkeypatch):
    """Trials without a model: a clock of their own, and losses in which rank 4 is slow, but ends lower."""
    clock, asked = [0.0], []

    def measure(bench, recipe):
        tokens = recipe[1].options["tokens"] if len(recipe) > 1 else 0
        share = recipe[0].options["sparsity"]
        slow = len(recipe) > 1 and recipe[1].method == "recover-masklora"
        clock[0] += 1 + 0.01 * tokens
        asked.append((share, slow, tokens))
        loss = 4 + float(share) - (0.0001 * tokens if slow else min(0.1, 0.001 * tokens))
        return loss, 200_000_000 - int(100_000_000 * float(share)), 0.01 * tokens

    monkeypatch.setattr(budget.TrialBench, "_measure", measure)
    monkeypatch.setattr(budget.time, "process_time", lambda: clock[0])
    return asked


def found(tmp_path, **more):
    return budget.run(replace(OPTIONS, out=str(tmp_path), **more), lambda _line: None)


def test_the_choice_fits_the_memory_and_the_time_and_is_resumed(tmp_path, measured):
    made = found(tmp_path, memory=160e6, minutes=0.3)
    assert [arm.share for arm in made.fitting] == [0.5, 0.5]  # at 0.3 it has 170 MB
    assert made.best.arm == RecipeArm("magnitude", 0.5, 0)
    assert sum(one.seconds for one in made.trials) <= 18
    before = len(measured)
    log = tmp_path / budget.LOG
    log.write_text(log.read_text()[:-20])  # a kill cut the last line off
    assert found(tmp_path, memory=160e6, minutes=0.3).best == made.best
    assert len(measured) == before + 1
    with pytest.raises(KickError, match="another study"):
        found(tmp_path, memory=150e6, minutes=0.3)


def test_regret_is_the_distance_to_the_best_of_the_grid(tmp_path, measured):
    made = found(tmp_path, minutes=0.5, grid=True)
    units = made.best.units
    losses = [one.loss for one in made.trials if one.tokens == units and one.arm in made.fitting]
    assert len(losses) == 4
    assert made.regret == pytest.approx(made.best.loss - min(losses))
    table, files = budget_pages.write(made, tmp_path)
    assert {one.name for one in files} == {"budget.csv", "budget.md", "budget.png", "budget.pdf"}
    assert table.rows[0][0] == f"magnitude {made.best.arm.share:g}"
    recipe = json.loads(budget_pages.told(made).partition("A variant of a matrix: ")[2])["recipe"]
    assert recipe[1]["tokens"] == units


@pytest.mark.parametrize(
    ("more", "message", "trials"),
    [
        ({"memory": 1e6}, "the smallest is magnitude at 0.5, 150.0 MB", 2),  # a size per share
        ({"minutes": 0.1}, "need about", 3),  # the sizes, and what a token costs
        ({"methods": ("rtn",)}, "does not prune", 0),
        ({"methods": ("wandaa",)}, "did you mean 'wanda'", 0),
        ({"ranks": ()}, "at least a method", 0),
        ({"windows": 0}, "--windows: got 0", 0),
    ],
)
def test_what_cannot_be_is_said_after_no_more_trials_than_needed(tmp_path, measured, more, message, trials):
    with pytest.raises(KickError, match=message):
        found(tmp_path, **more)
    assert len(measured) == trials
