"""Cells that ended early say what they know: n of N, the score by strata, the verdict of their record."""

import math
from dataclasses import replace

import numpy as np
import pytest

from kick.analysis.ended import stop_of
from kick.analysis.frame import read
from kick.report import wording
from kick.stats.sequential import Rule
from tests.support.early import end_early, of
from tests.support.synthetic import BATCH, DENSE, FakeStore, fill, pruned, quantized

TASK, N = "kick_mini_factoid", 256
BOOKS = ("kick_mini_closed", "kick_mini_open")
TASKS = (TASK, *BOOKS)
VARIANTS = (DENSE, BATCH, pruned("wanda", 0.3), pruned("magnitude", 0.7), pruned("wanda", 0.5))


@pytest.fixture(scope="module")
def whole():
    return fill(FakeStore(), VARIANTS, TASKS, n=N)


@pytest.fixture(scope="module")
def store(whole):
    made = FakeStore(dict(whole.results), dict(whole.items))
    for task in (TASK, "kick_mini_closed"):
        end_early(made, "magnitude-0.7", task)
    end_early(made, "wanda-0.3", TASK, Rule(futility=0.9))  # a verdict is not as likely as that
    return made


@pytest.fixture(scope="module")
def report(store):
    return read([store])


def row(frame, name, metric="exact_match", task=TASK):
    found = frame[
        frame["variant"].eq(name)
        & frame["task"].eq(task)
        & frame["metric"].eq(metric)
        & frame["group"].eq("")
    ]
    assert len(found) == 1
    return found.iloc[0]


def test_the_score_is_denses_and_the_gap_by_its_own_answers(store, report):
    found, run = row(report.frame, "magnitude-0.7"), of(store, "magnitude-0.7", TASK)
    theirs = np.array([sample.scores["exact_match"] for sample in store.samples(run.key)])
    dense = np.array([s.scores["exact_match"] for s in store.samples(of(store, "dense", TASK).key)])
    n, share = len(theirs), dense.mean()
    asked = dense[:n]
    lost, won = ((asked == 1) & (theirs == 0)).sum(), ((asked == 0) & (theirs == 1)).sum()
    gap = -share * lost / asked.sum() + (1 - share) * won / (n - asked.sum())
    assert n < N
    assert found["gap"] == pytest.approx(gap)
    assert found["value"] == pytest.approx(share + gap)
    assert abs(found["value"] - theirs.mean()) > 1e-3, "not the plain mean of the items asked"
    assert (found["n"], found["of"], found["lost"], found["won"]) == (n, N, lost, won)
    assert found["same"] == n - lost - won
    assert found["dense_value"] == pytest.approx(share)
    assert (found["stopped"], wording.verdict(found)) == ("decided", "worse")
    assert found["unasked_seconds"] == pytest.approx(0.5 * (N - n))  # 0.5 seconds per item
    assert found["doubt"] == ""


def test_its_intervals_are_the_repeated_ones(store, report):
    found, stop = row(report.frame, "wanda-0.3"), stop_of(of(store, "wanda-0.3", TASK))
    dense = row(report.frame, "dense")
    assert (found["gap_low"], found["gap_high"]) == pytest.approx((stop.low, stop.high))
    assert (found["stopped"], found["verdict"]) == ("futile", "undecided")
    down = math.hypot(stop.gap - stop.low, dense["value"] - dense["low"])
    assert found["low"] == pytest.approx(found["value"] - down)
    assert found["relative_low"] == pytest.approx(stop.low / dense["value"])


def test_what_assumes_all_items_leaves_it_out(report):
    frame = report.frame
    rows = frame[frame["stopped"].ne("")]
    assert set(rows["label"]) == {"magnitude 70 %", "wanda 30 %"}
    assert rows[["p", "p_holm", "detectable"]].isna().all(axis=None)
    assert rows["group"].eq("").all(), "no groups"
    assert rows.loc[~rows["primary"], "verdict"].eq("").all()
    books = frame[frame["task"].str.contains("|", regex=False)]
    assert set(books["variant"]) == {"dense", "dense-batch", "wanda-0.3", "wanda-0.5"}
    others = frame[frame["stopped"].eq("") & ~frame["dense"] & frame["group"].eq("")]
    assert (others["of"] == others["n"] + others["missing"]).all()


def test_other_metrics_are_of_the_items_asked_on_both_sides(store, report):
    found, run = row(report.frame, "magnitude-0.7", "f1"), of(store, "magnitude-0.7", TASK)
    theirs = np.array([sample.scores["f1"] for sample in store.samples(run.key)])
    dense = np.array([s.scores["f1"] for s in store.samples(of(store, "dense", TASK).key)])[: len(theirs)]
    assert found["value"] == pytest.approx(theirs.mean())
    assert found["dense_value"] == pytest.approx(dense.mean())
    assert found["gap"] == pytest.approx((theirs - dense).mean())
    assert found["gap_low"] < found["gap"] < found["gap_high"]
    assert found["of"] == N


def test_seeds_are_spread_over_whole_cells_alone():
    store = fill(FakeStore(), [DENSE, pruned("wanda", 0.7), pruned("wanda", 0.7, seed=1)], [TASK], n=N)
    end_early(store, "wanda-0.7-seed1", TASK)
    found = row(read([store]).frame, "wanda-0.7")
    assert (found["seeds"], found["seed_mean"]) == (1, found["value"])


def test_unread_items_leave_the_records_score_and_gap(store):
    found = row(read([store], paired=False).frame, "magnitude-0.7")
    stop = stop_of(of(store, "magnitude-0.7", TASK))
    assert (found["value"], found["gap"]) == pytest.approx((stop.score, stop.gap))
    assert math.isnan(found["low"])
    other = row(read([store], paired=False).frame, "magnitude-0.7", "f1")
    assert math.isnan(other["gap"]), "its score is of n items, and dense's of all"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"verdict": "matching"}, "its record says 'matching', and the rule says 'worse'"),
        ({"gap": -0.01}, "its record says a gap of -0.01, and its samples say -0"),
        ({"high": 0.3}, "its record says a high of 0.3"),
        ({"asked": 20}, "its record says 20 of 256 items"),
        ({"of": 300}, "of 300 items"),
    ],
)
def test_a_record_that_its_samples_do_not_confirm_is_a_doubt(store, change, said):
    run = of(store, "magnitude-0.7", TASK)
    false = FakeStore(dict(store.results), dict(store.items))
    false.results[run.key] = replace(run, stopping={**run.stopping, **change})
    report = read([false])
    doubts = [note for note in report.notes if "measure it again" in note]
    assert len(doubts) == 1
    assert said in doubts[0]
    assert doubts[0].startswith("magnitude 70 % on Closed-book facts")
    if "of" not in change:
        assert row(report.frame, "magnitude-0.7")["verdict"] == "not matching", "what the samples say"


def test_a_cell_that_was_cut_where_no_rule_ends_is_a_doubt(whole):
    cut = FakeStore(dict(whole.results), dict(whole.items))
    end_early(cut, "wanda-0.3", TASK, Rule(futility=0.0), at=30)
    assert any("the rule would not have ended it after 30 items" in note for note in read([cut]).notes)


@pytest.mark.parametrize("change", [{"asked": "many"}, {"asked": 300}, {"gap": "low"}, {"reason": None}])
def test_an_invalid_record_leaves_the_cell_out(store, change):
    run = of(store, "magnitude-0.7", TASK)
    false = FakeStore(dict(store.results), dict(store.items))
    false.results[run.key] = replace(run, stopping={**run.stopping, **change})
    report = read([false])
    assert any("Left out: magnitude 70 %" in note and "invalid record" in note for note in report.notes)
    assert not (report.frame["key"] == run.key).any()


def test_a_cell_that_was_asked_to_the_end_has_the_rules_verdict(whole):
    store = FakeStore(dict(whole.results), dict(whole.items))
    run = end_early(store, "wanda-0.5", TASK, Rule(futility=0.0))
    assert run.stopping["asked"] == N
    other = FakeStore(dict(store.results), dict(store.items))
    other.results[run.key] = replace(run, stopping={**run.stopping, "verdict": "matching"})
    found, changed = (row(read([one]).frame, "wanda-0.5") for one in (store, other))
    assert (found["n"], found["of"], found["stopped"]) == (N, N, "")
    assert found["verdict"] == {"worse": "not matching"}.get(run.stopping["verdict"], run.stopping["verdict"])
    assert changed["verdict"] == "matching"
    assert math.isfinite(found["p"])


def test_a_stopped_cell_does_not_take_the_place_of_a_whole_one(whole):
    store = FakeStore(dict(whole.results), dict(whole.items))
    before = of(store, "magnitude-0.7", TASK)
    short = end_early(store, "magnitude-0.7", TASK)
    short = replace(short, provenance={**short.provenance, "time": "2026-02-01T00:00:00+00:00"})
    store.results[short.key] = short
    assert row(read([store]).frame, "magnitude-0.7")["n"] < N
    store.put(before, whole.samples(before.key))
    assert row(read([store]).frame, "magnitude-0.7")["n"] == N


def test_verdicts_are_by_the_margin_of_the_cell():
    store = fill(FakeStore(), [DENSE, quantized("gptq", 8)], ["kick_mini_perplexity"])
    key = of(store, "gptq-8bit", "kick_mini_perplexity").key
    run, nll = store.results[key], store.items[key]
    store.items[key] = [
        replace(one, scores={"nll": other.scores["nll"] + math.log(1.03)})
        for one, other in zip(nll, store.items[of(store, "dense", "kick_mini_perplexity").key], strict=True)
    ]
    found = {}
    for margin in (0.05, 0.02):
        store.results[key] = replace(run, margin=margin)
        frame = read([store]).frame
        found[margin] = row(frame, "gptq-8bit", "perplexity", "kick_mini_perplexity")
        assert found[margin]["margin"] == margin
    assert (found[0.05]["verdict"], found[0.02]["verdict"]) == ("matching", "not matching")


@pytest.mark.parametrize(
    ("task", "metric", "rule", "reason"),
    [
        ("kick_mini_perplexity", "perplexity", Rule(), "decided"),
        ("kick_mini_summary", "rougeL", Rule(futility=0.99), "futile"),
        ("kick_mini_fidelity", "fdt", Rule(precision=4.0), "precise"),
    ],
)
def test_every_kind_of_score_is_denses_of_all_and_the_gap_of_those_asked(task, metric, rule, reason):
    store = fill(FakeStore(), [DENSE, pruned("wanda", 0.3)], [task])
    run = end_early(store, "wanda-0.3", task, rule)
    found = row(read([store]).frame, "wanda-0.3", metric, task)
    column = {"perplexity": "nll"}.get(metric, metric)
    dense, theirs = (
        np.array([sample.scores[column] for sample in store.samples(of(store, name, task).key)])
        for name in ("dense", "wanda-0.3")
    )
    n = len(theirs)
    assert n < len(dense)
    score = dense.mean() + (theirs - dense[:n]).mean()
    score = math.exp(score) if metric == "perplexity" else score
    assert found["value"] == pytest.approx(score)
    assert (found["doubt"], found["stopped"], found["n"]) == ("", reason, n)
    assert found["gap_low"] <= found["gap"] <= found["gap_high"]
    assert found["low"] <= found["value"] <= found["high"]
    assert run.stopping["score"] == pytest.approx(score)
