"""Length ratios: counted tokens, the authors' length term, censored answers apart, rows of the frame."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from kick.analysis.frame import read
from kick.analysis.lengths import ratios
from kick.records import Request, Response
from kick.report import tables
from kick.tasks.lengths import scores
from kick.tasks.task import Item
from tests.support.golden import FOLDER
from tests.support.synthetic import DENSE, FakeStore, fill, pruned


def item(kind="generate"):
    return Item("a", (Request(kind, "Question", max_tokens=8),))


def test_tokens_are_counted_and_the_limit_is_told():
    assert scores(item(), [Response(text="yes", count=3)]) == {"answer_tokens": 3, "unfinished": 0}
    two = [Response(text="a", count=8), Response(text="b", count=2)]
    assert scores(item(), two) == {"answer_tokens": 10, "unfinished": 0.5}
    assert scores(item(), [Response(text="yes")]) == {}  # a server that counts nothing
    assert scores(item("loglikelihood"), [Response(logprob=-1.0, greedy=True)]) == {}
    distance = [Response(text="yes", count=3), Response(values={"fdt": 3.0})]
    assert scores(item(), distance) == {}


def test_the_ratio_is_the_inverse_of_the_authors_length_term():
    """Their weight is L0/L - 1 + lambda (correct - A0), clipped; of two lambdas the first part is known."""
    known = json.loads((FOLDER / "seeds" / "tasks_o1_pruner.json").read_text())
    used, checked = known["used_per_problem"], 0
    for number, problem in enumerate(known["problems"]):
        mean = np.mean([one["length"] for one in problem])
        for place, sample in enumerate(problem[:used]):
            two, five = (known["raw"][name][number * used + place] for name in ("2", "5"))
            if max(two, five) >= known["clip"][1] or min(two, five) <= known["clip"][0]:
                continue
            term = two - 2 * (five - two) / 3
            columns = [
                {
                    "answer_tokens": np.array([float(length)]),
                    "unfinished": np.zeros(1),
                    "exact_match": np.ones(1),
                }
                for length in (sample["length"], mean)
            ]
            ratio = math.exp(ratios(*columns, "exact_match")["log_length_ratio_right"][0])
            assert 1 / ratio - 1 == pytest.approx(term, abs=1e-6)
            checked += 1
    assert checked >= 6


def test_right_items_others_and_censored_ones_are_told_apart():
    dense = {
        "answer_tokens": np.array([10.0, 10, 10, 10, 0]),
        "unfinished": np.array([0.0, 0, 0, 1, 0]),
        "exact_match": np.array([1.0, 1, 0, 1, 1]),
    }
    theirs = {
        **dense,
        "answer_tokens": np.array([20.0, 5, 40, 10, 3]),
        "exact_match": np.array([1.0, 0, 1, 1, 1]),
    }
    found = ratios(theirs, dense, "exact_match")
    np.testing.assert_allclose(np.exp(found["log_length_ratio_right"]), [2, np.nan, np.nan, np.nan, np.nan])
    np.testing.assert_allclose(np.exp(found["log_length_ratio_other"]), [np.nan, 0.5, 4, np.nan, np.nan])


def test_the_frame_has_the_ratios_with_intervals():
    store = fill(FakeStore(), [DENSE, pruned("magnitude", 0.5)], ["kick_mini_factoid"], n=40)
    for result in list(store.runs()):
        samples = store.samples(result.key)
        factor = 1 if result.cell.variant.dense else 3
        told = [
            replace(one, scores={**one.scores, "answer_tokens": factor * (5.0 + at), "unfinished": 0.0})
            for at, one in enumerate(samples)
        ]
        score = replace(result.scores[0], metric="answer_tokens")
        store.put(replace(result, scores=(*result.scores, score)), told)
    frame = read([store]).frame
    rows = frame[frame["metric"].isin(["length_ratio_right", "length_ratio_other"])]
    theirs, dense = rows[~rows["dense"]], rows[rows["dense"]]
    assert theirs["value"].tolist() == pytest.approx([3.0] * len(theirs))
    assert dense["value"].tolist() == pytest.approx([1.0] * len(dense))
    assert len(theirs) == 2
    assert theirs["n"].sum() == 40
    shown = tables.known["lengths"].make(frame)
    assert {line[3] for line in shown.cells} == {"3.00"}
    assert {line[2] for line in shown.cells} == {"both right", "either wrong"}
