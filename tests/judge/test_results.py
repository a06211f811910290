"""The judge's pass over stored results: columns, failures, both orders, budget, outage, resumption."""

import json
import math
from dataclasses import replace

import pytest

from kick.judge.endpoint import Settings
from kick.judge.results import JudgePass, judge_results, settings
from kick.matrix import load
from kick.store import Store
from tests.support.judge_server import Answer, honest, refused, said, serving, verdict
from tests.support.judged_results import DENSE, PRUNED, SUMMARY, TURNS, fill

GRADES = ("judge", "judge_failure")
nan = pytest.approx(math.nan, nan_ok=True)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-4f1d0c9b8a7e6d5c")


def score(stored, task, name, variant=PRUNED):
    found = {score.metric: score for score in stored.store.result(stored.key(task, variant)).scores}
    return found.get(name)


def test_grades_become_columns_and_all_else_stays_as_it_was(tmp_path):
    stored = fill(tmp_path)
    before = {key: (stored.store.result(key), stored.store.samples(key)) for key in stored.keys.values()}
    with serving(honest) as server:
        report = stored.judge(server)
    assert report.whole
    assert report.calls == len(server.asked) == 14
    assert str(report) == "4 of 4 cells judged; 14 calls, 1400 tokens, 2 replies were there already"
    assert report.kept == 2  # of 16 questions: two answers are the same in both variants
    assert stored.columns(TURNS) == {"judge": [6.0, 4.0, 4.0], "judge_failure": [0.0] * 3}
    assert stored.columns(TURNS, DENSE)["judge"] == [8.0] * 3
    assert stored.columns(SUMMARY) == {
        "judge_coherence": [8.0, 4.0],
        "judge_consistency": [7.0, 3.0],
        "judge_fluency": [6.0, 2.0],
        "judge_relevance": [5.0, 1.0],
        "judge_failure": [0.0, 0.0],
    }
    assert score(stored, TURNS, "judge").value == pytest.approx(14 / 3)
    assert score(stored, SUMMARY, "judge_fluency").value == 4.0
    for key, (result, samples) in before.items():
        now, after = stored.store.result(key), stored.store.samples(key)
        assert [replace(s, scores={}) for s in after] == [replace(s, scores={}) for s in samples]
        assert [s.scores["length"] for s in after] == [s.scores["length"] for s in samples]
        assert [s for s in now.scores if not s.metric.startswith("judge")] == list(result.scores)
        assert (now.cell, now.counts, now.seconds) == (result.cell, result.counts, result.seconds)
        assert stored.store.done(key)


def test_a_second_pass_asks_nothing_and_writes_nothing(tmp_path):
    stored = fill(tmp_path)
    with serving(honest) as server:
        stored.judge(server)
        before, asked = stored.files(), len(server.asked)
        again = stored.judge(server)
    assert again.whole
    assert (again.calls, again.tokens, again.kept) == (0, 0, 16)
    assert len(server.asked) == asked
    assert stored.files() == before


def test_another_judge_gives_other_verdicts_in_the_same_columns(tmp_path):
    stored = fill(tmp_path, (TURNS,))
    with serving(lambda asked: said(verdict(asked, 9 if asked.body["temperature"] else 2))) as server:
        stored.judge(server)
        assert stored.columns(TURNS)["judge"] == [2.0] * 3
        stored.judge(server, temperature=0.5)
        assert stored.columns(TURNS)["judge"] == [9.0] * 3
        stored.judge(server)
    assert stored.columns(TURNS)["judge"] == [2.0] * 3
    assert len(server.asked) == 2 * 11


def test_rubric_reference_and_earlier_turn_follow_from_the_document(tmp_path):
    stored = fill(tmp_path, (TURNS,), variants=(DENSE,))
    with serving(honest) as server:
        stored.judge(server)
    by_request = {asked.judged("request"): asked for asked in server.asked}
    assert "Judge the answer as an examiner in mathematics" in by_request["And doubled?"].system
    assert "experienced programmer" in by_request["Now backwards."].system
    assert "how well the answer serves" in by_request["Now one about snow."].system
    doubled = by_request["And doubled?"]
    assert doubled.judged("reference answer") == "Doubled it is 14."
    assert doubled.judged("earlier request 1") == "What is 3 + 4?"
    assert "in turn 0" in doubled.judged("earlier answer 1")
    assert "in turn 1" in doubled.judged("answer")
    assert "reference answer" not in by_request["Now backwards."].material


# ------------------------------------------------------------------------------------------ failures

HOPELESS = {
    "prose": said("Eight, I should say."),
    "empty": said(""),
    "null": said(None),
    "HTML in the reply": said("<html>{}</html>"),
    "cut verdict": said('{"code": "'),
    "out of range": None,
    "wrong schema": None,
    "refused": refused(400, "content policy"),
    "500": refused(500),
    "late": Answer(said("x").body, delay=0.4),
}


@pytest.mark.parametrize("name", HOPELESS)
def test_defect_09_a_failure_is_nan_counted_and_shown(name, tmp_path):
    """The judge fails on one of three answers."""
    stored = fill(tmp_path, (TURNS,), text=lambda v, place, turn: f"answer {place}")

    def behave(asked):
        if asked.judged() != "answer 1":
            return honest(asked)
        made = {"out of range": verdict(asked, 11), "wrong schema": verdict(asked).replace("grade", "score")}
        return said(made[name]) if name in made else HOPELESS[name]

    with serving(behave) as server:
        report = stored.judge(server, timeout=0.2 if name == "late" else 10.0, workers=1)
    assert stored.columns(TURNS) == {"judge": [4.0, nan, 4.0], "judge_failure": [0.0, 1.0, 0.0]}
    grade, failure = score(stored, TURNS, "judge"), score(stored, TURNS, "judge_failure")
    assert (grade.value, grade.n, grade.missing) == (4.0, 2, 1)
    assert (failure.value, failure.n) == (pytest.approx(1 / 3), 3)
    assert [sum(cell.failures.values()) for cell in report.cells] == [2, 2]
    assert all("6 verdicts; 2 failed (2 " in line for line in report.lines()[:2])
    kept = stored.store.result(stored.key(TURNS)).provenance["judge"]
    assert kept["failures"] == dict(report.cells[1].failures)


def test_a_judge_that_never_keeps_to_the_form_leaves_no_number(tmp_path):
    stored = fill(tmp_path, (TURNS, SUMMARY))
    with serving(lambda _: said("Fine.")) as server:
        report = stored.judge(server)
    assert report.whole
    assert stored.columns(TURNS) == {"judge": [nan] * 3, "judge_failure": [1.0] * 3}
    assert stored.columns(SUMMARY)["judge_fluency"] == [nan] * 2
    grade = score(stored, TURNS, "judge")
    assert (grade.value, grade.n, grade.missing) == (None, 0, 3)
    assert len(server.asked) == 2 * 14  # each with its one repair


def test_one_repair_is_asked_for_and_counted(tmp_path):
    stored = fill(tmp_path, (TURNS,), variants=(DENSE,))

    def behave(asked):
        return honest(asked) if asked.repair else said(f'{{"code": "{asked.code}", "grade": 80}}')

    with serving(behave) as server:
        report = stored.judge(server)
        assert stored.judge(server).calls == 0
    assert stored.columns(TURNS, DENSE) == {"judge": [8.0] * 3, "judge_failure": [0.0] * 3}
    assert report.cells[0].repaired == 6
    roles = [message["role"] for message in server.asked[-1].body["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    assert "no whole number from 1 to 10" in server.asked[-1].body["messages"][-1]["content"]


# ------------------------------------------------------------------------------------------ pairs


def test_defect_08_a_pair_is_shown_in_both_orders(tmp_path):
    stored = fill(tmp_path, (TURNS, SUMMARY))
    with serving(honest) as server:
        report = stored.judge(server, mode="pair")
    pairs = [a for a in server.asked if '"better"' in a.system]
    assert len(pairs) == len(server.asked) == 2 * (5 + 1)  # item 0 answers as dense does in its first turn
    first = [asked for asked in pairs if "good" in asked.material.split("=== ")[5]]
    assert len(first) == len(pairs) / 2
    assert stored.columns(TURNS) == {
        "judge_win": [0.25, 0.0, 0.0],
        "judge_same_order": [1.0] * 3,
        "judge_failure": [0.0] * 3,
    }
    assert stored.columns(SUMMARY) == {
        "judge_win": [0.5, 0.0],
        "judge_same_order": [nan, 1.0],
        "judge_failure": [nan, 0.0],
    }
    assert stored.columns(TURNS, DENSE) == {}
    assert report.whole


def test_defect_08_a_judge_that_likes_the_first_place_prefers_nobody(tmp_path):
    stored = fill(tmp_path, (TURNS,), text=lambda v, place, turn: f"{v.name} {place}")
    with serving(lambda asked: said(verdict(asked, better="first"))) as server:
        stored.judge(server, mode="both")
    found = stored.columns(TURNS)
    assert found["judge_win"] == [0.5] * 3
    assert found["judge_same_order"] == [0.0] * 3
    assert found["judge"] == [7.0] * 3


def test_a_pair_of_which_one_order_failed_is_no_preference(tmp_path):
    stored = fill(tmp_path, (TURNS,), text=lambda v, place, turn: f"{v.name} {place}")

    def behave(asked):
        return said("no") if asked.judged("first answer") == "wanda-0.5 1" else honest(asked)

    with serving(behave) as server:
        stored.judge(server, mode="pair")
    assert stored.columns(TURNS) == {
        "judge_win": [0.5, nan, 0.5],
        "judge_same_order": [1.0, nan, 1.0],
        "judge_failure": [0.0, 0.5, 0.0],
    }


def test_pairs_without_the_dense_models_answers_are_told(tmp_path):
    stored = fill(tmp_path, (TURNS,), variants=(PRUNED,))
    with serving(honest) as server:
        report = stored.judge(server, mode="pair")
    assert not server.asked
    assert not report.whole
    assert "no answers of the dense model" in report.lines()[0]


# ------------------------------------------------------------------------------------------ runs, pinning


def coding(asked):
    return "loop" in asked.material


def test_the_agreement_of_two_runs_is_reported(tmp_path):
    stored = fill(tmp_path, (TURNS,), variants=(DENSE,))

    def behave(asked):
        second = asked.body["seed"] == 6
        writing = "rain" in asked.material or "snow" in asked.material
        return (
            said("?") if second and writing else said(verdict(asked, 5 + second * ("loop" in asked.material)))
        )

    with serving(behave) as server:
        report = stored.judge(server, runs=2, seed=5)
    assert {asked.body["seed"] for asked in server.asked} == {5, 6}
    kept = stored.store.result(stored.key(TURNS, DENSE)).provenance["judge"]["agreement"]
    assert kept == report.cells[0].agreement
    assert kept["grade"]["pairs"] == 4
    assert kept["grade"]["failed"] == 2
    assert kept["grade"]["equal"] == 0.5
    assert kept["grade"]["within_one"] == 1.0
    assert kept["grade"]["difference"] == 0.5
    found = stored.columns(TURNS, DENSE)
    groups = [sample.group for sample in stored.store.samples(stored.key(TURNS, DENSE))]
    by_group = dict(zip(groups, zip(found["judge"], found["judge_failure"], strict=True), strict=True))
    assert by_group == {"writing": (5.0, 0.5), "math": (5.0, 0.0), "coding": (5.5, 0.0)}
    assert "runs agree on 50% of 4 grades" in report.lines()[0]


def test_defect_14_the_judge_is_pinned_in_the_result(tmp_path):
    stored = fill(tmp_path, (TURNS,))
    with serving(honest) as server:
        stored.judge(server, temperature=0.25, top_p=0.5, seed=9)
    kept = stored.store.result(stored.key(TURNS)).provenance["judge"]
    wanted = {"model": "judge-1", "base_url": server.url, "temperature": 0.25, "top_p": 0.5, "seed": 9}
    assert {name: kept[name] for name in wanted} == wanted
    assert kept["answered_as"] == ["judge-1-0613"]
    assert (kept["max_tokens"], kept["runs"], kept["mode"], kept["verdicts"]) == (50, 1, "grade", 6)


def test_settings_of_a_matrix():
    matrix = load.parse(
        "name: m\nmodel: smoke\ntasks: [kick_mt_bench]\nvariants: [dense]\n"
        "judge: {model: judge-1, temperature: 0.5, runs: 2}\n",
        "m.yaml",
    )
    found = settings(matrix.judge, calls=7, tokens=None)
    assert found == Settings("judge-1", temperature=0.5, runs=2, calls=7)
    assert settings(found) == found


def test_nothing_to_judge_needs_no_judge(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    report = judge_results(Store(tmp_path), Settings("judge-1"))
    assert report == JudgePass(())
    assert "no stored cell has answers for a judge" in str(report)


def test_cells_of_others_are_left_alone(tmp_path):
    stored = fill(tmp_path, (TURNS,))
    claim = stored.store.claim(stored.key(TURNS))
    result = stored.store.result(stored.key(TURNS, DENSE))
    other = replace(result, cell=replace(result.cell, task=replace(result.cell.task, digest="0" * 16)))
    stored.store.put(replace(other, key=other.cell.key), stored.store.samples(result.key))
    with serving(honest) as server:
        report = stored.judge(server)
    notes = sorted(cell.note for cell in report.cells)
    assert notes[0] == ""
    assert "another process works on" in notes[1]
    assert "has changed since it was asked" in notes[2]
    assert not report.whole
    assert stored.columns(TURNS) == {}
    stored.store.release(claim)
    with serving(honest) as server:
        stored.judge(server)
    assert stored.columns(TURNS)["judge"] == [6.0, 4.0, 4.0]


def test_every_reply_is_kept_as_text(tmp_path):
    stored = fill(tmp_path, (TURNS,), variants=(DENSE,))
    with serving(honest) as server:
        stored.judge(server)
    kept = [json.loads(path.read_text()) for path in (tmp_path / "results" / ".judge").rglob("*.json")]
    assert len(kept) == 6
    assert all("The answer is fair" in one["text"] and one["code"] in one["text"] for one in kept)
