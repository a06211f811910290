"""What the page says beside its scores: ranks, whose noise it is, distances apart, patterns in the charts."""

import math
import re
from dataclasses import replace

import pandas as pd
import pytest

from kick.analysis.frame import read
from kick.records import Step
from kick.report import charts, select, tables, wording
from kick.report.leaderboard import as_json, html
from kick.report.origins import provenance
from kick.report.page import view
from tests.support.synthetic import DENSE, FakeStore, fill, pruned, variant

FACTS, FAR = "kick_mini_factoid", "kick_mini_fidelity"


@pytest.fixture(scope="module")
def report():
    replicas = [replace(DENSE, name=f"dense-{kind}", replica=kind) for kind in ("batch", "dtype")]
    ours = [DENSE, *replicas, pruned("magnitude", 0.7), pruned("wanda", 0.3), pruned("wanda", "2:4")]
    return read([fill(FakeStore(), ours, [FACTS, FAR], n=24)])


def test_the_rows_are_in_the_order_of_their_ranks(report):
    (section,) = view(report, title=None, notes=(), examples=0).sections
    assert section.lines[0].dense
    places = [line.place for line in section.lines[1:] if line.place is not None]
    assert len(places) == 3
    assert places == sorted(places, reverse=True)
    assert [line.replica for line in section.lines[-2:]] == [True, True]
    text = html(view(report, title=None, notes=(), examples=0))
    assert re.search(r'data-order="-\d\.0">\d(\u2013\d)?<small>[\d.]+ %</small>', text)


def test_provenance_names_no_folder_of_the_machine(report):
    first, *others = report.cells
    command = ["kick", "run", "/home/me/x.yaml", "--out=/home/me/made", "file:///home/me/y", "~/z"]
    run = replace(first.run, provenance={**first.run.provenance, "command": command})
    ours = replace(report, cells=(replace(first, run=run), *others))
    said = "kick run \u2026/x.yaml --out=\u2026/made \u2026/y \u2026/z"
    assert dict(provenance(ours))["command"][0] == said
    page = view(ours, title=None, notes=(), examples=0)
    assert said in html(page)
    assert "/home/me" not in html(page) + as_json(ours, page)


def test_a_csv_of_a_board_has_no_column_without_anything():
    rows = pd.DataFrame({"a": [1 / 3, 2.0], "b": [math.nan, math.nan], "c": ["", ""], "d": ["", "x"]})
    rows = rows.assign(e=[0, 0], f=[False, False])
    assert wording.csv(rows, short=True) == "a,d,e,f\n0.333333333333,,0,False\n2,x,0,False\n"
    assert wording.csv(rows).startswith("a,b,c,d,e,f\n0.3333333333333333,")


@pytest.mark.parametrize(
    ("value", "text"), [(0.5, "0.5"), (20_000, "20,000"), (1e9, "10\u2079"), (2e6, "2\u00b710\u2076")]
)
def test_a_tick_is_no_wider_than_its_place(value, text):
    assert charts._tick(value) == text


def test_of_many_variants_those_far_beyond_the_edge_are_not_drawn(report):
    rows = select.headlines(report.frame)
    one = rows[rows["label"].eq("wanda 30 %") & rows["task"].eq(FACTS)]
    many = pd.concat([one.assign(label=f"v{n}", ratio=1 + n / 20) for n in range(1, 31)])
    drawn = str(charts.hides(many))
    assert "v16" in drawn
    assert "v17" not in drawn
    assert "14 more, of perplexity worse by more than 60 %" in drawn


def test_models_for_mechanics_rank_nothing(report):
    tiny = replace(report, frame=report.frame.assign(base="tiny-mixtral"))
    (section,) = view(tiny, title=None, notes=(), examples=0).sections
    assert (section.ranked, section.tradeoffs, section.agreement) == ("", (), ())
    assert {line.rank for line in section.lines} == {""}
    assert "They rank no methods" in html(view(tiny, title=None, notes=(), examples=0))


def test_noise_says_which_replica_it_is_of(report):
    frame = report.frame.copy()
    chosen = frame["primary"] & frame["task"].eq(FACTS)
    frame.loc[chosen & frame["replica"].eq("dtype"), "gap"] = -0.5
    frame.loc[chosen & frame["replica"].eq("batch"), "gap"] = 0.1
    frame.loc[chosen, "noise"] = 0.5
    columns = view(replace(report, frame=frame), title=None, notes=(), examples=0).sections[0].columns
    assert columns[0].noise == "50.0 (bfloat16)"


def test_what_could_be_shown_is_said_of_the_variant_nearest_dense(report):
    frame = report.frame.copy()
    chosen = frame["primary"] & frame["task"].eq(FACTS) & ~frame["dense"] & frame["replica"].eq("")
    frame.loc[chosen, "detectable"] = 2.3
    near = chosen & frame["label"].eq("wanda 30 %")
    frame.loc[near, ["gap", "detectable"]] = [0.0, 0.04]
    columns = view(replace(report, frame=frame), title=None, notes=(), examples=0).sections[0].columns
    assert columns[0].detectable == "4.0"


def test_a_distance_beyond_the_noise_is_marked(report):
    rows = report.frame[report.frame["metric"].eq("fdt") & report.frame["group"].eq("")]
    row = dict(rows[rows["label"] == "magnitude 70 %"].iloc[0]) | {"gap_low": -9.0, "gap_high": -2.0}
    assert wording.apart(row | {"within_noise": False}) == "apart"
    assert wording.apart(row | {"within_noise": True}) == ""
    assert wording.apart(row | {"within_noise": False, "gap_high": 0.0}) == ""
    assert wording.apart(row | {"within_noise": False, "metric": "exact_match"}) == ""
    assert wording.MARKS["apart"]


def test_patterns_are_in_the_charts_and_a_single_level_is_joined_by_dots(report):
    chart = str(charts.levels(select.of_task(select.headlines(report.frame), (FACTS, ""))))
    assert ">2:4<" in chart
    assert "wanda 2:4: " in chart
    assert chart.count('thin" stroke-dasharray="1 4"') == 3, "magnitude, wanda 30 % and 2:4 are single levels"


def test_only_checkpoints_have_no_empty_section_of_charts(report):
    one = replace(pruned("wanda", 0.5), name="mine", checkpoint=True, recipe=())
    text = html(
        view(read([fill(FakeStore(), [DENSE, one], [FACTS], n=12)]), title=None, notes=(), examples=0)
    )
    assert "Score against compression" not in text
    assert "Score against compression" in html(view(report, title=None, notes=(), examples=0))


def compressed(store, name, *steps):
    """Give a variant's result a record of its steps."""
    for key, run in store.results.items():
        if run.cell.variant.name == name:
            store.results[key] = replace(run, compression={**run.compression, "steps": list(steps)})


def test_training_task_data_and_what_compressing_took_are_on_the_page():
    trained = variant("trained", Step("wanda", {"sparsity": 0.5}), Step("recover-perp", {}))
    ours = [DENSE, pruned("wanda", 0.5), trained, variant("seap", Step("seap", {"share": 0.5}))]
    store = fill(FakeStore(), ours, [FACTS], n=12)
    took = {"seconds": 3.0, "cpu_seconds": 2.5, "peak_memory": 2_000_000_000}
    training = {"tokens": 640, "corpus": "c4"}
    compressed(store, "trained", took, {**took, "kind": "recover", "training": training})
    earlier = {"seconds": 9.0, "passes": {"forward": 32.5, "backward": 4}}
    compressed(store, "seap", earlier)
    frame = read([store]).frame
    (section,) = view(read([store]), title=None, notes=(), examples=0).sections
    lines = {line.name: line for line in section.lines}
    assert lines["trained"].remark.startswith("trained on 640 tokens of c4")
    assert lines["seap"].remark.startswith("calibrated on task data")
    assert [lines[name].apart for name in ("wanda-0.5", "trained", "seap")] == [False, True, True]
    assert lines["trained"].place < lines["wanda-0.5"].place, "after those that are ranked together"
    cells = {line[0]: line[1:] for line in tables.known["calibration_cost"].make(frame).cells}
    assert cells[lines["trained"].label] == ("\u2013", "\u2013", "5.00", "6.00", "2,000 MB")
    assert cells["seap 50 %"] == ("32.5", "4", "\u2013", "9.00", "\u2013")
    assert "What compressing took" in html(view(read([store]), title=None, notes=(), examples=0))
