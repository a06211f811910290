"""The page in a real browser: views, links, keys, model text that stays text, no complaint, no request.

The browser is the system's Chromium, headless (`tests.support.browser`). Skipped where there is none.
"""

import json
from dataclasses import replace

import pytest

from kick.analysis import compare
from kick.analysis.frame import read
from kick.report.leaderboard import html, render
from kick.report.page import view
from tests.support import browser
from tests.support.synthetic import DENSE, HOSTILE, FakeStore, fill, pruned, quantized

pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="NO BROWSER: chromium is not installed")
TASKS = ["kick_mini_factoid", "kick_mini_mcq", "kick_mini_perplexity"]

# A table of as many cells as the overview has, written, laid out and taken away again: what sorting may take.
# Not a number of milliseconds, which differ by a factor of three between machines.
PLAIN = """(() => {
  const [table] = document.querySelectorAll(".overview tbody"), plain = document.createElement("table");
  const cells = (row) => "<td>text</td>".repeat(row.cells.length);
  plain.innerHTML = [...table.rows].map((row) => `<tr>${cells(row)}</tr>`).join("");
  document.body.append(plain);
  const height = plain.offsetHeight;
  plain.remove();
  return height;
})()"""


@pytest.fixture(scope="module")
def store():
    ours = [DENSE, pruned("wanda", 0.3), pruned("wanda", 0.5), pruned("magnitude", 0.5), quantized("rtn", 4)]
    return fill(FakeStore(), ours, TASKS, n=40)


@pytest.fixture(scope="module")
def page(store, tmp_path_factory):
    return render(read([store]), tmp_path_factory.mktemp("page"))[0]


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser.opened(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def visit(tab, page):
    """Open the page at a link; at the end nothing was complained of, and nothing asked of the network."""
    yield lambda link="": tab.visit(f"{page.as_uri()}{link}")
    assert tab.complaints() == []


def texts(tab, selector):
    """The texts of the elements that are shown."""
    found = f"[...document.querySelectorAll({json.dumps(selector)})].filter((one) => one.offsetParent)"
    return tab.run(f"{found}.map((one) => one.textContent)")


def choose(tab, name, value):
    control = f"document.querySelector('[name={name}]')"
    tab.run(f"{control}.value = {json.dumps(value)}; {control}.dispatchEvent(new Event('change'))")


def test_a_link_keeps_a_view(tab, visit):
    visit("#s0-words=wanda&s0-sort=2u")
    assert texts(tab, ".overview tbody th") == ["dense", "wanda 50 %", "wanda 30 %"], "sorted upward"
    assert "3 of 5 rows" in texts(tab, ".count")
    visit("#s0-view=0")
    assert texts(tab, ".detail caption")[0].startswith("Closed-book facts: ")
    assert "95 % interval of the gap" in texts(tab, ".detail thead th")
    visit("#s0-a=not+there&s0-b=rtn+4-bit&s0-which=lost")
    assert tab.run("['a', 'b', 'which'].map((name) => document.querySelector(`[name=${name}]`).value)") == [
        "dense",
        "rtn 4-bit",
        "lost",
    ]


def test_a_head_is_reached_and_pressed_by_key_and_the_link_keeps_it(tab, visit):
    visit()
    tab.run("document.querySelectorAll('.overview thead button')[2].focus()")
    tab.press("Enter", 13)
    scores = [float(text) for text in texts(tab, ".overview tbody tr td:nth-child(3) .value")]
    assert scores[1:] == sorted(scores[1:], reverse=True)
    assert tab.run("location.hash") == "#s0-sort=2d"
    assert tab.run("document.querySelectorAll('.overview thead th')[2].ariaSort") == "descending"


def test_any_row_is_compared_with_any_other_as_kick_compare_does(tab, visit, store):
    visit()
    choose(tab, "a", "magnitude 50 %")
    choose(tab, "b", "wanda 50 %")
    rows = "[...document.querySelector('.pairs tbody').rows]"
    found = tab.run(f"{rows}.map((row) => [...row.cells].map((cell) => cell.textContent))")
    expected = compare.compare(store, "magnitude 50 %", "wanda 50 %")
    tasks = [task for task in expected.tasks if task.difference.lost is not None]
    assert len(found) == len(tasks) == 2, "perplexity is not right or wrong"
    for (name, word, gap, interval, a, b, n, lost, won, p, _), task in zip(found, tasks, strict=True):
        made, number = task.difference, lambda text: float(text.replace("\u2212", "-").replace("\u00b1", ""))
        assert name.startswith(task.title)
        assert (int(n), int(lost), int(won)) == (made.n, made.lost, made.won)
        shown = [number(text) for text in (a, b, gap)]
        assert shown == pytest.approx([100 * task.a, 100 * task.b, 100 * made.gap], abs=0.06)
        assert p == ("< 0.001" if made.p < 0.001 else f"{made.p:.3f}")
        ends = [number(text) for text in interval.split(" to ")]
        assert ends == pytest.approx([100 * made.low, 100 * made.high], abs=4), "a bootstrap there"
        assert (word == "better") == (made.p < 0.025), "Holm over two tasks"


def test_two_variants_answers_are_side_by_side_and_stay_text(tab, visit, store):
    visit()
    choose(tab, "b", "wanda 50 %")
    choose(tab, "which", "all")
    items = tab.run("document.querySelectorAll('.pair .item').length")
    assert items == 10
    tab.run("document.querySelector('.more').click()")
    while tab.run("!document.querySelector('.more').hidden"):
        tab.run("document.querySelector('.more').click()")
    cards = texts(tab, ".pair .item")
    assert len(cards) == 40
    one = next(card for card in cards if "Item 6." in card)
    assert "Expected: gold 5" in one
    assert "a: denseanswer 5 of dense" in one
    assert "b: wanda 50 %answer 5 of wanda-0.5" in one
    hostile = next(card for card in cards if "Item 1." in card)
    assert '<script>alert("x")</script>' in hostile
    assert "\u27e8U+202E\u27e9" in hostile
    assert "\u202e" not in hostile
    assert tab.run("document.querySelectorAll('script').length") == 2
    assert HOSTILE not in tab.run("document.documentElement.outerHTML")


def test_dark_and_narrow_nothing_is_wider_than_the_window(tab, visit):
    for dark in (False, True):
        tab.look(390, 800, dark=dark)
        visit()
        assert tab.run("document.documentElement.scrollWidth") == 390
        paper = tab.run("getComputedStyle(document.body).backgroundColor")
        assert (max(map(int, paper[4:-1].split(", "))) < 60) == dark


def test_two_thousand_variants_are_sorted_as_fast_as_a_plain_table_is_written(tab, store, tmp_path):
    made, rows = view(read([store]), title=None, notes=(), examples=0), 2000
    (section,) = made.sections
    line = section.lines[1]
    more = []
    for place in range(rows):  # a line each, every one with scores of its own
        scores = (place * 7919 % rows) / 20
        cells = [replace(cell, score=f"{scores:.2f}", order=scores) for cell in line.cells]
        more.append(replace(line, label=f"wanda {place}", name=f"w-{place}", cells=tuple(cells)))
    file = tmp_path / "index.html"
    text = html(replace(made, sections=(replace(section, lines=(*section.lines, *more)),)))
    file.write_text(text, encoding="utf-8")
    tab.look(1280, 900)
    tab.visit(file.as_uri())
    assert tab.run("document.querySelector('.overview tbody').rows.length") == rows + 5
    times, plain = [], []
    for _ in range(3):  # by turns, the best of each: other tests run beside
        before = tab.cpu()
        tab.run("document.querySelectorAll('.overview thead button')[2].click(); document.body.offsetHeight")
        times.append(tab.cpu() - before)
        before = tab.cpu()
        tab.run(PLAIN)
        plain.append(tab.cpu() - before)
    assert min(times) < 1.2 * min(plain), (times, plain)
    scores = [float(text) for text in texts(tab, ".overview tbody tr td:nth-child(3) .value")[1:]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 249, "the first 250 rows, dense among them"
    tab.run("document.querySelector('button.all').click()")
    assert len(texts(tab, ".overview tbody tr")) == rows + 5
    assert tab.complaints() == []
