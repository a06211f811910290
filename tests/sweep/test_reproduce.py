"""A stored cell run again: a judge's scores are not compared, other scores are, whichever run lacks them."""

from dataclasses import replace

from kick.records import Score
from kick.store import Store
from kick.sweep import reproduce


def score(metric, value):
    return Score(metric, value, 2, None, None, None)


def test_a_judged_cell_is_reproduced(smoke_results, tmp_path):
    stored = Store(smoke_results)
    old = next(run for run in stored.runs() if run.cell.variant.dense)
    judged = [*old.scores, score("judge", 7.5), score("judge_win", 0.5)]
    copy = Store(tmp_path, old.matrix)
    copy.put(replace(old, scores=tuple(judged)), stored.samples(old.key))
    found = reproduce.reproduce(f"{tmp_path}/{old.matrix}/{old.key}")
    assert found.equal
    assert [row[0] for row in reproduce.rows(found)[:-1]] == [score.metric for score in old.scores]


def test_a_score_that_one_run_does_not_have_is_a_difference():
    acc, f1 = score("acc", 0.5), score("f1", 0.25)
    found = reproduce.Reproduction((acc, f1), (acc,), 2, 0)
    assert not found.equal
    assert ["f1", "0.25", "not computed", "differs"] in reproduce.rows(found)
    found = reproduce.Reproduction((acc,), (f1, acc), 2, 0)
    assert not found.equal
    assert ["f1", "not computed", "0.25", "differs"] in reproduce.rows(found)
    assert reproduce.Reproduction((acc, f1), (f1, acc), 2, 0).equal
