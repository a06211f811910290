"""`stop: decided` from matrix to store: what is asked, in which order, kept, taken from other cells."""

import random

import pytest

from kick.cli.plan import status
from kick.records import Cell, ModelSpec, Request, Response, TaskSpec, Variant
from kick.stats.sequential import Rule, looks
from kick.store import Partial
from kick.sweep import together
from kick.tasks.evaluate import InMemory, Phase
from tests.support import stopped_sweep
from tests.support.stopped_sweep import FACTS, FIDELITY, LIMIT, LOST, MCQ, Killed, Sweep


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    return Sweep(tmp_path / "results", monkeypatch)


@pytest.fixture
def other(tmp_path, monkeypatch):
    """A sweep into another store."""
    return Sweep(tmp_path / "other", monkeypatch)


def items(name):
    return stopped_sweep.task(name).items(TaskSpec(name, limit=LIMIT[name]), None)


def test_variants_end_when_their_verdict_is_known_and_dense_is_asked_in_full(sweep):
    planned = sweep("decided")
    for name, task, count in (("dense", MCQ, 144), ("dense-batch", FACTS, 96), ("dense", FIDELITY, 6)):
        result, samples = sweep.cell(planned, name, task)
        assert (len(samples), result.stopping, result.cell.task.stop) == (count, {}, "")
    for name, verdict in {"bad": "worse"}.items():
        for task, total in ((MCQ, 144), (FACTS, 96)):
            result, samples = sweep.cell(planned, name, task)
            _, whole = sweep.cell(planned, "dense", task)
            stopping = result.stopping
            assert (stopping["verdict"], stopping["reason"], stopping["of"]) == (verdict, "decided", total)
            assert stopping["asked"] == len(samples) == result.counts["items"] in looks(total, Rule())[:-1]
            assert [sample.item for sample in samples] == [sample.item for sample in whole[: len(samples)]]
            assert {score.n for score in result.scores if score.metric == "acc"} <= {len(samples)}
            assert result.seconds["answer"] >= 0
            assert result.margin == 0.05
    asked = sweep.cell(planned, "bad", MCQ)[0].stopping["asked"]
    notes = {(one["variant"], one["task"]): one["note"] for one in status([sweep.store])}
    assert notes["bad", MCQ] == f"{asked} of 144 items asked: worse"
    assert notes["dense", MCQ] == notes["bad", FIDELITY] == ""
    result, samples = sweep.cell(planned, "bad", FIDELITY)  # a distance has no verdict
    assert (len(samples), result.stopping["reason"], result.stopping["asked"]) == (6, "all asked", 6)


def test_each_round_is_one_call_with_the_next_wave_of_every_open_cell(sweep):
    planned = sweep("decided")
    calls = [contexts for variant, contexts in sweep.calls if variant == "bad"]
    waves = {task: looks(LIMIT[task], Rule()) for task in (MCQ, FACTS)}
    first = [item.requests[0].context for task in (MCQ, FACTS) for item in items(task)[: waves[task][0]]]
    assert list(dict.fromkeys(calls[0])) == first
    ended = [sweep.cell(planned, "bad", task)[0].stopping["asked"] for task in (MCQ, FACTS)]
    rounds = max(waves[task].index(end) + 1 for task, end in zip((MCQ, FACTS), ended, strict=True))
    assert len(calls) == rounds + 1, "and one of the cell without a rule, last"
    assert len(calls[-1]) == LIMIT[FIDELITY]


def test_without_stop_cells_are_asked_one_after_another(sweep):
    planned = sweep()
    for variant in ("dense", "slight"):
        calls = [contexts for name, contexts in sweep.calls if name == variant]
        assert [len(set(contexts)) for contexts in calls[:3]] == [LIMIT[MCQ], LIMIT[FACTS], LIMIT[FIDELITY]]
        assert list(dict.fromkeys(calls[0])) == [item.requests[0].context for item in items(MCQ)]
    assert all(not sweep.store.result(key).stopping for key in planned.keys)


def test_a_run_without_stop_asks_only_what_one_with_it_left(sweep, other):
    stopped = sweep("decided")
    before = sweep.asked.copy()
    planned = sweep()
    assert sweep.store.done_among(stopped.keys) == set(stopped.keys)
    assert set(sweep.asked.values()) == {1}, "no question is asked twice"
    fresh = other()
    assert planned.keys == fresh.keys
    assert sweep.bytes(planned) == other.bytes(fresh)
    assert sweep.asked == other.asked
    assert 0 < sum(before.values()) < sum(other.asked.values())
    result, _ = sweep.cell(planned, "bad", MCQ)
    left, _ = sweep.cell(stopped, "bad", MCQ)
    assert result.provenance["reused"] == {"from": [left.key], "items": left.counts["items"]}
    assert result.scores == other.cell(fresh, "bad", MCQ)[0].scores


def test_a_run_with_stop_after_a_whole_one_asks_nothing_and_loads_no_model(sweep, other):
    sweep()
    count, loads = sum(sweep.asked.values()), sweep.loads
    planned = sweep("decided")
    assert (sum(sweep.asked.values()), sweep.loads) == (count, loads)
    fresh = other("decided")
    assert sweep.bytes(planned) == other.bytes(fresh)
    for name in LOST:
        ours, theirs = (one.cell(plan, name, MCQ)[0] for one, plan in ((sweep, planned), (other, fresh)))
        assert (ours.scores, ours.stopping, ours.counts) == (theirs.scores, theirs.stopping, theirs.counts)
        assert ours.provenance["replayed"]["from"]


def test_another_margin_takes_what_is_there_and_asks_on(sweep, other):
    sweep("decided")
    planned = sweep("decided", margin=0.2)
    assert set(sweep.asked.values()) == {1}
    assert sweep.bytes(planned) == other.bytes(other("decided", margin=0.2))
    assert sweep.cell(planned, "slight", MCQ)[0].margin == 0.2


@pytest.mark.parametrize("seed", [1, 2])
def test_a_kill_in_any_wave_loses_no_chunk_and_changes_no_answer(sweep, other, monkeypatch, seed):
    fresh = other("decided")
    total = sum(other.asked.values())
    sweep.kills = set(random.Random(seed).sample(range(1, total), 6))
    whole, leave = len(sweep.kills), Partial.__exit__
    for _ in range(whole):
        monkeypatch.setattr(Partial, "__exit__", lambda *args: None)  # what is not in a chunk is lost
        with pytest.raises(Killed):
            sweep("decided")
    monkeypatch.setattr(Partial, "__exit__", leave)
    planned = sweep("decided")
    assert sweep.bytes(planned) == other.bytes(fresh)
    twice = sum(sweep.asked.values()) - total
    assert twice <= whole * 31 * 2, "of each kill at most a chunk of each of the two cells in a round"


def test_a_cell_that_raises_in_a_joint_call_costs_no_other(sweep, other):
    fresh = other("decided")
    late = items(FACTS)[30].requests[0].context  # of the second wave
    sweep.refuses = lambda variant, request: variant == "slight" and request.context == late
    planned = sweep("decided")
    (failure,) = sweep.store.failures()
    assert (failure.cell.variant.name, failure.cell.task.name) == ("slight", FACTS)
    assert failure.cause == "RuntimeError: the sum is not finite"
    assert "stopped_sweep.py" in failure.traceback
    assert sweep.store.done_among(planned.keys) == set(planned.keys) - {failure.key}
    assert set(sweep.asked.values()) == {1}, "asked apart, a cell's kept answers are not asked again"
    sweep.refuses = None
    planned = sweep("decided")
    assert sweep.bytes(planned) == other.bytes(fresh)
    assert sweep.asked == other.asked


def asking(*requests):
    """A cell that waits for these."""
    phase = Phase(requests, InMemory())
    cell = Cell(Variant("v", ModelSpec("m")), TaskSpec("t"))
    return together.OpenCell(cell, iter(()), phase=phase)


def test_the_seconds_of_a_joint_call_are_shared_by_kind_and_then_by_tokens(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(together.time, "perf_counter", lambda: now[0])

    class Timed:
        """Ten seconds for all choices, then thirty for all that is generated, and two to end."""

        def answer(self, requests, on_done):
            for kind, seconds in (("loglikelihood", 10), ("generate", 30)):
                of_kind = [i for i, request in enumerate(requests) if request.kind == kind]
                for i in of_kind:
                    now[0] += seconds / len(of_kind)
                    on_done(i, Response(count=5))
            now[0] += 2

    choices = [Request("loglikelihood", "x" * 36, "yyyy")] * 2  # 10 tokens each
    mixed = asking(*choices, Request("generate", "x" * 80))  # 20 tokens read, 5 generated as 4 each: 40
    other = asking(Request("generate", "x" * 400), Request("loglikelihood", "x" * 80))  # 100 + 20, 20
    together.answer(Timed(), [mixed, other])
    assert mixed.seconds == {"answer": pytest.approx(10 * 20 / 40 + 32 * 40 / 160)}
    assert other.seconds == {"answer": pytest.approx(10 * 20 / 40 + 32 * 120 / 160)}
    assert (mixed.asked, other.asked) == (3, 2)
