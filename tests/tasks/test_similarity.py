"""Texts compared by hidden states: vectors against plain forwards, scores against trec_eval's."""

import json
import math

import pytest
import torch
from scipy import stats

from kick import model
from kick.engine.engine import Engine
from kick.engine.states import parsed
from kick.errors import KickError
from kick.matrix.running import not_asked, problems
from kick.records import ModelSpec, Request, Response, Step, TaskSpec, Variant
from kick.tasks import load
from kick.tasks.evaluate import evaluate, rescore
from kick.tasks.similarity import FACTS, ndcg, recall, spearman
from tests.support.golden import FOLDER

TEXTS = (
    "A cat sleeps.",
    "The old bridge was closed in the spring of that year.",
    "Rain",
    "A cat sleeps in rain.",
)
POOLED = ("mean-50", "weighted-100", "last-50", "last-100", "mean-100")


@pytest.fixture(scope="module")
def smoke():
    """The tiny random model with its tokenizer."""
    return model.load(ModelSpec("smoke"))


@pytest.fixture(scope="module")
def tasks():
    """The two tasks."""
    return load(["kick_embedding"])


def vector(network, tokenizer, text, pooling):
    """A text's vector, from one plain forward whose hidden states are given out."""
    how, _, percent = pooling.partition("-")
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.inference_mode():
        out = network(input_ids=ids, output_hidden_states=True)
        blocks = network.config.num_hidden_layers
        depth = math.ceil(int(percent) / 100 * blocks)
        state = out.hidden_states[depth][0]  # the last one is behind the norm already
        state = state if depth == blocks else network.model.norm(state)
    weights = torch.arange(1, len(state) + 1) if how == "weighted" else torch.ones(len(state))
    pooled = state[-1] if how == "last" else (state * weights[:, None]).sum(0) / weights.sum()
    return pooled.double() / pooled.double().norm()


@pytest.mark.parametrize("batch_tokens", [1, 512])
def test_cosines_are_those_of_plain_forwards(smoke, batch_tokens):
    network, tokenizer = smoke
    engine = Engine(network, tokenizer, batch_tokens=batch_tokens)
    asked = [Request("similarity", TEXTS[0], others=TEXTS[1:], pooled=POOLED)]
    asked += [Request("similarity", TEXTS[1], others=(TEXTS[1], TEXTS[2]), pooled=("mean-100",))]
    first, second = engine.answer(asked)
    for name in POOLED:
        own, *others = (vector(network, tokenizer, text, name) for text in TEXTS)
        for number, other in enumerate(others):
            assert first.values[f"{name} {number}"] == pytest.approx(float(own @ other), abs=1e-5), name
    assert second.values["mean-100 0"] == pytest.approx(1, abs=1e-6)
    assert set(second.values) == {"mean-100 0", "mean-100 1"}


def test_a_long_text_is_cut_on_the_right_and_counted(smoke):
    network, tokenizer = smoke
    engine = Engine(network, tokenizer, window=8)
    text = "one two three four five six seven eight nine ten eleven twelve"
    (answer,) = engine.answer([Request("similarity", "Rain", others=(text,), pooled=("mean-100",))])
    ids = tokenizer(text)["input_ids"]
    assert answer.truncated == len(ids) - 8 > 0
    short = vector(network, tokenizer, tokenizer.decode(ids[:8]), "mean-100")
    assert answer.values["mean-100 0"] == pytest.approx(
        float(short @ vector(network, tokenizer, "Rain", "mean-100")), abs=1e-5
    )


@pytest.mark.parametrize(
    ("name", "depth"), [("mean-1", 1), ("last-50", 15), ("mean-51", 16), ("mean-100", 30)]
)
def test_a_per_cent_is_a_number_of_blocks(name, depth):
    assert parsed(name, 30)[1] == depth


@pytest.mark.parametrize("name", ["mean", "mean-0", "mean-101", "first-50", "mean-a"])
def test_an_unknown_pooling_is_an_error(name):
    with pytest.raises(KickError, match=f"pooled: got '{name}'; expected: mean, weighted, last"):
        parsed(name, 30)


def test_ndcg_and_recall_are_those_of_trec_eval():
    file = FOLDER / "seeds" / "tasks_ndcg.json"
    if not file.is_file():
        pytest.skip("LOUD: ../shared is absent, nDCG is NOT checked against trec_eval's vectors")
    told = json.loads(file.read_text())
    for query, expected in told["expected"].items():
        run, judged = told["run"][query], told["qrels"][query]
        assert ndcg(run, judged, 10) == pytest.approx(expected["ndcg_cut_10"], abs=1e-9)
        assert recall(run, judged, 100) == pytest.approx(expected["recall_100"], abs=1e-9)


def test_ndcg_and_recall_agree_with_pytrec_eval_on_ties_and_grades():
    pytrec_eval = pytest.importorskip("pytrec_eval")
    import random

    chance = random.Random(3)
    judged = {f"q{n}": {f"d{i}": chance.choice((0, 0, 1, 2, 3)) for i in range(20)} for n in range(8)}
    run = {query: {f"d{i}": chance.choice((0.1, 0.2, 0.5, 0.5)) for i in range(30)} for query in judged}
    scorer = pytrec_eval.RelevanceEvaluator(judged, {"ndcg_cut.10", "recall.5"})
    for query, found in scorer.evaluate(run).items():
        assert ndcg(run[query], judged[query], 10) == pytest.approx(found["ndcg_cut_10"], abs=1e-9)
        assert recall(run[query], judged[query], 5) == pytest.approx(found["recall_5"], abs=1e-9)


def test_spearman_is_scipys():
    found, grades = [0.3, 0.9, 0.9, -0.1, 0.5], [2, 4, 3, 0, 1]
    assert spearman(found, grades) == pytest.approx(stats.spearmanr(found, grades).statistic)
    assert math.isnan(spearman([0.5] * 5, grades))
    assert math.isnan(spearman([math.nan, 1, 2, 3, 4], grades))


def test_the_sets_are_what_they_say(tasks):
    retrieval, graded = (
        tasks[name].items(TaskSpec(name), None) for name in ("kick_retrieval", "kick_similarity")
    )
    assert (len(retrieval), len(graded)) == (264, 256)
    assert len({item.id for item in graded}) == 256
    assert {len(item.requests[0].others) for item in retrieval} == {88}
    values = {fact: known.split("|") for fact, (known, _) in FACTS.items()}
    for item in graded:
        (request,) = item.requests
        told = {fact: next(v for v in known if f" {v}" in request.context) for fact, known in values.items()}
        for other, grade in zip(request.others, item.doc["grades"], strict=True):
            assert sum(f" {value}" in other for value in told.values()) == grade
            assert other not in (request.context, *(o for o in request.others if o is not other))


def test_the_right_passage_first_is_a_score_of_one_and_scores_are_made_again(tasks, smoke):
    task = tasks["kick_retrieval"]
    items = task.items(TaskSpec("kick_retrieval", limit=4), None)
    place = [task.passages.index(item.doc["passage"]) for item in items]
    answers = [
        [Response(values={f"{name} {n}": float(n == at) for n in range(88) for name in task.pooled})]
        for at in place
    ]
    scores = task.score(items, answers)
    assert [one["ndcg_10"] for one in scores] == [1, 1, 1, 1]
    assert scores[0]["ndcg_10@last-50"] == 1
    assert [one["document"] for one in scores] == [float(n) for n in range(4)]
    assert math.isnan(task.score(items[:1], [[Response()]])[0]["ndcg_10"])
    found = evaluate(
        tasks["kick_similarity"],
        tasks["kick_similarity"].items(TaskSpec("kick_similarity", limit=3), None),
        Engine(*smoke),
    )
    again = rescore(tasks["kick_similarity"], TaskSpec("kick_similarity", limit=3), found.samples)
    assert again.scores == found.scores
    (score,) = [one for one in found.scores if one.metric == "spearman"]
    assert -1 <= score.low <= score.value <= score.high <= 1


def test_engines_without_hidden_states_are_refused_and_run_time_methods_not_asked(tasks):
    from types import SimpleNamespace

    plain = Variant("dense", ModelSpec("smoke"))
    served = Variant("served", ModelSpec("smoke"), endpoint="{}")
    sparse = Variant("sparse", ModelSpec("smoke"), runtime=Step("twilight"))
    expanded = [SimpleNamespace(variant=one, path=("variants", 0)) for one in (plain, served)]
    told = [
        one.message for one in problems(SimpleNamespace(generation_config="greedy"), expanded, tasks, "vllm")
    ]
    assert told == [
        "kick_retrieval reads hidden states, which need the engine packed; got vllm",
        "served: its server gives no hidden states, which kick_retrieval reads",
    ]
    assert "hidden states" in not_asked(sparse, tasks["kick_retrieval"])
    assert not_asked(plain, tasks["kick_retrieval"]) == ""
