"""Scores that say nothing are said to, at the head of the page and of what a run prints."""

from dataclasses import replace

from kick.analysis.frame import read
from kick.cli.running import _scores
from kick.report import leaderboard
from tests.support.synthetic import DENSE, FakeStore, pruned, quantized, result, samples

TASK = "kick_mini_factoid"
RIGHT = ("exact_match", "contains", "f1")


def stored(**scores):
    """Dense and two variants; `scores` of a variant's name replace those of all its items."""
    store = FakeStore()
    for variant in (DENSE, pruned("wanda", 0.5), quantized("rtn", 4)):
        other = scores.get(variant.name.replace("-", "_").replace(".", "_"), {})
        items = [replace(one, scores=dict(one.scores) | other) for one in samples(TASK, variant, 30)]
        store.put(result(TASK, variant, items), items)
    return store


def test_a_dense_model_that_scores_0_is_said_first(tmp_path):
    store = stored(dense=dict.fromkeys(RIGHT, 0.0), wanda_0_5=dict.fromkeys(RIGHT, 0.0))
    report = read([store])
    (note,) = report.notes
    assert note.startswith("Closed-book facts: the dense model smollm2-135m scores 0 (")
    assert "no variant has a verdict" in note
    assert set(report.frame.loc[report.frame["primary"], "verdict"]) == {"dense", ""}
    html = leaderboard.render(report, tmp_path)[0].read_text()
    assert html.index("the dense model smollm2-135m scores 0") < html.index("<main>")
    assert "scores 0" in (tmp_path / "leaderboard.md").read_text()


def test_answers_that_are_all_empty_are_said_first():
    nothing = {"empty": 1.0, **dict.fromkeys(RIGHT, 0.0)}
    (note,) = read([stored(wanda_0_5=nothing)]).notes
    assert note == "Closed-book facts: every answer is empty of wanda 50 %."
    both = read([stored(wanda_0_5=nothing, dense=nothing)]).notes
    assert len(both) == 2
    assert both[1].endswith("every answer is empty of dense, wanda 50 %.")


def test_a_task_without_its_dense_cell_is_said_first(tmp_path):
    store = stored()
    for key in [key for key, run in store.results.items() if run.cell.variant.dense]:
        del store.results[key]
    report = read([store])
    (note,) = report.notes
    assert note.startswith(
        "The matrix synthetic has no answers of the dense model smollm2-135m on Closed-book facts: nothing is"
    )
    assert set(report.frame["verdict"]) == {""}
    html = leaderboard.render(report, tmp_path)[0].read_text()
    assert 0 < html.index("has no answers of the dense model") < html.index("<main>")


def test_imported_answers_without_dense_are_not_to_be_run_again():
    store = stored()
    for key, run in list(store.results.items()):
        if run.cell.variant.dense:
            del store.results[key]
        else:
            store.results[key] = replace(run, cell=replace(run.cell, imported="0123"))
    (note,) = read([store]).notes
    assert note.startswith("The matrix synthetic has imported answers alone on Closed-book facts: nothing is")
    assert note.endswith("A dense model's answers are imported as the variant dense.")
    assert "Run the matrix again" not in note


def test_scores_that_say_something_have_no_note():
    assert read([stored(wanda_0_5=dict.fromkeys(RIGHT, 0.0))]).notes == ()


def test_what_the_records_warn_of_is_at_the_head_of_the_page(tmp_path):
    store = stored(wanda_0_5={"empty": 1.0})
    for key, run in store.results.items():
        if not run.cell.variant.dense:
            warnings = ("all 30 answers are empty",)
            store.results[key] = replace(run, warnings=warnings)
    report = read([store])
    assert report.notes == ()  # said once
    html = leaderboard.render(report, tmp_path)[0].read_text()
    said = "Closed-book facts: all 30 answers are empty (wanda 50 %, rtn 4-bit)."
    assert 0 < html.index(said) < html.index("<main>")


def test_a_run_prints_it_before_its_scores(capsys):
    report = read([stored(dense=dict.fromkeys(RIGHT, 0.0))])
    report.frame.attrs["notes"] = list(report.notes)

    class Ran:
        folder, matrix = "results/synthetic", "synthetic"

        def results(self):
            return report.frame

    _scores(Ran())
    said = capsys.readouterr().out
    assert said.startswith("note: Closed-book facts: the dense model smollm2-135m scores 0")
