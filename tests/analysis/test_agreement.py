"""Perplexity against truth: Spearman's rho as scipy has it, an interval of items' noise, who is flattered."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from kick.analysis.agreement import agreement
from kick.analysis.ranking import Rank
from kick.report import tradeoff


def row(label, task, share, half):
    """A row of the frame: a task where dense has 0.5, or a perplexity of 50."""
    up = task != "perplexity"
    relative = (share if up else 1 / share) - 1
    return {
        "label": label, "task": task, "title": task, "setting": "", "group": "", "primary": True,
        "replica": "", "trains": False, "task_data": False, "leaked": 0,
        "dense": label == "dense", "metric": "exact_match" if up else "perplexity", "foreign": False,
        "dense_value": 0.5 if up else 50.0, "value": 1.0, "higher_is_better": up, "relative": relative,
        "relative_low": relative - half, "relative_high": relative + half, "method": label, "bytes": 1.0,
    }  # fmt: skip


CORPUS = {"a": 0.95, "b": 0.9, "c": 0.6, "d": 0.3, "e": 0.2}
FACTS = {"a": 0.5, "b": 0.9, "c": 0.7, "d": 0.2, "e": 0.25}


def frame(half=0.0):
    lines = [row("dense", task, 1.0, 0.0) for task in ("perplexity", "facts")]
    lines += [row(label, "perplexity", share, half) for label, share in CORPUS.items()]
    return pd.DataFrame(lines + [row(label, "facts", share, half) for label, share in FACTS.items()])


def test_rho_is_scipys_and_without_noise_its_interval_is_a_point():
    found, flattered = agreement(frame())
    expected = spearmanr(list(CORPUS.values()), list(FACTS.values())).statistic
    assert [one.task for one in found] == ["facts", "mean of the tasks"]
    assert found[0].rho == pytest.approx(expected)
    assert (found[0].low, found[0].high) == pytest.approx((expected, expected))
    assert found[0].variants == 5, "dense is not ranked"
    assert [(one.label, one.by_perplexity, one.by_tasks) for one in flattered] == [("a", 1, 3), ("d", 4, 5)]


def test_of_several_perplexities_the_first_counts_and_is_named():
    second = frame()[lambda rows: rows["task"] == "perplexity"].assign(task="web", title="web")
    second = second.assign(relative=second["relative"].to_numpy()[::-1])
    found, flattered = agreement(pd.concat([frame(), second], ignore_index=True))
    alone, flattered_alone = agreement(frame())
    assert [one.corpus for one in alone] == ["", ""]
    assert {one.corpus for one in found} == {"perplexity"}
    assert [(one.task, one.rho) for one in found] == [(one.task, one.rho) for one in alone]
    assert flattered == flattered_alone


def test_noise_widens_the_interval():
    found, _ = agreement(frame(half=0.4))
    assert found[0].low < found[0].rho - 0.1
    assert found[0].low < found[0].high <= 1


def test_those_that_train_have_no_say_unless_all_do():
    trained = frame()
    trained["trains"] = trained["label"].isin(["e"])
    without = frame()
    assert agreement(trained) == agreement(without[without["label"] != "e"])
    assert agreement(trained.assign(trains=~trained["dense"])) == agreement(without)


def test_few_variants_have_no_order():
    few = frame()
    assert agreement(few[few["label"].isin(["dense", "a", "b", "c"])]) == ([], [])
    assert agreement(few[few["task"] == "facts"]) == ([], [])


def test_the_front_is_who_no_other_beats_in_both():
    kept = {"small": (10.0, 0.4), "beaten": (20.0, 0.4), "middle": (20.0, 0.7), "worse": (25.0, 0.6)}
    kept["large"] = (40.0, 0.9)
    found = [tradeoff.CostPoint(label, "wanda", size, share) for label, (size, share) in kept.items()]
    found.sort(key=lambda one: (one.cost, -one.kept))
    assert [one.label for one in tradeoff.front(found)] == ["small", "middle", "large"]


def test_the_chart_marks_the_front_and_a_variant_without_a_size_is_not_in_it():
    rows = frame().drop_duplicates("label").assign(bytes=[50e6, 10e6, 20e6, 30e6, np.nan, 40e6])
    ranks = {label: Rank(1, 1, 2, share) for label, share in {"dense": 1.0, **FACTS}.items()}
    chart = str(tradeoff.chart(rows, ranks))
    assert chart.count("<path") == 5
    assert chart.count('hollow"') == 2
    assert "a: 10 MB, keeps 50.0 % (rank 1\u20132)" in chart
    assert tradeoff.said(rows, ranks) == "a (10 MB, 50 %), b (20 MB, 90 %), dense (50 MB, 100 %)"
    assert tradeoff.chart(rows.head(2), ranks) is None
    ranks["a"] = Rank(1, 1, 2, 0.5, apart=True)
    assert tradeoff.said(rows, ranks) == "b (20 MB, 90 %), dense (50 MB, 100 %)"


def test_a_cost_that_does_not_differ_has_no_chart_and_of_speed_more_is_better():
    rows = frame().drop_duplicates("label").assign(bytes=1e6, bits_per_weight=[16, 4, 4, 3, 8, np.nan])
    rows = rows.assign(decode=[10.0, 30.0, 20.0, 5.0, np.nan, np.nan])
    ranks = {label: Rank(1, 1, 2, share) for label, share in {"dense": 1.0, **FACTS}.items()}
    found = tradeoff.tradeoffs(rows, ranks)
    assert [one.name for one in found] == ["bits per weight", "measured speed (tokens per second)"]
    assert found[1].front == "a (30/s, 50 %), b (20/s, 90 %), dense (10/s, 100 %)"
    assert "larger is better" in found[1].chart
