"""The order in which a variant is asked: its first items must be like the rest."""

import pytest

from kick.analysis.stopping import Stopping
from kick.records import Cell, ModelSpec, Result, Sample, Score, TaskSpec, Variant
from kick.stats.sequential import Rule


def stopping(metric, **about):
    """Of a dense cell of 40 items, whose ids fall as their place in the task grows."""
    column = {"perplexity": "nll"}.get(metric, metric)
    cell = Cell(Variant("dense", ModelSpec("m")), TaskSpec("t"))
    score = Score(metric, 0.5, 40, 0.1, 0.3, 0.7, True)
    result = Result("k", "m", cell, (score,), about={"primary": metric, **about})
    samples = [Sample(f"{99 - place}", "", "", "", (), {column: float(place % 2)}) for place in range(40)]
    return Stopping.of(result, samples, Rule()), samples


def test_kicks_own_tasks_are_asked_in_their_shuffled_order():
    found, samples = stopping("acc", family="mcr_qa")
    assert found.order == tuple(sample.item for sample in samples)


@pytest.mark.parametrize(("metric", "about"), [("acc", {}), ("perplexity", {"family": "perplexity"})])
def test_rows_that_may_be_sorted_and_windows_of_text_are_asked_by_their_ids(metric, about):
    found, samples = stopping(metric, **about)
    assert found.order == tuple(sorted(sample.item for sample in samples))
    column = {sample.item: next(iter(sample.scores.values())) for sample in samples}
    assert found.design.dense.tolist() == [column[item] for item in found.order]
