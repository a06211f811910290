"""`kick extend`: more items of chosen cells, in the same order, until they are decided or precise."""

from dataclasses import replace

import pytest

from kick.analysis import cells
from kick.errors import KickError
from kick.stats.sequential import Rule
from kick.sweep.extend import HEADS, ExtendOptions, extend
from tests.support.stopped_sweep import FACTS, MCQ, Sweep

FUTILE = {"stop": "decided", "looks": [24, 48, 96]}


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """A sweep in which `slight` ended as undecided on facts: at so few items nothing can be shown."""
    made = Sweep(tmp_path / "results", monkeypatch)
    made.planned = made(**FUTILE)
    return made


def extended(sweep, **options):
    told = []
    how = ExtendOptions(executor="inline", view="json", **options)
    return extend(f"{sweep.root}/stopped", how, told.append), told


def open_cells(sweep):
    """Cells that ended undecided, by variant and task."""
    return {
        (run.cell.variant.name, run.cell.task.name): run
        for run in sweep.store.runs()
        if run.stopping.get("reason") == "futile"
    }


def test_an_undecided_cell_is_asked_on_in_the_same_order(sweep):
    (variant, task), before = next(iter(open_cells(sweep).items()))
    count = sum(sweep.asked.values())
    (found,), told = extended(sweep, until=(f"{variant} matches on {task}",))
    assert set(sweep.asked.values()) == {1}, "what was answered is not asked again"
    new, old = sweep.store.result(found.key), sweep.store.samples(before.key)
    assert (found.before, found.asked, found.of) == (len(old), new.counts["items"], before.stopping["of"])
    assert sum(sweep.asked.values()) > count
    assert sweep.store.samples(found.key)[: len(old)] == old
    assert new.stopping["reason"] in ("decided", "all asked")
    assert new.key != before.key
    rule = Rule.of(new.cell.task.stop)
    assert (rule.futility, rule.looks, rule.margin) == (0.0, (24, 48, 96), 0.05)
    assert any(f"{variant} on {task}: undecided at {len(old)} items of" in line for line in told)
    assert told[-1].startswith(f"{variant} matches on {task}: ")
    assert len(found.row()) == len(HEADS)


def test_a_reader_shows_the_extended_cell_and_a_run_leaves_it_alone(sweep):
    (variant, task), before = next(iter(open_cells(sweep).items()))
    (found,), _ = extended(sweep, until=(f"{variant} decided on {task}",))
    shown, _ = cells.gather([sweep.store])
    (cell,) = [c for c in shown if (c.variant.name, c.run.cell.task.name) == (variant, task)]
    assert cell.run.key == found.key
    count = sum(sweep.asked.values())
    assert sweep(**FUTILE).keys == sweep.planned.keys
    assert sweep.store.done(before.key)
    assert sum(sweep.asked.values()) == count
    again, told = extended(sweep, until=(f"{variant} decided on {task}",))
    assert again == []
    assert "nothing is left to ask" in told[0]


def test_precision_asks_on_what_is_decided(sweep):
    before, _ = sweep.cell(sweep.planned, "bad", MCQ)
    assert before.stopping["reason"] == "decided"
    (found,), _ = extended(sweep, precision=8.0, variants=("bad",), tasks=(MCQ,))
    after = sweep.store.result(found.key).stopping
    assert found.asked > found.before
    assert (after["high"] - after["low"]) / 2 <= 0.08 or after["asked"] == after["of"]
    assert Rule.of(sweep.store.result(found.key).cell.task.stop).precision == 0.08


def test_each_cell_keeps_the_margin_that_it_was_asked_with(sweep):
    (variant, _), before = next(iter(open_cells(sweep).items()))
    other, samples = sweep.cell(sweep.planned, "bad", MCQ)
    sweep.store.put(replace(other, margin=0.1), samples)
    found, _ = extended(sweep, precision=8.0, cells=(before.key, other.key))
    margins = {one.variant: sweep.store.result(one.key).margin for one in found}
    assert margins == {variant: 0.05, "bad": 0.1}


def test_a_claim_on_a_decided_cell_is_answered_without_asking(sweep):
    loads = sweep.loads
    found, told = extended(sweep, until=(f"bad matches on {FACTS}",))
    assert (found, sweep.loads) == ([], loads)
    assert told[-1] == f"bad matches on {FACTS}: no (worse)"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "until when?"),
        ({"precision": 0.0}, "--precision: got 0; expected: a number of points above 0"),
        ({"precision": float("nan")}, "--precision: got nan; expected: a number of points above 0"),
        ({"precision": -1.0}, "--precision: got -1; expected: a number of points above 0"),
        ({"until": ("bad",)}, "--until: got 'bad'; expected: VARIANT matches"),
        ({"until": ("badd matches",)}, "did you mean 'bad'"),
        ({"until": ("bad matches on facts",)}, "unknown task of bad 'facts'"),
        ({"precision": 2.0, "cells": ("0123",)}, "unknown cell that a rule can end '0123'"),
    ],
)
def test_what_cannot_be_extended_is_said(sweep, options, words):
    with pytest.raises(KickError) as caught:
        extended(sweep, **options)
    assert words in str(caught.value)


def test_results_without_such_cells_are_refused(sweep, tmp_path, monkeypatch):
    other = Sweep(tmp_path / "other", monkeypatch)
    other()
    with pytest.raises(KickError, match="no cell that a rule could end early; run a matrix with --stop"):
        extended(other, precision=2.0)


def test_cells_are_asked_on_by_the_engine_that_answered_them(sweep, monkeypatch):
    (variant, task), run = next(iter(open_cells(sweep).items()))
    told = {**run.provenance, "engine": {**run.provenance["engine"], "backend": "layered"}}
    sweep.store.put(replace(run, provenance=told), sweep.store.samples(run.key))

    def worker(**given):
        raise KickError(f"{given['backend']}, {given['engine']['how'].generate}")

    monkeypatch.setattr("kick.sweep.extend.Worker", worker)
    with pytest.raises(KickError, match="layered, True"):
        extended(sweep, until=(f"{variant} matches on {task}",))
    told["engine"]["backend"] = "gone"
    sweep.store.put(replace(run, provenance=told), sweep.store.samples(run.key))
    with pytest.raises(KickError, match="answered by another engine: unknown engine 'gone'"):
        extended(sweep, until=(f"{variant} matches on {task}",))
