"""Every figure draws what it has data for, and says why it does not."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kick.analysis.frame import read
from kick.catalog import shipped
from kick.errors import KickError
from kick.records import Step
from kick.report import published, select
from kick.report.figures import draw, figure, known, style
from kick.report.palette import method_look
from tests.support.synthetic import CALIBRATION, DENSE, MODEL, FakeStore, fill, pruned, variant

STUDIES = {"calibration_size", "shots", "small_dense_large_sparse", "components", "instruction_following"}


GRIDS = {"differences", "seeds", "perplexity_hides", "score_by_bits", "score_by_pattern", "score_by_sparsity"}
FEW = ["kick_mini_factoid", "kick_mini_mcq", "kick_mini_perplexity"]  # panels enough for a grid


@pytest.mark.parametrize("name", sorted(known))
def test_each_is_a_picture_a_pdf_and_the_rows_behind_it_or_says_why_not(frame, tmp_path, name):
    few = frame[frame["task"].isin(FEW)] if name in GRIDS else frame
    (one,) = draw(few, tmp_path, names=[name])
    assert bool(one.files) != bool(one.skipped)
    others = ("depth_by_length", "recovered")  # of kick_long alone, and of variants that were trained
    assert bool(one.skipped) == (name in STUDIES or name in others)
    if one.skipped:
        assert one.skipped.startswith("there is no ")
        return
    png, pdf, table = one.files
    assert png.read_bytes().startswith(b"\x89PNG")
    assert pdf.read_bytes().startswith(b"%PDF")
    rows = pd.read_csv(table, keep_default_na=False, na_values={"value": [""]})
    both = rows.merge(frame, on=["key", "task", "metric", "group"], suffixes=("", "_frame"))
    assert len(both) == len(rows) > 0
    assert both["value"].to_numpy() == pytest.approx(both["value_frame"].to_numpy(), nan_ok=True)


def test_the_papers_figures_stand_beside_the_published_numbers(frame, tmp_path):
    drawn = draw(frame, tmp_path, names=["factoid_qa", "score_by_bits"], paper="llm-kick")
    assert [one.name for one in drawn] == ["factoid_qa"]
    rows = pd.read_csv(drawn[0].files[2])
    theirs = rows[rows["matrix"] == "published"]
    assert set(theirs["method"]) == {"dense", "magnitude", "wanda", "sparsegpt"}
    assert theirs["value"].max() == pytest.approx(0.6653)


def test_published_numbers_may_come_from_a_file(tmp_path):
    numbers = published.load()
    assert len(published.pruning("mcr_qa", numbers)) == 18
    assert published.pruning("perplexity", numbers).empty
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(KickError, match="cannot be read"):
        published.load(tmp_path / "broken.json")


def test_unknown_names_are_refused_with_their_neighbours(frame, tmp_path):
    with pytest.raises(KickError, match="score_by_sparsity"):
        draw(frame, tmp_path, names=["score_by_sparsty"])
    with pytest.raises(KickError, match="llm-kick"):
        draw(frame, tmp_path, paper="llm-kik")


def test_a_figure_is_added_by_one_function(frame, tmp_path):
    @figure("only_for_this_test", "A figure", select.headlines)
    def mine(rows):
        made = Figure()
        made.subplots().plot(rows["sparsity"], rows["value"])
        return made

    assert len(draw(frame, tmp_path, names=["only_for_this_test"])[0].files) == 3
    del known._items["only_for_this_test"]


def test_several_base_models_get_a_file_each(tmp_path):
    second = [
        replace(one, model=replace(MODEL, name="an/other", digest="2" * 64))
        for one in (DENSE, pruned("wanda", 0.5))
    ]
    store = fill(FakeStore(), [DENSE, pruned("wanda", 0.5)], ["kick_mini_factoid"], n=20)
    fill(store, second, ["kick_mini_factoid"], matrix="second", n=20)
    drawn = draw(read([store]).frame, tmp_path, names=["score_by_sparsity"])
    assert sorted(one.files[0].name for one in drawn) == [
        "score_by_sparsity-second-an-other.png",
        "score_by_sparsity-synthetic-smollm2-135m.png",
    ]


def test_studies_are_drawn_where_a_matrix_holds_them(tmp_path):
    task, store = ["kick_mini_mcq"], FakeStore()
    for size in (16, 64, 128):
        spec = replace(CALIBRATION, sequences=size)
        tuned = [replace(pruned(name, 0.5), calibration=spec) for name in ("wanda", "sparsegpt")]
        fill(store, [DENSE, *tuned], task, matrix=f"calibrated-{size}", n=20)
    levels = [DENSE, pruned("wanda", 0.3), pruned("wanda", 0.5)]
    for shots in (0, 5):
        fill(store, levels, task, matrix=f"shots-{shots}", n=20, shots=shots)
    larger = replace(MODEL, name="larger", digest="1" * 64)
    fill(store, [replace(one, model=larger) for one in levels], task, matrix="larger", n=20)
    parts = [
        variant(
            f"only-{layer}-{part}", Step("wanda", {"sparsity": 0.75, "only": f"model.layers.{layer}.{part}"})
        )
        for layer in range(3)
        for part in ("self_attn.q_proj", "mlp.down_proj")
    ]
    fill(store, [DENSE, *parts], ["kick_mini_fidelity"], matrix="components")
    found = {}
    for one in draw(read([store]).frame, tmp_path, names=sorted(STUDIES)):
        found[one.name] = found.get(one.name, False) or bool(one.files)
    assert found == {name: name != "instruction_following" for name in STUDIES}


def test_no_two_methods_look_the_same():
    looks = [
        (method_look(name).color, method_look(name).marker, method_look(name).line)
        for name in ("dense", *shipped())
    ]
    assert len(set(looks)) == len(looks)


def test_retention_leaves_out_what_dense_cannot_do_beyond_chance(frame):
    rows = known["retention"].rows(frame)
    dense = frame[frame["dense"] & frame["primary"] & (frame["group"] == "")].set_index("task")["low"]
    assert set(rows["task"]) <= {task for task, low in dense.items() if low > 0}
    weak = frame.copy()
    weak.loc[weak["dense"] & (weak["task"] == "kick_mini_mcq"), "low"] = 0.24  # four choices: 0.25 by chance
    assert "kick_mini_mcq" in set(rows["task"])
    assert "kick_mini_mcq" not in set(known["retention"].rows(weak)["task"])
    vague = frame.copy()  # beyond chance, and too vague to divide by
    vague.loc[vague["dense"] & (vague["task"] == "kick_mini_mcq"), ["value", "low"]] = [0.75, 0.3]
    assert "kick_mini_mcq" not in set(known["retention"].rows(vague)["task"])
    row = rows[(rows["variant"] == "magnitude-0.5") & (rows["task"] == "kick_mini_mcq")].iloc[0]
    assert 1 + row["relative"] == pytest.approx(row["value"] / row["dense_value"])


def test_a_long_legend_widens_and_heightens_a_small_figure_and_fits_it():
    drawn, _ = style.panels(1)
    before = drawn.get_figheight()
    style.key(drawn, [Line2D([], [], label=f"a method {number}") for number in range(18)])
    (legend,) = drawn.legends
    assert drawn.get_figwidth() == style.WIDE
    drawn.draw_without_rendering()
    assert legend.get_window_extent().width <= drawn.bbox.width
    lines = -(-18 // legend._ncols)
    assert drawn.get_figheight() == pytest.approx(before + style.LINE * (lines - 2))
    few, _ = style.panels(1)
    style.key(few, [Line2D([], [], label="one")])
    assert (few.get_figwidth(), few.get_figheight()) == (2.65, before)


def test_where_perplexity_is_far_beyond_dense_it_hides_nothing_and_is_not_drawn(frame):
    rows = known["perplexity_hides"].rows(frame)
    far = rows["label"].eq(rows["label"].iloc[0])
    axes = known["perplexity_hides"].draw(rows.assign(ratio=np.where(far, 1e7, 1.5))).axes[0]
    assert axes.get_xlim()[1] < 3
    assert axes.get_xlabel().endswith("; 1 beyond 20\u00d7 not drawn)")
