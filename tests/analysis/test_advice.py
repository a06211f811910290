"""Advice recommends what is shown to match and nothing else, at the tolerance asked for."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from kick.analysis import cost
from kick.analysis.advice import advise
from kick.analysis.advised import advised, at, verdict
from kick.analysis.frame import read
from kick.cli.advise import portion, size
from kick.errors import KickError
from kick.report import advice_view
from kick.stats import equivalence
from kick.stats.sequential import Rule
from tests.support.early import end_early
from tests.support.synthetic import DENSE, FakeStore, fill, pruned, quantized

TASKS = ("facts", "choices")


def row(variant, task, said, shipped, **other):
    """A row of a frame by hand: the verdict `said` of a variant of `shipped` bytes on a task."""
    dense = variant == "dense"
    facts = {
        "matrix": "m", "base": "b", "variant": variant, "label": variant, "key": f"{variant} {task}",
        "dense": dense, "replica": "", "checkpoint": False, "bits": math.nan, "task": task, "title": task,
        "setting": "", "group": "", "metric": "acc", "primary": True, "unit": "share",
        "higher_is_better": True, "n": 100, "of": 100, "value": 0.5, "dense_value": 0.5, "gap": -0.01,
        "gap_low": -0.04, "gap_high": 0.02, "verdict": "dense" if dense else said, "within_noise": False,
        "within_orders": False, "same": 0.0, "doubt": "", "foreign": False, "shipped_bytes": shipped,
        "shipped_as": "dense", "bytes": shipped / 2, "decode": math.nan, "cost_of": "",
        "simulated": False,
    }  # fmt: skip
    return facts | other


def made(**variants):
    """A frame of dense (1,000 bytes) and variants: name=(bytes, verdict on facts, verdict on choices)."""
    rows = [row("dense", task, "dense", 1000.0) for task in TASKS]
    for name, (shipped, *said) in variants.items():
        rows += [
            row(name, task, one, shipped) for task, one in zip(TASKS, said, strict=True) if one is not None
        ]
    return pd.DataFrame(rows)


def test_the_smallest_that_matches_everywhere_is_named():
    frame = made(
        large=(800.0, "matching", "matching"),
        middle=(600.0, "matching", "matching"),
        small=(400.0, "matching", "undecided"),
        tiny=(200.0, "not matching", "not matching"),
    )
    said = advise(frame, tolerance=0.05)
    assert said.chosen.variant == "middle"
    assert [one.verdict for one in said.chosen.evidence] == ["matching", "matching"]
    assert [one.variant for one in said.nearest] == ["small", "tiny"]  # the larger ones are of no use
    assert [one.task for one in said.nearest[0].open] == ["choices"]
    assert [one.verdict for one in said.nearest[1].open] == ["worse", "worse"]
    assert advise(frame, tolerance=0.05, tasks=["facts"]).chosen.variant == "small"


@pytest.mark.parametrize("said", ["undecided", "not matching", "", None])
def test_nothing_but_a_shown_match_is_recommended(said):
    found = advise(made(only=(400.0, "matching", said)), tolerance=0.05)
    assert found.chosen is None
    words = {"undecided": "undecided", "not matching": "worse", "": "none", None: "not measured"}
    assert [one.verdict for one in found.nearest[0].open] == [words[said]]
    assert "None is shown to match, of 1 variant looked at." in advice_view.lines(found)


def test_undecided_inside_the_noise_stays_undecided():
    frame = made(only=(400.0, "undecided", "matching"))
    frame.loc[frame["verdict"] == "undecided", "within_noise"] = True
    assert advise(frame, tolerance=0.05).nearest[0].evidence[0].verdict == "undecided"


def test_a_match_that_its_samples_do_not_confirm_is_not_one():
    frame = made(only=(400.0, "matching", "matching"))
    frame.loc[frame["key"] == "only facts", "doubt"] = "its record says otherwise"
    said = advise(frame, tolerance=0.05)
    assert said.chosen is None
    assert said.nearest[0].open[0].verdict == "in doubt"


def test_memory_holds_and_a_size_that_is_not_known_is_not_guessed():
    frame = made(fits=(400.0, "matching", "matching"), old=(math.nan, "matching", "matching"))
    said = advise(frame, tolerance=0.05, memory=399)
    assert said.chosen is None
    assert said.too_large == ("fits",)
    assert said.unsized == ("old",)
    assert advise(frame, tolerance=0.05, memory=400).chosen.variant == "fits"
    assert advise(frame, tolerance=0.05, memory=399, by="packed").chosen.variant == "fits"
    assert advise(frame, tolerance=0.05, memory=199, by="packed").chosen is None


@pytest.mark.parametrize("said", ["matching", "undecided"])
@pytest.mark.parametrize(("size", "count"), [(1200.0, 1), (999.0, 0)])
def test_it_says_so_if_dense_is_no_larger(said, size, count):
    lines = advice_view.lines(advise(made(big=(size, "matching", said)), tolerance=0.05))
    assert sum("but dense is no larger" in line for line in lines) == count


def test_only_recipes_are_simulated():
    frame = made(rtn=(400.0, "matching", "matching"), gguf=(300.0, "matching", "undecided"))
    frame.loc[frame["variant"] != "dense", "bits"] = 4.0
    frame.loc[frame["variant"] == "gguf", "checkpoint"] = True
    pairs = zip(frame["checkpoint"], frame["bits"], strict=True)
    frame["simulated"] = [cost.simulated(*pair) for pair in pairs]
    said = advise(frame, tolerance=0.05)
    assert said.chosen.simulated
    assert not said.nearest[0].simulated
    text = advice_view.lines(said)
    assert sum("simulated" in line for line in text) == 1
    json.dumps(said.to_json(), allow_nan=False)


def test_tasks_that_are_unknown_or_have_no_verdict_are_refused():
    frame = made(only=(400.0, "matching", "matching"))
    with pytest.raises(KickError, match="did you mean 'facts'"):
        advise(frame, tolerance=0.05, tasks=["fact"])
    frame.loc[frame["task"] == "facts", "metric"] = "fdt"
    assert advise(frame, tolerance=0.05).tasks == ("choices",)
    with pytest.raises(KickError, match="has no verdict"):
        advise(frame, tolerance=0.05, tasks=["facts"])


@pytest.fixture(scope="module")
def results():
    store = FakeStore()
    fill(store, [DENSE, pruned("wanda", 0.3), quantized("rtn", 4)], ["kick_mini_mcq"], n=200)
    return read([store])


@pytest.mark.parametrize("tolerance", [0.05, 0.15, 0.6])
def test_verdicts_at_another_tolerance_are_those_of_the_items(results, tolerance):
    frame = at(results, tolerance)
    rows = frame[frame["primary"] & frame["group"].eq("") & ~frame["dense"]]
    dense = next(cell for cell in results.cells if cell.variant.dense)
    for _, row in rows.iterrows():
        cell = next(cell for cell in results.cells if cell.run.key == row["key"])
        pairs = np.column_stack([one.items().columns[row["metric"]] for one in (dense, cell)])
        by_hand = equivalence.of_outcomes(equivalence.outcomes(pairs), tolerance)
        assert row["verdict"] == (by_hand if by_hand != "not matching" or row["p"] < 0.05 else "undecided")
    assert len(set(rows["verdict"])) == 1 or tolerance != 0.6
    assert set(at(results, 0.6)["verdict"]) >= {"matching"}


def test_a_cell_with_a_rule_is_read_by_its_rule_at_the_new_margin(results):
    dense = next(cell for cell in results.cells if cell.variant.dense)
    cell = next(cell for cell in results.cells if not cell.variant.dense)
    task = replace(cell.run.cell.task, stop=Rule().text)
    ruled = replace(cell, run=replace(cell.run, cell=replace(cell.run.cell, task=task)))
    assert verdict(ruled, dense, 0.6) == "matching"
    assert verdict(ruled, dense, 0.001) != "matching"


def test_a_cell_that_ended_early_is_read_by_its_looks():
    store = FakeStore()
    fill(store, [DENSE, pruned("magnitude", 0.7), pruned("wanda", 0.3)], ["kick_mini_mcq"], n=200)
    short = end_early(store, "magnitude-0.7", "kick_mini_mcq")
    assert short.stopping["asked"] < 200
    early = read([store])
    assert verdicts(early.frame)["magnitude-0.7"] == "not matching"
    assert verdicts(at(early, 0.9))["magnitude-0.7"] != "not matching"
    (said,) = advised(early, tolerance=0.6, by="packed")
    assert said.chosen.variant == "wanda-0.3"
    ended = {one.variant: one.evidence[0] for one in (said.chosen, *said.nearest)}
    assert ended["wanda-0.3"].n == ended["wanda-0.3"].of == 200
    loose = advised(early, tolerance=0.9, by="packed")[0]
    found = {one.variant: one.evidence[0] for one in (loose.chosen, *loose.nearest)}
    assert all(one.n < one.of for name, one in found.items() if name == "magnitude-0.7")


def verdicts(frame):
    rows = frame[frame["primary"] & frame["group"].eq("")]
    return dict(zip(rows["variant"], rows["verdict"], strict=True))


def test_what_is_undecided_says_how_many_items_would_decide(results):
    (said,) = advised(results, tolerance=0.05, by="packed")
    undecided = [one for near in said.nearest for one in near.evidence if one.verdict == "undecided"]
    assert undecided
    assert all(one.decide is None or one.decide > one.n for one in undecided)
    assert any(one.decide for one in undecided)
    (shown,) = advised(results, tolerance=0.6, by="packed")
    assert shown.chosen is not None


@pytest.mark.parametrize(
    ("text", "bytes_"), [("4GB", 4e9), ("500 mb", 5e8), ("1.5GiB", 1.5 * 2**30), ("7", 7)]
)
def test_sizes_are_read(text, bytes_):
    assert size(text) == bytes_


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0MB", "4TBx", "4IB"])
def test_other_sizes_are_refused(text):
    with pytest.raises(KickError, match="--memory"):
        size(text)


def test_shares_are_read():
    assert portion("5%") == portion("0.05") == 0.05
    for text in ("5", "0", "-1%", "nan", "five"):
        with pytest.raises(KickError, match="--tolerance"):
            portion(text)


def test_the_command_answers_in_words_and_in_json(results, monkeypatch, capsys):
    from kick import cli
    from kick.analysis import frame

    monkeypatch.setattr("kick.cli.advise.opened", lambda folder: folder)
    monkeypatch.setattr(frame, "read", lambda stores: results)
    for more in ([], ["--json"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(["advise", "somewhere", "--packed", "--tolerance", "60%", *more])
        assert ended.value.code == 0
        said = capsys.readouterr().out
        if more:
            (found,) = json.loads(said)
            assert found["chosen"]["evidence"][0]["verdict"] == "matching"
            assert found["tolerance"] == 0.6
        else:
            assert "Take " in said
            assert "matching, n = 200" in said
