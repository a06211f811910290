"""What guiding gains: closed forms on a few items, joined by item, beside dense's own gain."""

import math
from dataclasses import replace

import pytest

from kick.analysis.frame import read
from kick.report import select, tables
from kick.stats.paired import paired
from kick.stats.support import BINARY
from tests.support import synthetic
from tests.support.synthetic import DENSE, FakeStore, pruned

PLAIN, GUIDED = "kick_humaneval", "kick_humaneval_guided"  # the second file names the first
# items 0 to 9: whether the program parses, plainly and guided, of dense and of the variant
RIGHT = {
    (True, PLAIN): "1111111100",
    (True, GUIDED): "1111111110",  # one is won
    (False, PLAIN): "1111100000",
    (False, GUIDED): "0111111100",  # three are won, one is lost
}
REPLACED = [0, 0, 4, 0, 0, 0, 0, 0, 0, 6]


@pytest.fixture
def made(monkeypatch):
    """Both tasks of two variants, the guided one's items in another order."""
    columns = {"pass_at_1": 0.0, "parses": 0.0}
    tasks = {PLAIN: columns, GUIDED: {**columns, "replaced": 0.0, "strayed": 0.0}}
    monkeypatch.setattr(synthetic, "TASKS", {**synthetic.TASKS, **tasks})
    store = FakeStore()
    for one in (DENSE, pruned("wanda", 0.5)):
        for task in tasks:
            scores = [
                {
                    "pass_at_1": 0.0,
                    "parses": float(right),
                    "replaced": float(count),
                    "strayed": float(at == 3),
                }
                for at, (right, count) in enumerate(zip(RIGHT[one.dense, task], REPLACED, strict=True))
            ]
            found = [
                synthetic.Sample(f"item {at}", "p", "", "", (), {name: own[name] for name in tasks[task]})
                for at, own in enumerate(scores)
            ]
            run = synthetic.result(task, one, found)
            if task == GUIDED:
                more = [replace(run.scores[0], metric=name) for name in ("replaced", "strayed")]
                run, found = replace(run, scores=(*run.scores, *more)), found[::-1]
            store.put(run, found)
    return store


def test_gains_are_of_the_same_items_and_beside_denses(made):
    frame = read([made]).frame
    rows = frame[frame["metric"] == "gain@parses"].set_index("dense")
    dense, theirs = rows.loc[True], rows.loc[False]
    assert (dense["value"], theirs["value"]) == (pytest.approx(0.1), pytest.approx(0.2))
    assert (theirs["plain_value"], theirs["guided_value"]) == (0.5, pytest.approx(0.7))
    assert theirs["gain_p"] == pytest.approx(2 * (1 + 4) / 16)  # one of four flips, by McNemar's exact test
    assert dense["gain_p"] == 1
    plain, guided = ([float(one) for one in RIGHT[False, task]] for task in (PLAIN, GUIDED))
    found = paired(plain, guided, support=BINARY)
    assert (theirs["low"], theirs["high"]) == (found.low, found.high)
    assert theirs["gap"] == pytest.approx(0.1)  # it gains more than dense, by a tenth
    assert theirs["gap_low"] < 0.1 < theirs["gap_high"]
    assert theirs["replaced"] == pytest.approx(1.0)
    assert theirs["strayed"] == pytest.approx(0.1)
    assert not rows["primary"].any()


def test_the_table_has_a_line_per_variant_and_metric(made):
    table = tables.known["guided"].make(read([made]).frame)
    lines = {(line[0], line[2]): line for line in table.cells}
    assert set(lines) == {
        (name, metric) for name in ("dense", "wanda 50 %") for metric in ("pass@1", "parses")
    }
    assert lines["wanda 50 %", "parses"][3:6] == ("50.0", "70.0", "+20.0")
    assert lines["wanda 50 %", "parses"][7:] == ("0.62", "10", "1.0", "10.0")
    assert lines["dense", "pass@1"][5:8] == ("+0.0", lines["dense", "pass@1"][6], "1")


def test_without_the_plain_task_there_is_no_gain(made):
    for key in [run.key for run in made.runs() if run.cell.task.name == PLAIN]:
        del made.results[key]
    frame = read([made]).frame
    assert not frame["metric"].str.startswith("gain@").any()
    with pytest.raises(select.Nothing, match="asked a task plainly and guided"):
        tables.known["guided"].make(frame)
    assert math.isfinite(frame["value"].max())
