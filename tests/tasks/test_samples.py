"""Several answers to a question: what is asked of them, how they are chosen, and shots as an axis."""

import math

import pytest
from sklearn.metrics import roc_auc_score

from kick import model
from kick.engine.engine import Engine
from kick.records import ModelSpec, Response, TaskSpec
from kick.tasks import load
from kick.tasks.evaluate import evaluate, rescore
from kick.tasks.samples import best_of

DOC = {"answer": "22"}
RIGHT, WRONG = "13 + 9 = 22. The answer is 22.", "13 + 9 = 23. The answer is 23."


@pytest.fixture(scope="module")
def tasks():
    """The tasks of several samples and of several numbers of shots."""
    return load(["kick_reasoning_best_of", "kick_shots"])


def test_the_surest_sample_is_chosen_and_sureness_is_compared_with_right_and_wrong():
    texts, sure = [WRONG, RIGHT, "nothing", RIGHT, WRONG], [0.9, 0.6, 0.1, 0.95, 0.6]
    found = best_of(DOC, [texts, sure])
    assert (found["exact_match"], found["best_of"], found["pass_at_5"]) == (pytest.approx(0.4), 1, 1)
    assert found["majority"] == 0  # 22 and 23 are stated twice each; the earliest counts
    assert found["self_auroc"] == pytest.approx(roc_auc_score([0, 1, 0, 1, 0], sure))
    assert best_of(DOC, [[RIGHT, RIGHT, WRONG], [0.1, 0.2, 0.9]])["best_of"] == 0
    assert best_of(DOC, [[RIGHT, RIGHT, WRONG], [0.1, 0.2, 0.9]])["majority"] == 1


def test_what_cannot_be_said_is_missing():
    found = best_of(DOC, [[RIGHT, RIGHT], [0.5, 0.6]])
    assert math.isnan(found["self_auroc"])
    lost = best_of(DOC, [[RIGHT, WRONG], [math.nan, 0.6]])
    assert math.isnan(lost["best_of"])
    assert lost["exact_match"] == 0.5
    assert best_of(DOC, [["", "?"], [0.5, 0.6]])["majority"] == 0


def test_every_sample_is_put_to_the_model_once(tasks):
    task, spec = tasks["kick_reasoning_best_of"], TaskSpec("kick_reasoning_best_of", limit=2)
    items = task.items(spec, None)
    answers = [[Response(text=f" {n}", count=1) for n in range(4)] for _ in items]
    more = task.follow_up(items, answers)
    for item, asked in zip(items, more, strict=True):
        assert [one.continuation for one in asked.requests] == [" Yes", " No"] * 4
        assert asked.requests[2].context == f"{item.requests[1].context} 1\nIs this answer right? Yes or No:"
        assert len({request.seed for request in item.requests}) == 4
    whole = [[*own, *[Response(logprob=-1.0, greedy=False)] * 8] for own in answers]
    assert task.follow_up(items, whole) is None


def test_a_model_is_asked_twice_and_scored_again(tasks):
    task, spec = tasks["kick_reasoning_best_of"], TaskSpec("kick_reasoning_best_of", limit=1)
    network, tokenizer = model.load(ModelSpec("smoke"))
    found = evaluate(task, task.items(spec, tokenizer), Engine(network, tokenizer))
    assert [len(sample.responses) for sample in found.samples] == [12]
    assert rescore(task, spec, found.samples).scores == found.scores


def test_shots_are_an_axis_over_the_same_items(tasks):
    four = tasks["kick_reasoning"].items(TaskSpec("kick_reasoning", limit=3), None)
    for shots in (0, 1, 2):
        name = f"kick_reasoning_{shots}shot"
        items = tasks[name].items(TaskSpec(name, limit=3), None)
        assert [item.id for item in items] == [item.id for item in four]
        assert {item.requests[0].context.count("Question:") for item in items} == {shots + 1}
