"""Two variants, item by item."""

import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from kick.analysis.compare import compare
from kick.analysis.frame import read as frame_of
from kick.errors import KickError
from kick.records import Response, Sample
from kick.report import wording
from kick.report.compare_view import view
from kick.stats import paired
from kick.stats.support import BINARY
from tests.support.early import end_early, of
from tests.support.synthetic import DENSE, FakeStore, fill, pruned, result, samples

FACTS = "kick_mini_factoid"


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


@pytest.fixture(scope="module")
def early():
    """Facts of three variants: two that the rule has ended, and one that was asked all 256 items."""
    made = fill(
        FakeStore(), [DENSE, *map(pruned, ("magnitude", "wanda", "wanda"), (0.7, 0.7, 0.3))], [FACTS], n=256
    )
    for name in ("magnitude-0.7", "wanda-0.7"):
        end_early(made, name, FACTS)
    return made


def scores(store, name):
    return np.array([sample.scores["exact_match"] for sample in store.samples(of(store, name, FACTS).key)])


@pytest.mark.parametrize(("a", "b"), [("magnitude-0.7", "wanda-0.7"), ("wanda-0.3", "magnitude-0.7")])
def test_stopped_variants_are_compared_on_shared_items_by_denses_answers(early, a, b):
    task = compare(early, a, b).tasks[0]
    first, second, dense = (scores(early, name) for name in (a, b, "dense"))
    n = min(len(first), len(second))
    assert n < task.of == 256
    right, share = dense[:n] == 1, dense.mean()

    def weighted(side):
        return share * side[:n][right].mean() + (1 - share) * side[:n][~right].mean()

    assert (task.a, task.b) == pytest.approx((weighted(first), weighted(second)))
    assert task.difference.gap == pytest.approx(weighted(second) - weighted(first))
    assert task.difference.n == n
    assert task.stopped == tuple(side for side, name in zip("ab", (a, b), strict=True) if name != "wanda-0.3")
    assert np.isnan(task.difference.p)
    assert task.verdict in ("undecided", "worse", "better")


def test_a_stopped_variant_beside_dense_is_as_on_the_page(early):
    row = frame_of([early]).frame.query("variant == 'magnitude-0.7' and primary").iloc[0]
    task = compare(early, "dense", "magnitude-0.7").tasks[0]
    assert (task.a, task.b) == (row["dense_value"], row["value"])
    assert (task.difference.low, task.difference.high) == (row["gap_low"], row["gap_high"])
    assert (task.verdict, task.difference.n, task.of) == ("worse", row["n"], 256)
    turned = compare(early, "magnitude-0.7", "dense").tasks[0]
    assert (turned.a, turned.b, turned.verdict) == (task.b, task.a, "better")
    assert (turned.difference.low, turned.difference.lost) == (-task.difference.high, task.difference.won)


def test_identical_answers_are_said_to_be_so_beside_the_verdict():
    made = fill(FakeStore(), [DENSE, pruned("wanda", 0.3), pruned("wanda", 0.5)], [FACTS], n=40)
    dense = made.items[of(made, "dense", FACTS).key]
    same, scored = (of(made, name, FACTS).key for name in ("wanda-0.3", "wanda-0.5"))
    made.items[same] = dense
    made.items[scored] = [replace(one, responses=(Response(text=f"{i}"),)) for i, one in enumerate(dense)]
    for name, said in (("wanda-0.3", "answers"), ("wanda-0.5", "scores")):
        found = compare(made, "dense", name)
        assert found.tasks[0].identical == said
        assert found.tasks[0].verdict == "undecided"
        console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        console.print(view(found))
        assert f"all 40 {said} identical" in " ".join(console.export_text().split())


def test_the_terminal_says_of_how_many_items_a_stopped_variant_was_asked(early):
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    found = compare(early, "dense", "magnitude-0.7")
    console.print(view(found))
    n = found.tasks[0].difference.n
    assert f"n = {n} of 256, b stopped early" in " ".join(console.export_text().split())


def test_the_margin_is_the_matrixs():
    made = fill(FakeStore(), [DENSE, pruned("wanda", 0.3)], ["kick_mini_perplexity"])
    key = of(made, "wanda-0.3", "kick_mini_perplexity").key
    dense = made.items[of(made, "dense", "kick_mini_perplexity").key]
    made.items[key] = [replace(one, scores={"nll": one.scores["nll"] + 0.03}) for one in dense]
    for margin, verdict in ((0.05, "matching"), (0.02, "worse")):
        made.results[key] = replace(made.results[key], margin=margin)
        task = compare(made, "dense", "wanda-0.3").tasks[0]
        assert (task.verdict, task.margin) == (verdict, margin)
