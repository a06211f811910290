"""The noise of compression: bands over orders of the calibration, on rows, in verdicts, in a comparison."""

import math
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from kick.analysis.bands import closed
from kick.analysis.compare import compare
from kick.analysis.frame import read
from kick.report import wording
from kick.report.compare_view import view
from kick.report.figures.drawing import draw
from kick.report.figures.entry import known
from kick.report.leaderboard import render
from kick.report.tables import make_all
from tests.support.synthetic import DENSE, FakeStore, fill, pruned, result, samples

TASKS = ("kick_mini_perplexity", "kick_mini_fidelity")
WANDA, SPARSEGPT = pruned("wanda", 0.5), pruned("sparsegpt", 0.5)


def again(one, order):
    calibration = replace(one.calibration, order=order)
    return replace(one, name=f"{one.name}-order{order}", calibration=calibration, replica="order")


def put(store, one, task, move, n=60):
    """A variant's cell, its losses those of wanda and `move` nats more."""
    found = [
        replace(
            sample, scores={name: value + move * (name == "nll") for name, value in sample.scores.items()}
        )
        for sample in samples(task, WANDA, n)
    ]
    store.put(result(task, one, found, "orders"), found)


@pytest.fixture(scope="module")
def store():
    """Wanda's orders give one perplexity, SparseGPT's are from 0.02 nats below wanda to 0.03 above."""
    filled = fill(FakeStore(), [DENSE], TASKS, "orders", n=60)
    for task in TASKS:
        for one, moves in ((WANDA, (0.0, 0.0, 0.0)), (SPARSEGPT, (0.01, -0.02, 0.03))):
            for order, move in enumerate(moves):
                put(filled, again(one, order) if order else one, task, move)
    return filled


def copied(store):
    return FakeStore(dict(store.results), dict(store.items))


@pytest.fixture(scope="module")
def frame(store):
    return read([store]).frame


def rows(frame):
    found = frame[frame["task"].eq(TASKS[0]) & frame["metric"].eq("perplexity") & frame["group"].eq("")]
    return {row["variant"]: row for _, row in found.iterrows()}


def test_other_orders_are_a_band_on_the_row_of_their_variant_and_no_rows(frame):
    found = rows(frame)
    assert set(found) == {"dense", WANDA.name, SPARSEGPT.name}
    own, steady = found[SPARSEGPT.name], found[WANDA.name]
    assert own["order_low"] == pytest.approx(steady["value"] * math.exp(-0.02))
    assert own["order_high"] == pytest.approx(steady["value"] * math.exp(0.03))
    assert own["orders"] == steady["orders"] == 3
    assert steady["order_low"] == steady["value"] == steady["order_high"]
    assert found["dense"]["orders"] == 0
    assert math.isnan(found["dense"]["order_low"])
    assert set(frame["replica"]) == {""}  # none of them counts as a replica of dense
    assert frame["noise"].isna().all()


@pytest.mark.parametrize(("move", "verdict"), [(0.0, "worse"), (-0.03, "inside the noise of compression")])
def test_a_band_that_holds_dense_makes_no_difference(store, move, verdict):
    far = pruned("sparsegpt", 0.7)
    put(store := copied(store), far, TASKS[0], 0.12)  # 13 % above wanda, which is 2 % above dense
    put(store, again(far, 1), TASKS[0], move)
    own = rows(read([store]).frame)[far.name]
    assert own["within_orders"] == (own["order_low"] < own["dense_value"] < own["value"]) == (move < 0)
    assert wording.verdict(own) == verdict


def test_of_a_variant_that_was_asked_fewer_items_the_band_is_of_these(store):
    part = copied(store)
    key = next(k for k, r in store.results.items() if r.cell.variant == SPARSEGPT)
    asked = store.items[key][:20]
    part.put(replace(result(TASKS[0], SPARSEGPT, asked, "orders"), key=key), asked)
    own = rows(read([part]).frame)[SPARSEGPT.name]
    assert own["n"] == 20
    assert own["orders"] == 3
    assert own["order_low"] < own["value"] < own["order_high"]
    assert own["order_high"] / own["value"] == pytest.approx(math.exp(0.02), rel=0.01)


def test_a_comparison_of_two_variants_uses_both_bands(store):
    found = compare(store, WANDA.name, SPARSEGPT.name)
    task = next(one for one in found.tasks if one.task == TASKS[0])
    assert (task.a_band.count, task.b_band.count) == (3, 3)
    assert task.b_band.low < task.a < task.b_band.high
    assert task.difference.low > 0  # over items the difference is shown, and p is small
    shown = task.verdict
    assert shown == "matching"  # 1 % is within the margin; what is shown to match stays so
    table = found.frame().set_index("task").loc[TASKS[0]]
    assert (table["b_order_low"], table["b_orders"]) == (task.b_band.low, 3)
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(view(found))
    band = wording.span(task.b_band.low, task.b_band.high, "ratio")
    assert f"b: {band} in 3 orders" in " ".join(console.export_text().split())


@pytest.mark.parametrize(("move", "verdict"), [(0.11, "worse"), (0.13, "inside the noise of compression")])
def test_a_difference_that_another_order_closes_is_inside_the_noise(store, move, verdict):
    far, other = pruned("magnitude", 0.7), copied(store)
    put(other, far, TASKS[0], 0.12)  # 13 % above wanda's perplexity
    put(other, again(WANDA, 3), TASKS[0], move)
    task = next(one for one in compare(other, WANDA.name, far.name).tasks if one.task == TASKS[0])
    assert task.verdict == verdict
    assert task.a_band.count == 4
    assert task.b_band is None  # magnitude was compressed in no other order


def test_a_gap_is_closed_if_the_bands_overlap_and_have_a_width():
    assert not closed(0.0, [0.0, 0.0], [])
    assert closed(1.0, [0.5, 1.0], [])
    assert closed(-1.0, [0.5, -0.4], [0.7])
    assert not closed(1.0, [0.5, -3.0], [3.0, -0.4])
    assert not closed(math.nan, [0.5], [])


def test_the_page_the_table_and_the_figures_show_them(store, frame, tmp_path):
    table = make_all(frame, ["orders"])["orders"]
    own = rows(frame)[SPARSEGPT.name]
    told = f"{wording.span(own['order_low'], own['order_high'], own['unit'])} (3)"
    assert any(told in line for line in table.cells)
    render(read([store]), tmp_path)
    page = (tmp_path / "index.html").read_text("utf-8")
    assert f'<small class="orders">{wording.orders(own)}</small>' in page
    assert 'class="line orders c-' in page
    assert "order_low" in (tmp_path / "leaderboard.csv").read_text("utf-8").partition("\n")[0]
    (drawn,) = draw(frame, tmp_path / "figures", names=["score_by_sparsity"])
    assert "order_high" in drawn.files[2].read_text("utf-8").partition("\n")[0]


def test_the_figures_draw_a_band_as_a_thick_line(frame):
    for name in ("score_by_sparsity", "differences"):
        shown = known[name].rows(frame)
        thick = [line for ax in known[name].draw(shown).axes for line in (*ax.lines, *ax.collections)]
        wide = [line for line in thick if np.ravel(line.get_linewidth())[0] == 4]
        assert wide, name
        legend = known[name].draw(shown).legends[0]
        assert "other orders of the calibration" in [text.get_text() for text in legend.get_texts()]


def test_without_other_orders_there_is_no_table_and_no_word_of_them(tmp_path):
    filled = fill(FakeStore(), [DENSE, WANDA], TASKS, n=30)
    found = read([filled]).frame
    assert not make_all(found, ["orders"])
    assert set(found["orders"]) == {0}
    render(read([filled]), tmp_path)
    assert 'class="orders"' not in (tmp_path / "index.html").read_text("utf-8")
