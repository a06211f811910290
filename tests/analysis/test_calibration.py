"""Calibration of multiple choice beside scikit-learn, from stored answers; MemR beside the authors'."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from kick import tasks
from kick.analysis.frame import read
from kick.records import Response, TaskSpec
from kick.tasks import confidence, evaluate
from kick.tasks.scoring import conflict
from tests.support.golden import FOLDER
from tests.support.synthetic import DENSE, FakeStore, fill, pruned


def choice(gold, count=4, **other):
    facts = {"OUTPUT_TYPE": "multiple_choice", "multiple_input": False} | other
    return SimpleNamespace(**facts, doc_to_target=lambda doc: gold, doc_to_choice=lambda doc: ["x"] * count)


def test_brier_and_confidence_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    logs, golds = rng.normal(-8, 3, (50, 4)), rng.integers(0, 4, 50)
    found = [
        confidence.scores(choice(int(gold)), {}, list(row)) for gold, row in zip(golds, logs, strict=True)
    ]
    shares = np.exp(logs) / np.exp(logs).sum(axis=1, keepdims=True)
    theirs = brier_score_loss(golds, shares, labels=[0, 1, 2, 3], scale_by_half=False)
    assert np.mean([one["brier"] for one in found]) == pytest.approx(theirs, abs=1e-12)
    np.testing.assert_allclose([one["confidence"] for one in found], shares.max(axis=1), atol=1e-12)


def test_only_what_names_one_right_choice_has_a_confidence():
    assert confidence.scores(choice([0, 1]), {}, [-1.0] * 4) == {}
    assert confidence.scores(choice(0, multiple_input=True), {}, [-1.0] * 4) == {}
    assert confidence.scores(choice(0, OUTPUT_TYPE="generate_until"), {}, [-1.0] * 4) == {}
    doubled = confidence.scores(
        choice(1), {}, [-1.0, -2, -3, -4, 0, 0, 0, 0]
    )  # mutual information asks twice
    assert doubled == confidence.scores(choice(1), {}, [-1.0, -2, -3, -4])


def test_stored_answers_get_them_by_a_rescore_without_a_model():
    task = tasks.load(["kick_mini_mcq"])["kick_mini_mcq"]
    spec = TaskSpec("kick_mini_mcq", limit=4)
    items = task.answered(spec, [])
    answers = [[Response(logprob=-float(k + 1), greedy=False) for k in range(4)] for _ in items]
    old = [item.sample(answer, {"acc": 0.0}) for item, answer in zip(items, answers, strict=True)]
    found = evaluate.rescore(task, spec, old)
    shares = np.exp(-np.arange(1.0, 5)) / np.exp(-np.arange(1.0, 5)).sum()
    for item, sample in zip(items, found.samples, strict=True):
        assert sample.scores["confidence"] == pytest.approx(shares[0])
        right = np.arange(4) == item.doc["answer"]
        assert sample.scores["brier"] == pytest.approx(((shares - right) ** 2).sum())
    assert {score.metric for score in found.scores} >= {"acc", "brier", "confidence"}


def stored(items):
    """A store of dense and a variant whose items have made-up confidences; the columns of each."""
    store, columns = fill(FakeStore(), [DENSE, pruned("magnitude", 0.5)], ["kick_mini_mcq"], n=items), {}
    rng = np.random.default_rng(3)
    for result in list(store.runs()):
        samples = store.samples(result.key)
        sure = rng.uniform(0.25, 1, len(samples))
        told = [
            replace(one, scores={**one.scores, "confidence": value})
            for one, value in zip(samples, sure, strict=True)
        ]
        score = replace(result.scores[0], metric="confidence")
        store.put(replace(result, scores=(*result.scores, score)), told)
        columns[result.cell.variant.name] = sure, np.array([one.scores["acc"] for one in told])
    return store, columns


def test_the_calibration_error_is_that_of_scikit_learns_bins():
    store, columns = stored(200)
    frame = read([store]).frame
    rows = frame[frame["metric"] == "ece"].set_index("variant")
    for name, (sure, right) in columns.items():
        share, mean = calibration_curve(right, sure, n_bins=10, strategy="uniform")
        bins = np.clip(np.ceil(sure * 10) - 1, 0, 9)
        counts = np.array([np.sum(bins == at) for at in range(10)])
        theirs = float((np.abs(share - mean) * counts[counts > 0]).sum() / 200)
        row = rows.loc[name]
        assert row["value"] == pytest.approx(theirs, abs=1e-12)
        assert row["low"] <= row["value"] <= row["high"]
        assert row["high"] - row["low"] < 0.3
    row = rows.loc["magnitude-0.5"]
    assert row["gap"] == pytest.approx(row["value"] - rows.loc["dense", "value"])
    assert row["gap_low"] <= row["gap"] <= row["gap_high"]


def test_a_few_items_have_no_calibration_error():
    store, _ = stored(12)
    assert "ece" not in set(read([store]).frame["metric"])


def test_memr_is_the_authors_where_the_last_gold_counts_and_memory_wins():
    known = json.loads((FOLDER / "seeds" / "tasks_coconflict.json").read_text())
    assert [one["gold"] for one in known["per_item"]][6:8] == [["Turin", "Milan"], ["Milan", "Turin"]]
    columns = []
    for one in known["per_item"]:
        doc = {"context_answer": one["gold"][-1], "context_aliases": []}
        doc |= {"memory_answer": one["parametric"], "memory_aliases": [one["parametric"].replace(".", "")]}
        found = conflict(doc, [one["prediction"]])
        assert (found["memr"] == 1) == one["from_memory"], one
        assert (found["memr"] == 0) == one["from_context"], one
        columns.append(found)
    both = [found for found in columns if found["named_both"]]
    assert len(both) == 2
    assert {found["from_context"] for found in both} == {0.0, 1.0}  # ours: the first mention wins
    scored = evaluate.summarise(
        SimpleNamespace(aggregates=dict, higher_is_better=dict),
        [SimpleNamespace(scores=found) for found in columns],
    )
    memr = next(score for score in scored if score.metric == "memr")
    assert 100 * memr.value == pytest.approx(known["all"]["MemR"], abs=0.01)
    assert memr.missing == 2
    assert memr.low < memr.value < memr.high
