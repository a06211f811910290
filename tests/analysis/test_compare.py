"""Two variants, item by item."""

import json
from dataclasses import replace

import pytest
from rich.console import Console

from kick.analysis.compare import compare
from kick.errors import KickError
from kick.records import Response, Sample
from kick.report import wording
from kick.report.compare_view import view
from kick.stats import paired
from kick.stats.support import BINARY
from tests.support.synthetic import DENSE, FakeStore, fill, pruned, result, samples


@pytest.fixture(scope="module")
def found(store):
    return compare(store, "wanda-0.5", "magnitude-0.5")


def test_each_task_has_the_paired_difference(store, found):
    assert {task.task for task in found.tasks} == {run.cell.task.name for run in store.runs()}
    task = next(task for task in found.tasks if task.task == "kick_mini_factoid")
    tables = {
        r.cell.variant.name: [s.scores["exact_match"] for s in store.samples(r.key)]
        for r in store.runs()
        if r.cell.task.name == task.task
    }
    assert task.difference == paired.paired(tables["wanda-0.5"], tables["magnitude-0.5"], support=BINARY)
    flipped = [a != b for a, b in zip(tables["wanda-0.5"], tables["magnitude-0.5"], strict=True)]
    assert len(task.flips) == sum(flipped) == task.difference.lost + task.difference.won
    lost = [flip for flip in task.flips if flip.b_score < flip.a_score]
    assert list(task.flips[: len(lost)]) == lost
    assert task.p_holm >= task.difference.p


def test_flips_hold_both_answers(found):
    for task in found.tasks:
        for flip in task.flips:
            assert flip.a_score != flip.b_score
            if not flip.question.startswith("Question: number 0"):
                assert flip.a_answer.endswith("of wanda-0.5")
                assert flip.b_answer.endswith("of magnitude-0.5")


def test_the_json_is_strict(found):
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert data["a"] == "wanda-0.5"
    assert data["tasks"][0]["difference"]["n"] == found.tasks[0].difference.n


def test_it_can_be_read_in_a_terminal(found):
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(view(found))
    text = console.export_text()
    assert "a: wanda 50 %, seed 0, b: magnitude 50 % (matrix" in text
    assert "Closed-book facts" in text
    assert "items changed" in text
    assert found.tasks[0].verdict in ("matching", "worse", "better", "undecided")


def test_without_a_margin_the_verdict_is_a_dash(found):
    task = replace(found.tasks[0], verdict="")
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(view(replace(found, tasks=(task,))))
    line = next(line for line in console.export_text().splitlines() if task.title in line)
    assert "\u2013" in line.split()


def test_the_frame_has_a_row_per_task(found):
    frame = found.frame()
    assert frame["task"].tolist() == [task.task for task in found.tasks]
    assert frame["verdict"].tolist() == [task.verdict for task in found.tasks]
    assert frame["gap"].tolist() == [task.difference.gap for task in found.tasks]


def test_the_verdict_is_the_pages_own_with_its_noise_floor_and_none_for_distances(store, frame):
    """Every variant against dense: what `kick compare` says of it is what the page says."""
    words = set()
    for name in ("wanda-0.3", "magnitude-0.5", "gptq-8bit", "gptq-4bit"):
        for task in compare(store, "dense", name).tasks:
            rows = frame[(frame["variant"] == name) & (frame["task"] == task.task) & frame["primary"]]
            row = rows[rows["group"] == ""].iloc[0]
            assert task.verdict == wording.verdict(row)
            assert task.noise == pytest.approx(row["noise"], nan_ok=True)
            words.add((task.metric, task.verdict))
    assert any(verdict == "inside the noise" for _, verdict in words)
    assert {verdict for metric, verdict in words if metric == "fdt"} <= {"", "inside the noise"}


def test_choices_without_the_question_are_not_counted_as_choices():
    """lm-eval's acc_mutual_info asks each choice again without the question, behind the others."""
    store = FakeStore()
    for variant, logs in (
        (DENSE, (-1.0, -2.0, -1.5, -9.0)),
        (pruned("wanda", 0.5), (-3.0, -2.0, -1.5, -9.0)),
    ):
        right = {**dict.fromkeys(("acc", "acc_norm"), float(logs[0] > logs[1])), "acc_mutual_info": 1.0}
        items = [
            Sample(f"item-{i}", "p", "Q", "first", tuple(Response(logprob=log) for log in logs), dict(right))
            for i in range(3)
        ]
        store.put(result("kick_mini_mcq", variant, items), items)
    (task,) = compare(store, "dense", "wanda-0.5").tasks
    assert (task.metric, len(task.flips)) == ("acc", 3)
    assert {(flip.a_answer, flip.b_answer) for flip in task.flips} == {("choice 1 of 2", "choice 2 of 2")}


def test_results_without_a_cell_are_said_to_be():
    with pytest.raises(KickError, match="no finished cell"):
        compare(FakeStore(), "dense", "wanda-0.5")


def test_unknown_variants_are_refused_with_their_neighbours(store):
    with pytest.raises(KickError, match=r"wanda-0\.5"):
        compare(store, "wanda-0.55", "dense")


@pytest.mark.parametrize("text", ["magnitude-0.5", "magnitude 50 %", "Magnitude 50%", " magnitude  50 % "])
def test_a_variant_is_meant_by_its_name_or_by_its_label(store, found, text):
    assert compare(store, "wanda 50 %, seed 0", text).to_json() == found.to_json()


def test_a_label_almost_right_is_answered_with_labels(store):
    with pytest.raises(KickError, match=r"unknown variant 'wanda 55 %'; did you mean .*'wanda 50 %, seed 0'"):
        compare(store, "wanda 55 %", "dense")


def test_a_variant_is_not_compared_with_itself(store):
    with pytest.raises(KickError, match="with itself"):
        compare(store, "magnitude-0.5", "magnitude 50 %")


def test_two_matrices_that_hold_both_must_be_told_apart():
    store = fill(FakeStore(), [DENSE, pruned("wanda", 0.5)], ["kick_mini_factoid"], n=20)
    for one in (DENSE, pruned("wanda", 0.5)):
        found = samples("kick_mini_factoid", one, 20)
        made = result("kick_mini_factoid", one, found, matrix="second", limit=20)
        store.put(made, found)
    with pytest.raises(KickError, match="second, synthetic"):
        compare(store, "dense", "wanda-0.5")
    assert compare(store, "dense", "wanda-0.5", matrix="second").matrix == "second"


def test_no_task_in_common_is_an_error():
    store = fill(FakeStore(), [DENSE], ["kick_mini_factoid"], n=20)
    fill(store, [pruned("wanda", 0.5)], ["kick_mini_mcq"], n=20)
    with pytest.raises(KickError, match="no task in common"):
        compare(store, "dense", "wanda-0.5")
