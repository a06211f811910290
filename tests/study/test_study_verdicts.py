"""What a matrix can show, simulated before it is run."""

import csv
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from kick.cli import app
from kick.errors import KickError
from kick.stats.forecast import items_to_decide, least_items
from kick.stats.metrics import describe
from kick.stats.paired import paired
from kick.stats.sequential import Design, Rule
from kick.stats.support import BINARY
from kick.study import verdicts

ACC = describe("acc")


@pytest.mark.parametrize("right", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("margin", [0.05, 0.1])
def test_from_the_least_number_of_items_on_equal_answers_match(right, margin):
    from kick.stats.paired import How

    least = least_items(right, margin)
    for count, wanted in ((least, "matching"), (least - 2, "undecided")):
        dense = np.arange(count) < round(count * right)
        found = paired(dense, dense, support=BINARY, how=How(margin=margin))
        assert found.verdict == wanted


def test_a_dense_model_that_is_never_right_matches_nothing():
    with pytest.raises(ValueError, match="above 0"):
        least_items(0.0, 0.05)


@pytest.mark.parametrize("loss", [0.02, 0.08])
def test_so_many_items_decide_a_cell_about_every_other_time(loss):
    """Asked 128, undecided; of studies that go on at the rates seen, about half decide at the number said."""
    rng = np.random.default_rng(12)
    dense = (np.arange(128) % 5 < 3).astype(float)
    values = dense.copy()
    right = np.flatnonzero(dense)
    values[right[: round(loss * len(right))]] = 0
    number = items_to_decide(Design(dense, np.zeros(128, dtype=np.int64)), values, ACC, Rule())
    assert 128 < number < 5000
    rate, decided = (round(loss * len(right)) + 0.5) / (len(right) + 1), []
    for drawn in rng.beta(rate * len(right), (1 - rate) * len(right), 60):
        more = (rng.random(number - 128) < 0.6).astype(float)
        kept = more * (rng.random(number - 128) > drawn)
        found = paired(np.concatenate([dense, more]), np.concatenate([values, kept]), support=BINARY)
        decided.append(found.verdict in ("matching", "not matching"))
    assert 0.25 < np.mean(decided) < 0.75


def test_a_metric_without_a_verdict_is_decided_by_no_number():
    design = Design(np.full(50, 9.0), np.zeros(50, dtype=np.int64))
    assert items_to_decide(design, np.full(20, 7.0), describe("fdt"), Rule()) is None


def test_a_dead_variant_is_worse_and_an_equal_one_matches():
    scenario = verdicts.Scenario({"few": 256, "many": 2000}, changes=(0.0, -1.0), flips=0.0, runs=200)
    found = {(one.task, one.change): one for one in verdicts.rows(scenario)}
    assert found["many", 0.0].matching == 1
    assert found["many", -1.0].worse == found["few", -1.0].worse == 1
    assert found["many", -1.0].asked == pytest.approx(24 / 2000)
    assert all(
        one.matching + one.worse + one.better + one.undecided == pytest.approx(1) for one in found.values()
    )


def test_the_command_prints_and_writes_what_it_simulates(tmp_path):
    given = ["study", "verdicts", "--items", "96", "--change", "-30", "--dense", "0.5", "--runs", "50"]
    found = CliRunner().invoke(app, [*given, "--out", str(tmp_path)])
    assert found.exit_code == 0, found.output
    assert "at least about" in found.output
    with (tmp_path / "verdicts.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["items"], line["change"], line["edge"]) for line in lines] == [
        ("96", "-0.3", "False"), ("96", "-0.05", "True"), ("96", "0.05", "True")
    ]  # fmt: skip
    assert "| true change |" in (tmp_path / "verdicts.md").read_text()


IMPOSSIBLE = [
    *(({"dense": 1.5}, "dense"), ({"runs": 0}, "runs"), ({"changes": (0.9,)}, "change")),
    *(({"flips": -1}, "flips"), ({"rule": Rule(margin=1.0)}, "margin"), ({"items": {"t": 1}}, "t: got 1")),
]


@pytest.mark.parametrize(("changed", "word"), IMPOSSIBLE)
def test_an_impossible_question_is_refused(changed, word):
    with pytest.raises(KickError, match=word):
        verdicts.Scenario(**{"items": {"t": 100}, **changed})


def test_a_matrix_gives_the_sizes_of_its_right_or_wrong_tasks():
    from kick.matrix.load import load
    from kick.matrix.plan import plan

    sizes = verdicts.of_plan(plan(load("smoke")))
    assert sizes
    assert all(count > 1 for count in sizes.values())


@pytest.mark.slow
def test_the_table_of_the_documentation_is_the_one_that_the_command_draws():
    scenario = verdicts.Scenario({f"{count} items": count for count in verdicts.SIZES})
    text = (Path(__file__).parents[2] / "docs" / "statistics.md").read_text("utf-8")
    assert verdicts.grid(verdicts.rows(scenario)).markdown() in text
