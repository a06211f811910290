"""Panels of levels say what was measured: intervals of single levels, no line to them, one axis per line."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from kick.analysis.frame import read
from kick.records import Step
from kick.report import figures
from kick.report.figures import curves
from tests.support.synthetic import DENSE, FakeStore, fill, pruned, variant

FACTS, CHOICE = "kick_mini_factoid", "kick_mini_mcq"


@pytest.fixture(scope="module")
def frame():
    gptq = variant("gptq-4", Step("gptq", {"bits": 4}))
    two = variant("wanda-24", Step("wanda", {"sparsity": "2:4"}))
    ours = [DENSE, pruned("wanda", 0.3), pruned("wanda", 0.5), pruned("magnitude", 0.5), gptq, two]
    return read([fill(FakeStore(), ours, [FACTS, CHOICE], n=24)]).frame


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def drawn(frame, name):
    entry = figures.known[name]
    return entry.draw(entry.rows(frame))


def whiskers(axes):
    """(x, low, high) of every whisker of an axis."""
    paths = [path for one in axes.collections for path in one.get_paths() if len(path.vertices) == 2]
    return [(path.vertices[0, 0], *sorted(path.vertices[:, 1])) for path in paths]


def test_a_single_level_has_its_interval_and_no_line_but_a_dotted_one(frame):
    axes = drawn(frame[frame["task"] == FACTS], "score_by_sparsity").axes[0]
    row = frame[(frame["label"] == "magnitude 50 %") & frame["primary"] & (frame["task"] == FACTS)].iloc[0]
    assert any(
        (low, high) == pytest.approx((100 * row["low"], 100 * row["high"])) for _, low, high in whiskers(axes)
    )
    joined = [line for line in axes.lines if len(line.get_xdata()) > 1 and line.get_color() == "#d55e00"]
    assert [line.is_dashed() for line in joined] == [True]
    assert len([line for line in axes.lines if len(line.get_xdata()) == 3]) == 1, "wanda, from dense"


def test_panels_of_one_line_have_one_axis(frame):
    figure = drawn(frame, "mcr_qa")
    limits = {axes.get_ylim() for axes in figure.axes}
    assert len(figure.axes) == 3
    assert len(limits) == 1
    assert limits.pop()[0] == 0


def test_one_logarithmic_panel_makes_its_line_logarithmic():
    _, (first, second) = plt.subplots(1, 2)
    first.set_ylim(40, 60)
    second.set_yscale("log")
    second.set_ylim(30, 900)
    figures.style.same_y([first, second])
    assert (first.get_yscale(), first.get_ylim()) == ("log", (30, 900))


def test_a_pattern_that_scores_nothing_has_its_mark_with_its_whisker(frame):
    rows = frame.copy()
    rows.loc[rows["label"] == "wanda 2:4", ["value", "low"]] = 0.0
    axes = drawn(rows[rows["task"] == FACTS], "score_by_pattern").axes[0]
    marks = [line for line in axes.lines if line.get_linestyle() == "None" and len(line.get_xdata())]
    assert [list(line.get_ydata()) for line in marks] == [[0.0]]
    assert not any(line.get_clip_on() for line in marks)


def test_equal_methods_are_drawn_apart():
    places = curves.shifts(3, 100.0)
    assert np.diff(places) == pytest.approx([1.8, 1.8])
    assert sum(places) == pytest.approx(0)
    assert max(curves.shifts(40, 100.0)) == pytest.approx(5.5)


def test_every_panel_says_how_many_items(frame):
    labels = [axes.get_ylabel() for axes in drawn(frame, "score_by_sparsity").axes]
    assert all(label.endswith("n = 24") for label in labels)
    legend = [text.get_text() for text in drawn(frame, "score_by_sparsity").legends[0].get_texts()]
    assert "whisker, band: 95 % interval" in legend


def test_an_interval_that_goes_on_beyond_the_axis_has_an_arrow(frame):
    rows = frame.copy()
    rows.loc[rows["label"] == "wanda 30 %", "relative_high"] = 9.0
    axes = drawn(rows, "differences").axes[0]
    arrows = [line for line in axes.lines if "203a" in ascii(line.get_marker())]
    assert [float(line.get_ydata()[0]) for line in arrows] == [1.0]
    assert arrows[0].get_xdata()[0] == max(axes.get_xlim())


def test_many_groups_are_dots_with_their_n_not_a_tower_of_panels(frame):
    groups = pd.concat(
        [replaced(frame[(frame["task"] == CHOICE) & frame["primary"]], f"group {n}") for n in range(8)]
    )
    figure = drawn(groups, "mcr_qa_by_group")
    assert figure.get_figheight() < 5
    assert [axes.get_title() for axes in figure.axes] == [f"group {n}, n = 24" for n in range(8)]


def replaced(rows, group):
    return rows.assign(group=group)
