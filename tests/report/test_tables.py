"""Tables say what the frame says, and are harmless wherever they are opened."""

import csv
import io

import pytest

from kick.analysis.frame import read
from kick.report import wording
from kick.report.tables import Table, known, make_all, table, write
from tests.support.synthetic import DENSE, FakeStore, fill


@pytest.fixture(scope="module")
def made(frame):
    return make_all(frame)


def test_every_cell_of_the_scores_is_a_row_of_the_frame(frame, made):
    found = made["scores"]
    assert found.heads[0] == "variant"
    primary = frame[frame["primary"] & (frame["group"] == "")]
    titles = list(dict.fromkeys(primary["title"]))
    assert len(found.heads) == 1 + len(titles)
    for line in found.cells:
        for head, cell in zip(found.heads[1:], line[1:], strict=True):
            row = primary[(primary["label"] == line[0]) & primary["title"].map(head.startswith)].iloc[0]
            assert cell.startswith(wording.number(row["value"], row["unit"]))
            if not row["dense"]:
                assert wording.number(row["gap"], row["unit"], signed=True) in cell
    assert found.cells[0][0] == "dense"
    assert {line[0] for line in found.cells} == set(primary["label"])


def test_a_difference_inside_the_noise_is_said_to_be_one(frame, made):
    inside = frame[
        frame["within_noise"] & frame["primary"] & (frame["group"] == "") & (frame["verdict"] != "matching")
    ]
    assert len(inside)
    lines = [line for line in made["gaps"].cells if line[0] == inside.iloc[0]["label"]]
    assert any(wording.WITHIN_NOISE in line for line in lines)


def test_the_csv_holds_the_rows_in_full(made):
    rows = list(csv.DictReader(io.StringIO(made["gaps"].csv())))
    assert len(rows) == len(made["gaps"].rows)
    assert float(rows[0]["gap"]) == pytest.approx(made["gaps"].rows.iloc[0]["gap"])
    assert rows[0]["variant"] == made["gaps"].rows.iloc[0]["variant"]


def test_latex_and_markdown_keep_their_columns(made):
    for found in made.values():
        lines = [line for line in found.markdown().splitlines() if line.startswith("|")]
        assert {line.replace("\\|", "").count("|") for line in lines} == {len(found.heads) + 1}
        body = [line for line in found.latex().splitlines() if line.endswith(r"\\")]
        assert {line.replace(r"\&", "").count("&") for line in body} == {len(found.heads) - 1}
        assert not set("%$#") & set(found.latex().replace(r"\%", "").replace(r"\#", "").replace("$", ""))


def test_tables_without_data_are_left_out():
    frame = read([fill(FakeStore(), [DENSE], ["kick_mini_factoid"], n=20)]).frame
    assert set(make_all(frame)) == {"scores"}


def test_sections_get_tables_of_their_own():
    store = fill(FakeStore(), [DENSE], ["kick_mini_factoid"], n=20)
    second = fill(FakeStore(), [DENSE], ["kick_mini_factoid"], matrix="second", n=20)
    names = make_all(read([store, second]).frame, ["scores"])
    assert set(names) == {"scores (synthetic, smollm2-135m)", "scores (second, smollm2-135m)"}


def test_a_table_is_added_by_one_function(frame):
    @table("only_for_this_test", "A table")
    def mine(frame):
        return known["scores"].make(frame)

    assert make_all(frame, ["only_for_this_test"])["only_for_this_test"].cells
    with pytest.raises(ValueError, match="taken"):
        table("only_for_this_test", "Again")(mine)
    del known._items["only_for_this_test"]


def test_the_papers_tables_are_written_with_its_figures_and_on_the_leaderboard(frame, folder, tmp_path):
    """LLM-KICK's table 2 holds the 8-bit variants, its table 3 the unstructured ones of at most 50 %."""
    done = {one.name: one for one in write(frame, tmp_path, paper="llm-kick")}
    assert set(done) == {"eight_bit", "pruning_by_task", "closed_open"}
    shown = {}
    for name in ("eight_bit", "pruning_by_task"):
        markdown, rows, tex = done[name].files
        shown[name] = {row["label"] for row in csv.DictReader(rows.open(encoding="utf-8"))}
        assert tex.read_text("utf-8").startswith(r"\begin{table}")
        assert markdown.read_text("utf-8") in (folder / "leaderboard.md").read_text("utf-8")
    assert shown["eight_bit"] == {"dense", "gptq 8-bit"}
    levels = {f"{method} {level} %" for method in ("magnitude", "wanda") for level in (30, 50)}
    assert shown["pruning_by_task"] == levels - {"wanda 50 %"} | {
        *("dense", "wanda 50 %, seed 0", "wanda 50 %, seed 1")
    }
    few = frame[frame["bits"].isna()]
    (missing,) = write(few, tmp_path / "few", ["eight_bit"])
    assert missing.files == ()
    assert "no 8-bit variant" in missing.skipped


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\uff1d1", "\n=1"])
def test_no_text_becomes_a_formula(text):
    assert wording.harmless(text).startswith("'")


@pytest.mark.parametrize("value", ["text", "", 0.5, -0.5, None, "a=b"])
def test_other_cells_stay_as_they_are(value):
    assert wording.harmless(value) == value


def test_numbers_are_written_for_readers():
    assert wording.number(0.5421, "share") == "54.2"
    assert wording.number(-0.05, "share", signed=True) == "\u22125.0"
    assert wording.number(0.0001, "share", signed=True) == "\u00b10.0"
    assert wording.number(123456.7, "ratio") == "123,457"
    assert wording.number(float("nan"), "share") == "\u2013"
    assert wording.p_value(0.0004) == "< 0.001"
    assert wording.span(0.1, 0.2, "share") == "10.0 to 20.0"


def test_invisible_and_turning_characters_are_shown():
    assert (
        wording.visible("a\u202eb\u200bc\x1b[31m")
        == "a\u27e8U+202E\u27e9b\u27e8U+200B\u27e9c\u27e8U+001B\u27e9[31m"
    )
    assert wording.visible("a" + "\u0301" * 50) == "a\u0301\u0301"
    assert wording.visible("x" * 500).endswith("\u2026")
    assert wording.visible("\ud800") == "\u27e8U+D800\u27e9"


def test_a_question_is_shown_without_the_examples_before_it():
    shots = "Question: a?\nAnswer: b\n\nQuestion: c?\nAnswer:"
    assert wording.question(shots) == "Question: c?\nAnswer:"
    passage = "A passage.\n\nQuestion: c?\nAnswer:"
    assert wording.question(passage) == passage
    assert wording.question("x" * 500, 10) == "\u2026" + "x" * 10


def test_latex_marks_the_best_that_noise_cannot_tell_apart_and_what_is_significant(frame):
    rows = frame[frame["primary"] & (frame["group"] == "") & (frame["task"] == "kick_mini_factoid")].copy()
    rows.loc[~rows["dense"], "value"] = 0.1
    rows["noise"] = 0.05
    values = {"wanda 30 %": 0.50, "gptq 4-bit": 0.46, "gptq 8-bit": 0.44}
    for label, value in values.items():
        rows.loc[rows["label"] == label, "value"] = value
    rows["p_holm"] = 0.5
    rows.loc[rows["label"] == "gptq 8-bit", ["p_holm", "within_noise"]] = [0.03, False]
    rows.loc[rows["label"] == "wanda 30 %", ["p_holm", "within_noise"]] = [0.001, False]
    rows.loc[rows["label"] == "gptq 4-bit", ["p_holm", "within_noise"]] = [0.001, True]
    text = known["scores"].make(rows).latex()
    lines = {line.split(" & ")[0]: line.split(" & ")[1] for line in text.splitlines() if " & " in line}
    assert lines["wanda 30 \\%"].startswith(r"\textbf{50.0}$^{**}$ [")
    assert lines["gptq 4-bit"].startswith(r"\textbf{46.0} [")
    assert lines["gptq 8-bit"].startswith("44.0$^{*}$ [")
    assert text.count(r"\textbf") == 2, "dense and its replicas are not variants"
    assert "Bold: the best" in text
    assert r"\toprule" in text


def test_latex_has_no_sign_that_needs_more_than_its_packages(made):
    for found in made.values():
        assert found.latex().isascii(), [sign for sign in found.latex() if not sign.isascii()]
    marks = "".join(wording.MARKS.values())
    assert Table("t", ("a",), ((marks,),), None).latex().isascii()


def test_the_paper_s_tables_are_marked_too(made):
    assert made["pruning_by_task"].best
    assert r"\textbf{" in made["pruning_by_task"].latex()
    assert not made["eight_bit"].best, "of a single variant nothing is best"
