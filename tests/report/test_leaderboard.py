"""The page is whole by itself, says what the frame says, and nothing that a model wrote can act in it."""

import csv
import io
import json
import re
from html.parser import HTMLParser

import jsonschema
import pytest

from kick.analysis import bits
from kick.analysis.frame import read
from kick.report import wording
from kick.report.leaderboard import HERE, embedded, html, policy, render, summary
from kick.report.page import view
from tests.support.synthetic import DENSE, HOSTILE, FakeStore, fill, pruned, result, samples


class Page(HTMLParser):
    """What a browser would find: elements with attributes, text of the tables, contents of scripts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self.cells, self._in = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._in = tag
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        self._in = None if tag in ("script", "style") else self._in

    def handle_data(self, data):
        if self._in == "script":
            self.scripts.append(data)
        elif self._in != "style" and self.cells:
            self.cells[-1] += data


@pytest.fixture(scope="module")
def parsed(page):
    return Page(page)


def test_the_page_makes_no_request(page, parsed):
    assert not re.findall(r"(?:https?:)?//[a-z]", re.sub(r"// [A-Z]", "", page))
    for tag, attributes in parsed.elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form")
        assert not {"src", "srcset", "style", "action"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("href", "#").startswith("#")
    assert "@import" not in page
    assert "url(" not in page


def test_its_policy_allows_its_own_style_and_script_alone(page):
    style = re.search(r"<style>(.*?)</style>", page, re.S)[1]
    script = re.findall(r"<script>(.*?)</script>", page, re.S)
    assert len(script) == 1
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]
    assert found.replace("&#39;", "'") == policy(style, script[0])
    assert "default-src 'none'" in found.replace("&#39;", "'")
    assert "unsafe" not in found


def test_hostile_answers_are_text(page, parsed):
    assert HOSTILE not in page
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert "\u202e" not in page
    assert "\u2028" not in page
    assert "&lt;script&gt;alert" in page
    shown = [cell for cell in parsed.cells if "alert(" in cell]
    assert shown
    assert all("\u27e8U+202E\u27e9" in cell for cell in shown)


def test_titles_and_notes_are_escaped(page):
    assert "A title with &lt;b&gt;marks&lt;/b&gt;" in page
    assert "<b>marks" not in page
    assert "a note" in page
    assert "quantized once already" in page


def test_the_embedded_json_gives_back_what_went_in(parsed, report):
    data = json.loads(parsed.scripts[0])
    assert data == view(report, title=None, notes=(), examples=0).sections[0].data | {} or data[0]["tasks"]
    hostile = {"a": [HOSTILE, "</script><script>", "<!--", "\u2028\u2029&", None, 1.5]}
    text = str(embedded(hostile))
    assert json.loads(text) == hostile
    assert not set("<>&") & set(text)
    assert text.isascii()


def test_the_tables_values_are_the_frames(frame, page):
    rows = frame[frame["primary"] & (frame["group"] == "")]
    body = re.search(r'<table class="grid overview">.*?<tbody>(.*?)</tbody>', page, re.S)[1]
    lines = {re.search(r'data-label="([^"]*)"', line)[1]: line for line in body.split("</tr>")[:-1]}
    assert set(lines) == set(rows["label"])
    for _, row in rows.iterrows():
        line = lines[row["label"]]
        assert f'<span class="value">{wording.number(row["value"], row["unit"])}</span>' in line
        assert wording.span(row["low"], row["high"], row["unit"]) in line
        if not row["dense"]:
            assert wording.number(row["gap"], row["unit"], signed=True) in line
            assert f'class="unseen"> {wording.verdict(row) or wording.apart(row)}</span>' in line
    assert body.index('data-label="dense"') < body.index("data-label=", body.index('data-label="dense"') + 5)


def test_the_data_for_the_script_are_the_frames(frame, parsed):
    tasks = json.loads(parsed.scripts[0])[0]["tasks"]
    found = next(
        metric
        for task in tasks
        if task["title"] == "Closed-book facts"
        for metric in task["metrics"]
        if metric["primary"]
    )
    rows = frame[(frame["task"] == "kick_mini_factoid") & frame["primary"]].set_index("label")
    for label, cell in found["cells"].items():
        row = rows.loc[label]
        assert cell[0] == wording.number(row["value"], row["unit"])
        assert cell[4] == (wording.verdict(row) or wording.apart(row))
        assert cell[7] == row["n"]
        assert cell[10] == pytest.approx(row["value"])


def test_charts_panels_and_provenance_are_there_without_script(page, parsed):
    without = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert without.count("<svg") > 10
    for text in (
        "What perplexity hides",
        "Closed against open book",
        "a processor",
        "abcdef0123456789",
        "Wanda",
    ):
        assert text in without
    for tag, attributes in parsed.elements:
        if tag == "svg":
            assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"
        if tag == "th":
            assert attributes["scope"] in ("col", "row")


def test_the_csv_has_every_row_and_no_formula(folder, frame):
    rows = list(csv.reader(io.StringIO((folder / "leaderboard.csv").read_text("utf-8"))))
    assert len(rows) == len(frame) + 1
    numeric = re.compile(r"-?\d+(\.\d*)?(e[-+]?\d+)?")
    for row in rows:
        assert all(cell[:1] not in ("=", "+", "@") or numeric.fullmatch(cell) for cell in row)


def test_the_json_is_strict_and_complete(folder, frame):
    found = json.loads((folder / "leaderboard.json").read_text("utf-8"), parse_constant=pytest.fail)
    assert len(found["rows"]) == len(frame)
    assert found["rows"][0]["value"] == pytest.approx(frame.iloc[0]["value"])
    assert found["provenance"]["commit"] == ["abcdef0123456789"]


def test_the_json_is_by_its_schema_which_refuses_what_is_not(folder, frame):
    schema = json.loads((HERE / "leaderboard.schema.json").read_text("utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    found = json.loads((folder / "leaderboard.json").read_text("utf-8"))
    found["rows"] = found["rows"][::7] + [row for row in found["rows"] if "|" in row["task"]]
    assert list(validator.iter_errors(found)) == []
    assert set(schema["properties"]["rows"]["items"]["properties"]) <= set(frame.columns)
    (row,) = found["rows"][:1]
    for wrong in ({"value": "0.5"}, {"p": 1.5}, {"verdict": "fine"}, {"n": -1}, {"key": "x"}, {"more": []}):
        assert not validator.is_valid({**found, "rows": [row | wrong]}), wrong
    for name in ("value", "verdict", "key"):
        without = {column: value for column, value in row.items() if column != name}
        assert not validator.is_valid({**found, "rows": [without]}), name
    assert not validator.is_valid({**found, "format": "kick leaderboard 2"})


def test_markdown_and_latex_are_written(folder):
    assert "### Differences to dense" in (folder / "leaderboard.md").read_text("utf-8")
    assert "\\<b\\>" in (folder / "leaderboard.md").read_text("utf-8")
    assert r"\begin{tabular}" in (folder / "leaderboard.tex").read_text("utf-8")


def test_the_same_results_give_the_same_files(report, folder, tmp_path):
    again = render(report, tmp_path, title="A title with <b>marks</b>", notes=["a note"])
    assert [file.name for file in again] == [
        "index.html", "leaderboard.csv", "leaderboard.md", "leaderboard.tex", "leaderboard.json",
    ]  # fmt: skip
    for file in again:
        assert file.read_bytes() == (folder / file.name).read_bytes()


def test_hostile_names_are_harmless_everywhere(tmp_path):
    one = pruned("magnitude", 0.5)
    evil = type(one)('"><img src=x onerror=alert(1)>=cmd()', one.model, one.recipe, checkpoint=True)
    store = fill(FakeStore(), [DENSE], ["kick_mini_factoid"], n=20)
    found = samples("kick_mini_factoid", evil, 20)
    made = result("kick_mini_factoid", evil, found)
    store.put(
        type(made)(**{**vars(made), "provenance": {"machine": "<script>1</script>", "time": "=x"}}), found
    )
    render(read([store]), tmp_path)
    page = (tmp_path / "index.html").read_text("utf-8")
    assert "<img" not in page
    assert "<script>1" not in page
    assert not [tag for tag, attributes in Page(page).elements if "onerror" in attributes]


@pytest.mark.parametrize("tasks", [["kick_mini_factoid"], ["kick_mini_perplexity"], ["kick_mini_fidelity"]])
def test_few_results_make_a_page_too(tasks):
    for variants in ([DENSE], [DENSE, pruned("wanda", "2:4")], [pruned("wanda", 0.5)]):
        report = read([fill(FakeStore(), variants, tasks, n=12)])
        text = html(view(report, title=None, notes=(), examples=2))
        assert "<h2>Scores" in text


def test_a_line_a_variant_for_the_terminal(report):
    lines = summary(report)
    assert any(line.startswith("magnitude 50 %: ") for line in lines)
    assert not any("dense" in line.split(":")[0] for line in lines)


def test_of_very_many_variants_some_answers_are_shown_and_the_page_says_so(monkeypatch):
    monkeypatch.setattr("kick.report.answers.MOST", 4)
    variants = [DENSE, *(pruned("wanda", round(0.05 * n, 2)) for n in range(1, 10))]
    report = read([fill(FakeStore(), variants, ["kick_mini_factoid"], n=12)])
    task = view(report, title=None, notes=(), examples=2).sections[0].tasks[0]
    shown = [label for answer in task.examples[0].answers for label in answer.labels]
    assert sorted(shown) == ["dense", "wanda 15 %", "wanda 30 %", "wanda 45 %"]
    assert "Of 10 variants 4 are shown" in html(view(report, title=None, notes=(), examples=2))


def test_a_page_that_would_be_too_large_leaves_parts_out_and_says_so():
    report = read([fill(FakeStore(), [DENSE, pruned("wanda", 0.5)], ["kick_mini_factoid"], n=40)])
    made = view(report, title=None, notes=(), examples=0)
    whole = html(made)
    assert "Left out, because" not in whole
    assert "gold 39" in whole
    assert len(made.sections[0].data["pair"]["tasks"][0]["texts"]) == 40
    smaller = html(made, len(whole.encode()) - 1)
    assert len(smaller.encode()) < len(whole.encode())
    assert "what was answered, in the comparison of two variants" in smaller
    assert "gold 39" not in smaller
    least = html(made, 1)
    assert "the comparison of two variants." in least
    assert 'class="pair"' not in least
    assert "<h2>Scores" in least


def test_texts_have_a_cap_over_all_tasks_and_the_page_says_how_many_it_holds(monkeypatch):
    monkeypatch.setattr("kick.report.side_by_side.ROOM", 3000)
    tasks = ["kick_mini_factoid", "kick_mini_mcq"]
    report = read([fill(FakeStore(), [DENSE, pruned("wanda", 0.5)], tasks, n=40)])
    pair = view(report, title=None, notes=(), examples=0).sections[0].data["pair"]
    held = [len(task["texts"]) for task in pair["tasks"]]
    assert 0 < min(held) == max(held) or max(held) - min(held) == 1, "in turn"
    assert len(json.dumps([task["texts"] for task in pair["tasks"]])) < 3100
    assert f"all 80 items, and the texts of {sum(held)}: " in pair["said"]
    for task in pair["tasks"]:
        dense, other = (bits.unpacked(right, 40) for right, _ in task["bits"])
        flipped = [bool(dense[place] != other[place]) for place, *_ in task["texts"]]
        assert flipped == sorted(flipped, reverse=True), "those on which they differ come first"
