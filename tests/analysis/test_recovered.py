"""What training brought back, of made-up results: content apart from form, and the seeds of training."""

import numpy as np
import pytest

from kick.analysis.frame import read
from kick.records import Step
from kick.report import tables
from kick.report.figures import draw
from kick.report.figures import known as figures
from tests.support.synthetic import DENSE, FakeStore, pruned, result, samples, variant

WANDA = Step("wanda", {"sparsity": 0.5})
N = 200
# of each variant's answers: the shares that are right, and that are empty
RIGHT = {
    "dense": 0.9,
    "wanda-0.5": 0.1,
    "wanda-perp": 0.5,
    "wanda-perp-seed=1": 0.6,
    "perp": 0.9,
    "perp-seed=1": 0.9,
}
EMPTY = {
    "dense": 0.0,
    "wanda-0.5": 0.8,
    "wanda-perp": 0.2,
    "wanda-perp-seed=1": 0.1,
    "perp": 0.0,
    "perp-seed=1": 0.0,
}


def perp(seed):
    return Step("recover-perp", {"tokens": 640, "seed": seed, "parts": "norms", "rank": 8})


@pytest.fixture(scope="module")
def frame():
    found = [
        DENSE,
        pruned("wanda", 0.5),
        variant("wanda-perp", WANDA, perp(0)),
        variant("wanda-perp-seed=1", WANDA, perp(1)),
        variant("perp", perp(0)),
        variant("perp-seed=1", perp(1)),
    ]
    store = FakeStore()
    for one in found:
        answers = samples("kick_mini_closed", one, N)
        for place, sample in enumerate(answers):
            sample.scores["exact_match"] = float(place < RIGHT[one.name] * N)
            sample.scores["empty"] = float(place >= (1 - EMPTY[one.name]) * N)
        store.put(result("kick_mini_closed", one, answers), answers)
    return read([store]).frame


def test_content_and_form_are_brought_back_apart(frame):
    rows = frame[(frame["variant"] == "wanda-perp") & (frame["group"] == "")].set_index("metric")
    assert rows.loc["exact_match", "recovered"] == pytest.approx((0.5 - 0.1) / (0.9 - 0.1))
    assert rows.loc["empty", "recovered"] == pytest.approx((0.2 - 0.8) / (0.0 - 0.8))
    assert set(rows.index[rows["recovered_of"] != ""]) == {"exact_match", "empty"}
    made = tables.make_all(frame, ["recovered", "recovered_form"])
    assert {line[2] for line in made["recovered_form"].cells} == {"empty (%)"}
    assert [line[6] for line in made["recovered_form"].cells] == ["75.0", "87.5"]
    assert [line[5] for line in made["recovered"].cells] == ["50.0", "62.5"]


def test_seeds_of_training_are_told_apart_and_their_spread_is_shown(frame):
    rows = frame[(frame["metric"] == "exact_match") & frame["variant"].str.startswith("wanda-perp")]
    rows = rows[rows["group"] == ""]
    name = "wanda 50 % + recover-perp norms"  # no rank: norms have no adapters
    assert list(rows["label"]) == [f"{name}, training seed {seed}" for seed in (0, 1)]
    assert set(rows["seeds"]) == {2}
    assert rows["seed_sd"].iloc[0] == pytest.approx(np.std(rows["value"], ddof=1))
    lines = tables.make_all(frame, ["seeds"])["seeds"].cells
    assert len(lines) == 2  # the dense model's training too, which has no calibration text
    for line in lines:
        assert "seed" not in line[0]
        assert line[1].endswith("(2)")


def test_a_figure_of_calibration_seeds_has_a_column_per_training_seed():
    store = FakeStore()
    for trained in (0, 1):
        for drawn in (0, 1):
            one = variant(f"w-{trained}-{drawn}", WANDA, perp(trained), seed=drawn)
            answers = samples("kick_mini_closed", one, N)
            store.put(result("kick_mini_closed", one, answers), answers)
    (axes,) = figures["seeds"].draw(figures["seeds"].rows(read([store]).frame)).axes
    names = [text.get_text().partition(", ")[2] for text in axes.get_xticklabels()]
    assert names == ["training seed 0", "training seed 1"]
    assert [len(line.get_xdata()) for line in axes.lines] == [2, 2]


def test_a_figure_has_a_line_per_recovered_variant(frame, tmp_path):
    (drawn,) = draw(frame, tmp_path, names=["recovered"])
    csv = next(file for file in drawn.files if file.suffix == ".csv").read_text("utf-8")
    assert len(csv.splitlines()) == 3
