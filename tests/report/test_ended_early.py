"""Page, tables and figures say of how many items a stopped cell was asked, and rank no estimate."""

import json
import re

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from kick.analysis.frame import read
from kick.report import charts, figures, select, tables, wording
from kick.report.figures import levels
from kick.report.leaderboard import render, summary
from kick.report.unasked import unasked
from kick.stats.sequential import Rule
from tests.support.early import end_early, of
from tests.support.synthetic import DENSE, FakeStore, fill, pruned, quantized

FACTS, BOOKS = "kick_mini_factoid", ("kick_mini_closed", "kick_mini_open")
TASKS = (FACTS, *BOOKS, "kick_mini_perplexity")
VARIANTS = (DENSE, pruned("wanda", 0.3), pruned("magnitude", 0.7), pruned("wanda", 0.7), quantized("gptq", 8))
N = 256


@pytest.fixture(scope="module")
def early():
    made = fill(FakeStore(), VARIANTS, TASKS, n=N)
    made.items[of(made, "gptq-8bit", FACTS).key] = made.items[of(made, "dense", FACTS).key]
    for name in ("magnitude-0.7", "wanda-0.7"):
        end_early(made, name, FACTS)
    end_early(made, "wanda-0.3", FACTS, Rule(futility=0.9))
    end_early(made, "magnitude-0.7", "kick_mini_closed")
    return read([made])


@pytest.fixture(scope="module")
def asked(early):
    """The number of facts that magnitude 70 % was asked."""
    return int(row(early, "magnitude 70 %")["n"])


@pytest.fixture(scope="module")
def pages(early, tmp_path_factory):
    out = tmp_path_factory.mktemp("early")
    render(early, out)
    return out


def row(early, label, task=FACTS):
    rows = select.headlines(early.frame)
    return rows[(rows["label"] == label) & (rows["task"] == task)].iloc[0]


def test_the_page_says_n_of_all_and_the_verdict_and_sorts_no_estimate(early, pages, asked):
    page = (pages / "index.html").read_text("utf-8")
    line = re.search(r'<tr[^>]*data-label="magnitude 70 %".*?</tr>', page, re.S)[0]
    assert asked < N
    assert f"n = {asked} of {N}, stopped: worse" in line
    cells = re.findall(r'<td class="[^"]*" data-order="([^"]*)"', line)
    assert [bool(order) for order in cells] == [False, False, True, True], "two of four ended early"
    assert f"all {N} items scored alike" in re.search(r'data-label="gptq 8-bit".*?</tr>', page, re.S)[0]
    assert "hollow: ended early" in page
    assert "not sorted among the others" in page
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    texts = [one["cells"]["magnitude 70 %"] for one in data[0]["tasks"][0]["metrics"] if one["primary"]]
    assert (texts[0][7], texts[0][10]) == (f"{asked} of {N}", None)
    assert texts[0][5:7] == [wording.NOTHING] * 2, "no p"


def test_the_page_says_what_was_not_asked_and_what_it_would_cost(early, pages, asked):
    found = unasked(early.frame)
    line = next(line for line in found.lines if line[:2] == ("magnitude 70 %", "Closed-book facts"))
    assert line[2:5] == (f"{asked} of {N}", "stopped: worse", str(N - asked))
    assert line[5] in ("2 min", f"{0.5 * (N - asked):.0f} s")  # half a second per item
    futile = next(line for line in found.lines if line[0] == "wanda 30 %")
    assert futile[3].endswith("a verdict had become unlikely")
    rows = early.frame[early.frame["primary"] & early.frame["group"].eq("")]
    total, rest = len(VARIANTS) * (3 * N + 40), sum(int(line[4]) for line in found.lines)
    assert rows["of"].sum() == total
    assert f"4 of {len(rows)} cells" in found.summary
    assert "to be worse. 4 cells ended before all items were asked." in (pages / "index.html").read_text()
    assert f"{total - rest:,} of {total:,} items" in found.summary
    assert f"The other {rest:,}" in found.summary
    assert found.summary in (pages / "index.html").read_text("utf-8").replace("&#39;", "'")


def test_without_dense_a_column_is_not_said_to_have_the_items_of_a_stopped_cell(early):
    frame = early.frame
    found = tables.known["scores"].make(frame[frame["stopped"].ne("") & frame["primary"]])
    assert all(" of " in head for head in found.heads[1:]), found.heads


def test_nothing_is_said_where_all_was_asked(frame, page):
    assert unasked(frame) is None
    assert "What was not asked" not in page
    text = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert "ended early" not in text.replace("tests cells that ended early", "")
    assert "ended before" not in page


def test_the_margin_is_the_matrixs_wherever_it_is_named(pages):
    made = fill(FakeStore(), VARIANTS[:2], [FACTS, "kick_mini_perplexity"], n=40)
    made.results = {key: type(run)(**{**vars(run), "margin": 0.1}) for key, run in made.results.items()}
    found = read([made])
    render(found, pages / "ten")
    page = (pages / "ten" / "index.html").read_text("utf-8")
    assert "within 10 % of dense" in page
    assert "with a margin of 10 % of the dense score" in page
    assert "within 5 %" not in page
    assert "within 10 % of dense" in (pages / "ten" / "leaderboard.md").read_text("utf-8")
    fill(made, VARIANTS[2:3], [FACTS], n=40)
    assert any("margins of 5 % and 10 %" in note for note in read([made]).notes)
    rows = select.beside_perplexity(found.frame)
    wide = float(
        re.search(
            r'class="margin"[^>]*width="([\d.]+)"|width="([\d.]+)"[^>]*class="margin"',
            str(charts.hides(rows)),
        )[1]
    )
    narrow = float(
        re.search(r'class="margin"[^>]*width="([\d.]+)"', str(charts.hides(rows.assign(margin=0.05))))[1]
    )
    assert wide == pytest.approx(2 * narrow, rel=0.01)


def test_tables_say_how_many_items_and_no_p(early, asked):
    made = tables.make_all(early.frame)
    scores = {line[0]: line for line in made["scores"].cells}
    assert scores["magnitude 70 %"][1].endswith(f"(n = {asked} of {N})")
    assert "of" not in scores["gptq 8-bit"][1].partition("(n")[2]
    assert scores["gptq 8-bit"][1].endswith(f"(all {N} items scored alike)")
    assert "ended before all items were asked" in made["scores"].note
    gaps = next(line for line in made["gaps"].cells if line[0] == "magnitude 70 %")
    assert (gaps[4], gaps[5], gaps[6], gaps[8]) == (*[wording.NOTHING] * 2, "worse", f"{asked} of {N}")
    books = {line[0] for line in made["closed_open"].cells}
    assert books == {"wanda 30 %", "wanda 70 %", "gptq 8-bit"}, "the closed book of one ended early"


def test_books_asked_with_two_limits_get_a_bar_each():
    made = fill(FakeStore(), VARIANTS[:2], BOOKS, n=40)
    fill(made, VARIANTS[:2], BOOKS[:1], n=24, limit=24)
    drawn = figures.overview.closed_open(figures.overview._books(read([made]).frame))
    bars = [text.get_text() for text in drawn.axes[0].get_yticklabels()]
    assert len(bars) == len(set(bars)) == 4, bars
    assert {bar.partition(",")[0] for bar in bars} == {"dense", "wanda 30 %"}


def test_books_of_dense_alone_are_not_drawn():
    made = fill(FakeStore(), VARIANTS[:1], BOOKS, n=40)
    with pytest.raises(select.Nothing, match="variant asked all items with the book closed and open"):
        figures.overview._books(read([made]).frame)


def test_a_line_for_the_terminal_counts_what_ended_early(early):
    lines = {line.partition(":")[0]: line for line in summary(early)}
    assert lines["magnitude 70 %"].endswith("2 ended early")
    assert "early" not in lines["gptq 8-bit"]


def test_perplexity_that_ended_early_hides_nothing(early):
    frame = early.frame.copy()
    assert "wanda 70 %" in set(select.beside_perplexity(frame)["label"])
    frame.loc[frame["label"].eq("wanda 70 %") & frame["metric"].eq("perplexity"), "stopped"] = "decided"
    assert "wanda 70 %" not in set(select.beside_perplexity(frame)["label"])


def test_charts_and_figures_show_estimates_hollow(early):
    rows = select.of_task(select.headlines(early.frame), (FACTS, ""))
    chart = str(charts.levels(rows))
    assert len(re.findall(r"hollow", chart)) == 3
    assert f"n = {row(early, 'magnitude 70 %')['n']} of {N}, stopped: worse" in chart
    forest = figures.known["differences"]
    lines = [line for ax in forest.draw(forest.rows(early.frame)).axes for line in ax.lines]
    assert sum(line.get_linestyle() == ":" for line in lines) == 4, "an interval per cell that ended early"
    chosen = figures.known["score_by_sparsity"].rows(early.frame)
    axes = figures.known["score_by_sparsity"].draw(chosen).axes[0]
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white" and len(line.get_xdata())]
    assert sorted(x for line in hollow for x in line.get_xdata()) == pytest.approx([30, 70, 70], abs=3)
    retrieval = figures.known["icra_qa"].rows(early.frame)
    ended = retrieval[retrieval["stopped"].ne("")]
    assert set(ended["metric"]) == {"exact_match"}, "other metrics are of the items asked only"


def test_a_panel_of_patterns_that_all_ended_early_is_denses_line():
    """Other metrics than the headline of cut cells are not drawn, so that dense alone may be left."""
    columns = {"dense": [True], "value": [0.5], "unit": ["share"], "pattern": [""], "method": [""]}
    columns |= {"noise": [0.01], "low": [0.4], "high": [0.6], "metric": ["acc"]}
    columns |= {"higher_is_better": [True], "replica": [""], "stopped": [""], "task": ["t"]}
    _, axes = plt.subplots()
    levels.nm_panel(axes, pd.DataFrame(columns))
    assert axes.lines
    plt.close("all")
