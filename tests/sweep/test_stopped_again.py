"""Cells that ended early, later: scored again, reproduced, listed, renamed, stale."""

import pytest

from kick.cli.plan import status
from kick.store import Store
from kick.sweep import reproduce, rescore
from kick.sweep.preview import preview
from kick.sweep.run import RunOptions
from tests.support import stopped_sweep
from tests.support.stopped_sweep import FACTS, LOST, MCQ, Sweep


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    return Sweep(tmp_path / "results", monkeypatch)


def scored_otherwise(monkeypatch, scores=None):
    """Another scoring of the choices: `scores` of every item, or the task's own."""
    task = stopped_sweep.task(MCQ)
    monkeypatch.setattr(task, "scoring", "another")
    if scores:
        monkeypatch.setattr(task, "score", lambda items, responses: [dict(scores) for _ in items])


def test_a_new_scoring_that_decides_alike_asks_nothing(sweep, monkeypatch):
    old = sweep("decided")
    count, loads = sum(sweep.asked.values()), sweep.loads
    scored_otherwise(monkeypatch)
    new = sweep("decided")
    assert (sum(sweep.asked.values()), sweep.loads) == (count, loads)
    for name in LOST:
        before, after = (sweep.cell(planned, name, MCQ) for planned in (old, new))
        assert before[0].key != after[0].key
        assert before[0].stopping == after[0].stopping
        assert before[1] == after[1]
        assert after[0].provenance["rescored"]["from"] == before[0].key


def test_a_new_scoring_under_which_the_rule_goes_on_asks_the_rest_alone(sweep, tmp_path, monkeypatch):
    old = sweep("decided")
    assert sweep.cell(old, "bad", MCQ)[0].stopping["asked"] < 144
    scored_otherwise(monkeypatch, {"acc": 1.0, "acc_norm": 1.0})
    new = sweep("decided")
    assert set(sweep.asked.values()) == {1}
    result, samples = sweep.cell(new, "bad", MCQ)
    assert result.stopping["verdict"] == "matching"
    assert len(samples) == result.stopping["asked"] > sweep.cell(old, "bad", MCQ)[0].stopping["asked"]
    other = Sweep(tmp_path / "other", monkeypatch)
    assert other.bytes(other("decided")) == sweep.bytes(new)


def test_stored_answers_of_a_folder_are_scored_again(sweep, monkeypatch):
    old, told = sweep("decided"), []
    folder = str(sweep.root / "stopped")
    assert rescore.rescore(folder, say=told.append) == len(old.keys)
    assert told == []
    scored_otherwise(monkeypatch, {"acc": 1.0, "acc_norm": 1.0})
    before = sweep.cell(old, "bad", MCQ)[0]
    assert rescore.rescore(folder, say=told.append) < len(old.keys)
    assert f"{before.key} bad {MCQ}: scored so, its rule asks more items, as `kick run` does; left" in told
    count = sum(sweep.asked.values())
    new = sweep("decided")
    assert sweep.cell(new, "dense", MCQ)[0].scores[0].value == 1.0
    assert sum(sweep.asked.values()) > count
    assert set(sweep.asked.values()) == {1}


def test_a_cell_that_ended_early_is_reproduced(sweep):
    planned = sweep("decided")
    result, samples = sweep.cell(planned, "bad", FACTS)
    found = reproduce.reproduce(f"{sweep.root}/stopped/{result.key}")
    assert found.equal
    assert found.answers == len(samples) == result.stopping["asked"] < 96


def test_cells_are_listed_as_done_and_stale_ones_say_why(sweep):
    planned = sweep("decided")
    listed = status([Store(sweep.root, "stopped")])
    assert {one["state"] for one in listed} == {"done"}
    assert len(listed) == len(planned.keys)
    other = stopped_sweep.planned("off")
    (cause,) = {change for one in other.stale(sweep.store) for change in one.changes}
    assert "another `stop`, margin or looks" in cause
    assert len(other.stale(sweep.store)) == len(LOST) * 3


def test_a_margin_is_kept_with_whole_cells_without_asking(sweep):
    planned = sweep()
    count = sum(sweep.asked.values())
    assert sweep(margin=0.2).keys == planned.keys
    assert {result.margin for result in sweep.store.runs()} == {0.2}
    assert sum(sweep.asked.values()) == count


def test_a_plan_says_what_stopping_saves(sweep, monkeypatch):
    sweep._patch()
    options = RunOptions(out=str(sweep.root))
    whole, early = (preview({**stopped_sweep.MATRIX, "stop": stop}, options) for stop in (None, "decided"))
    assert whole.early is None
    assert early.early.seconds == pytest.approx(whole.seconds_left)
    assert early.seconds_left < whole.seconds_left
    assert early.early.items == 5 * (144 + 96 + 6)
    assert early.early.expected < early.early.items
    assert any(line.startswith(f"{FACTS}: 96 items can show a match if dense") for line in early.lines())
    sweep("decided")
    again = preview({**stopped_sweep.MATRIX, "stop": "decided"}, options)
    assert again.early.items == 0
    assert any(line.startswith(f"{FACTS}: dense scores") for line in again.lines())
