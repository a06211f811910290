"""The same items under several prompts: what is asked, how it is scored, the influence of words."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from kick import model
from kick.engine.engine import Engine
from kick.errors import KickError
from kick.records import ModelSpec, Response, TaskSpec
from kick.tasks import load
from kick.tasks.evaluate import evaluate, rescore
from kick.tasks.prompts import WORDS, Wording, influenced, reward, worded
from tests.support.golden import FOLDER

DOC = {"question": "Which {text} floats?", "choices": ["a stone", "a {question}", "a nail"], "answer": 1}
SHOT = {"question": "Two and two?", "choices": ["one", "ten", "four"], "answer": 2}


@pytest.fixture(scope="module")
def tasks():
    """The tasks of several wordings."""
    return load(["kick_wordings"])


def test_a_form_makes_the_prompt_and_the_answers():
    form = Wording.of(
        {
            "instruction": "Choose.\n",
            "item": "Q: {question}\n{choices}\nA:",
            "choice": "{label}) {text}",
            "between": " / ",
            "labels": "xyz",
            "order": [2, 0, 1],
            "apart": "\n--\n",
        },
        1,
    )
    assert form.asked(DOC, [SHOT]) == (
        "Choose.\nQ: Two and two?\nx) four / y) one / z) ten\nA: x\n--\n"
        "Q: Which {text} floats?\nx) a nail / y) a stone / z) a {question}\nA:",
        [" y", " z", " x"],
    )
    plain = Wording.of({"item": "{question} The answer is", "shots": [1, 0]}, 2)
    context, answers = plain.asked(DOC, [SHOT, {**SHOT, "question": "Three and one?"}])
    assert context.startswith("Three and one? The answer is four\n\nTwo and two? The answer is four\n\nWhich")
    assert answers == [" a stone", " a {question}", " a nail"]


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ({"item": "Answer:"}, "an item that has {question}"),
        ({"item": "{question}", "sep": ""}, "unknown key 'sep'"),
        ({"item": "{question}", "order": [0, 0, 1]}, r"order: got \[0, 0, 1\]"),
        ({"item": "{question}", "shots": [4]}, r"shots: got \[4\]; there are 2 examples"),
    ],
)
def test_a_wrong_form_is_told(written, told):
    with pytest.raises(KickError, match=told):
        Wording.of(written, 2)


def test_all_prompts_are_different_and_ask_the_same(tasks):
    for name in ("kick_prompts", "kick_prompts_labels"):
        task = tasks[name]
        assert task.size == 512
        for item in task.items(TaskSpec(name, limit=8), None):
            contexts = list(dict.fromkeys(request.context for request in item.requests))
            assert (len(contexts), len(item.requests)) == (8, 32)
            assert all(item.doc["question"] in context for context in contexts)
            if name == "kick_prompts":
                assert [r.continuation for r in item.requests] == [
                    f" {one}" for one in item.doc["choices"]
                ] * 8
        with pytest.raises(KickError, match="has examples of its own; got shots: 2"):
            task.check(TaskSpec(name, shots=2))
        with pytest.raises(KickError, match="chat_template: false"):
            task.check(TaskSpec(name, chat_template=True))


def test_choices_are_scored_per_prompt_and_together():
    right, wrong = [-3.0, -1.0, -2.0], [-1.0, -2.0, -3.0]
    found = worded(DOC, [right, right, wrong, right])
    assert found["acc"] == pytest.approx(3 / 4)
    assert [found[f"acc@p{n}"] for n in (1, 2, 3, 4)] == [1, 1, 0, 1]
    assert found["acc_every"] == 0
    assert found["same_choice"] == pytest.approx(3 / 6)
    assert worded(DOC, [right, right])["acc_every"] == 1
    assert all(map(math.isnan, worded(DOC, [right, [math.nan, 0, 0]]).values()))


def test_rewards_are_those_of_claps_whose_code_takes_the_softmax_twice():
    file = FOLDER / "seeds" / "tasks_claps.json"
    if not file.is_file():
        pytest.skip("LOUD: ../shared is absent, influence is NOT checked against ClaPS")
    told, logits = json.loads(file.read_text()), load_file(file.with_suffix(".safetensors"))
    asked = [{"choices": ["a", "b"], "answer": label} for label in told["labels"]]

    def rewarded(rows, twice):
        own = rows[:, told["verbalizer_ids"]].double()
        return reward((own.softmax(-1) if twice else own).flatten().tolist(), asked)

    base = logits["base_logits"]
    assert rewarded(base, twice=False) == pytest.approx(told["proper_cross_entropy_base"], abs=1e-6)
    assert rewarded(base, twice=True) == pytest.approx(told["cross_entropy"]["base"], abs=1e-6)
    for rows, influence in zip(logits["candidate_logits"], told["cross_entropy"]["influence"], strict=True):
        assert rewarded(rows, twice=True) - rewarded(base, twice=True) == pytest.approx(influence, abs=1e-6)
        logs = torch.cat([one[:, told["verbalizer_ids"]].double().flatten() for one in (base, rows)])
        ours = influenced({"questions": asked}, logs.tolist())["influence"]
        assert ours == pytest.approx(rewarded(rows, twice=False) - rewarded(base, twice=False), abs=1e-12)


def test_words_are_64_and_each_is_put_in_front_of_the_same_questions(tasks):
    task = tasks["kick_influence"]
    items = task.items(TaskSpec("kick_influence"), None)
    assert len(items) == len(set(WORDS)) == 64
    for item in items[:3]:
        bare, fronted = item.requests[:64], item.requests[64:]
        assert [f"{item.doc['word']} {one.context}" for one in bare] == [one.context for one in fronted]
        assert {one.context for one in bare} == {one.context for one in items[-1].requests[:64]}
    nothing = task.score(items[:1], [[Response(logprob=-1.0, greedy=False)] * 128])[0]
    assert nothing == {"influence": 0.0, "moved": 0.0}
    lost = [Response(logprob=math.nan, greedy=False)] + [Response(logprob=-1.0, greedy=False)] * 127
    assert math.isnan(task.score(items[:1], [lost])[0]["influence"])


def test_a_model_is_asked_and_stored_answers_are_scored_again(tasks):
    network, tokenizer = model.load(ModelSpec("smoke"))
    task, spec = tasks["kick_prompts"], TaskSpec("kick_prompts", limit=3)
    found = evaluate(task, task.items(spec, tokenizer), Engine(network, tokenizer))
    assert rescore(task, spec, found.samples).scores == found.scores
    scores = {score.metric: score.value for score in found.scores}
    assert scores["acc"] == pytest.approx(sum(scores[f"acc@p{n}"] for n in range(1, 9)) / 8)
