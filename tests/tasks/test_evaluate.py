"""Asking, scoring, summarising: nothing is asked twice, nothing missing is zero, scores need no model."""

import hashlib
import math
import random
from contextlib import contextmanager
from dataclasses import replace

import pytest

from kick import tasks
from kick.errors import KickError
from kick.records import Request, Response, Sample, TaskSpec
from kick.tasks.evaluate import InMemory, evaluate, rescore, summarise
from kick.tasks.lm_eval_task import flatten, unflatten
from kick.tasks.task import Item


class Plain:
    """A task whose scores are given."""

    name, needs_reference = "plain", False

    def __init__(self, scores, own=None, better=None, more=None):
        self.scores, self.own, self.better, self.more = scores, own or {}, better or {}, more

    def items(self, spec, tokenizer, reference=None):
        return [Item(f"item{i}", (Request("generate", f"Q{i}"),)) for i in range(len(self.scores))]

    def answered(self, spec, samples):
        return self.items(spec, None)

    def follow_up(self, items, responses):
        return self.more(items, responses) if self.more else None

    def score(self, items, responses):
        return [self.scores[int(item.id[4:])] for item in items]

    def unparsed(self, items):
        return []

    def aggregates(self):
        return self.own

    def higher_is_better(self):
        return self.better


class Draws:
    """An engine that answers by the hash of the request, and remembers what it was asked; last ones first."""

    def __init__(self):
        self.asked = []

    def answer(self, requests, on_done=None):
        self.asked += requests
        found = [self._one(request) for request in requests]
        for index in reversed(range(len(found))):
            if on_done:
                on_done(index, found[index])
        return found

    def _one(self, request):
        text = f"{request.context}|{request.continuation}|{request.tokens}"
        draw = int(hashlib.sha256(text.encode()).hexdigest()[:6], 16)
        if request.kind == "generate":
            said = ("Paris", "four", "", "no " * 20, "Mars")[draw % 5]
            return Response(text=said, tokens=(draw % 7, 3), count=2, truncated=draw % 2)
        if request.kind == "fidelity":
            values = {"fdt": draw % 3, "sdt": 0.5, "dppl": 1 + draw % 5}
            return Response(values=values if request.tokens else {"fdt": 0.0})
        return Response(logprob=-(1 + draw % 999) / 50, greedy=draw % 2 == 0, count=draw % 50 + 1)


def summary(task):
    items = task.items(TaskSpec(task.name), None)
    return {score.metric: score for score in evaluate(task, items, Draws()).scores}


# ------------------------------------------------------------------------------ missing


def test_a_missing_score_is_nan_and_never_zero():
    found = summary(Plain([{"acc": 1.0}, {"acc": math.nan}, {}, {"acc": 1.0}]))["acc"]
    assert (found.value, found.n, found.missing) == (1.0, 2, 2)
    found = summary(Plain([{"acc": math.nan}, {"acc": math.nan}]))["acc"]
    assert (found.value, found.n, found.missing, found.low) == (None, 0, 2, None)


def test_a_missing_score_of_lm_evals_own_aggregation_is_left_out():
    own = {"best": max}
    found = summary(Plain([{"best": 2.0}, {"best": math.nan}, {"best": 5.0}], own))["best"]
    assert (found.value, found.n, found.missing) == (5.0, 2, 1)
    found = summary(Plain([{"pair#0": 1.0, "pair#1": math.nan}], {"pair": max}))["pair"]
    assert (found.value, found.n, found.missing) == (None, 0, 1)


def test_no_score_at_all():
    assert summary(Plain([{}, {}])) == {}


# ------------------------------------------------------------------------------ asking


class Notebook:
    """Keeps the answers of each phase; stands in for the store."""

    def __init__(self, *answers):
        self.phases = {"first": InMemory(dict(answers))}

    @contextmanager
    def __call__(self, phase, total):
        yield self.phases.setdefault(phase, InMemory())


def test_what_is_answered_is_not_asked_again():
    task, engine = Plain([{"acc": 1.0}, {"acc": 0.0}, {"acc": 1.0}]), Draws()
    items = task.items(TaskSpec("plain"), None)
    keep = Notebook((1, Response(text="kept")))
    found = evaluate(task, items, engine, keep)
    assert [request.context for request in engine.asked] == ["Q0", "Q2"]
    assert list(keep.phases["first"].answers) == [1, 2, 0]  # as the engine finishes them
    assert [sample.item for sample in found.samples] == ["item0", "item1", "item2"]
    assert found.samples[1].responses == (Response(text="kept"),)
    engine = Draws()
    assert evaluate(task, items, engine, keep) == found
    assert engine.asked == []


def test_a_run_that_broke_off_within_an_item_goes_on_there():
    task = tasks.load(["kick_mini_mcq"])["kick_mini_mcq"]
    items, engine, keep = task.items(TaskSpec("kick_mini_mcq", limit=3), None), Draws(), Notebook()
    found = evaluate(task, items, engine, keep)
    assert found.counts == {"items": 3, "requests": 12, "truncated": 0, "unscored": 0, "generated_tokens": 0}
    assert [request.continuation.strip() for request in engine.asked[:4]] == items[0].doc["choices"]
    kept = keep.phases["first"].answers
    engine = Draws()
    assert evaluate(task, items, engine, Notebook(*list(kept.items())[:7])) == found
    assert len(engine.asked) == 5


def test_an_engine_that_leaves_requests_out_is_found_out():
    class Lazy(Draws):
        def answer(self, requests, on_done=None):
            return super().answer(requests[:1], on_done)

    task = Plain([{"acc": 1.0}, {"acc": 0.0}])
    items = task.items(TaskSpec("plain"), None)
    with pytest.raises(RuntimeError, match="1 of 2 requests without an answer"):
        evaluate(task, items, Lazy())


def test_follow_up_answers_are_appended():
    def second(items, responses):
        if len(responses[0]) > 1:
            return None
        return [
            replace(item, requests=(Request("generate", f"{item.requests[0].context}+{answer.text}"),))
            for item, (answer,) in zip(items, responses, strict=True)
        ]

    task, engine, keep = Plain([{"acc": 1.0}, {"acc": 0.0}], more=second), Draws(), Notebook()
    found = evaluate(task, task.items(TaskSpec("plain"), None), engine, keep)
    first = [engine._one(Request("generate", f"Q{i}")) for i in range(2)]
    assert [r.context for r in engine.asked] == ["Q0", "Q1", f"Q0+{first[0].text}", f"Q1+{first[1].text}"]
    assert [len(sample.responses) for sample in found.samples] == [2, 2]
    assert [sample.responses[0] for sample in found.samples] == first
    assert found.counts["requests"] == 4
    assert found.counts["generated_tokens"] == 8
    assert evaluate(task, task.items(TaskSpec("plain"), None), None, keep) == found  # both phases were kept
    assert found.counts["truncated"] == sum(r.truncated for s in found.samples for r in s.responses)


# ------------------------------------------------------------------------------ rescoring


class Letters:
    """A tokenizer of one token a word."""

    def __call__(self, text, verbose=True):
        return {"input_ids": [len(word) for word in text.split()]}


@pytest.mark.parametrize("name", tasks.index.expand(["kick_mini"]))
def test_rescoring_needs_no_model_and_gives_the_same(name):
    task, spec = tasks.load([name])[name], TaskSpec(name, limit=6)
    first = evaluate(task, task.items(spec, Letters()), Draws())
    assert first.scores
    again = rescore(tasks.load([name])[name], spec, first.samples)
    assert again.scores == first.scores
    for new, old in zip(again.samples, first.samples, strict=True):
        assert (new.item, new.prompt, new.responses, new.group) == (
            old.item,
            old.prompt,
            old.responses,
            old.group,
        )
        assert str(new.scores) == str(old.scores)


def test_fidelity_of_a_variant_is_rescored():
    name, spec = "kick_mini_fidelity", TaskSpec("kick_mini_fidelity", limit=5)
    task = tasks.load([name])[name]
    dense = evaluate(task, task.items(spec, None), Draws())
    reference = {sample.item: sample for sample in dense.samples}
    variant = evaluate(task, task.items(spec, None, reference), Draws())
    assert [len(sample.responses) for sample in variant.samples] == [1] * 5
    assert rescore(task, spec, variant.samples).scores == variant.scores
    with pytest.raises(KickError, match="no stored continuation of item"):
        task.items(spec, None, dict(list(reference.items())[1:]))


def test_samples_of_another_task_are_not_rescored():
    name = "kick_mini_factoid"
    task = tasks.load([name])[name]
    stored = evaluate(task, task.items(TaskSpec(name, limit=4), None), Draws()).samples
    with pytest.raises(KickError, match=r"5 items now, of which 1 have no stored answer.*run again"):
        rescore(task, TaskSpec(name, limit=5), stored)
    with pytest.raises(KickError, match=r"3 items now.*stored: 4"):
        rescore(task, TaskSpec(name, limit=3), stored)


def test_a_judges_grades_survive_rescoring():
    task = Plain([{"acc": 1.0}])
    grades = {"judge": 7.0, "judge_failure": 0.0}
    old = Sample("item0", "p", "", "", (Response(text="x"),), {"acc": 0.0} | grades)
    (new,) = rescore(task, TaskSpec("plain"), [old]).samples
    assert new.scores == {"acc": 1.0} | grades
    assert new.prompt == "p"


# ------------------------------------------------------------------------------ summaries

PAIRS = """
task: pairs
custom_dataset: !function kick.tasks.data.embedded
dataset_kwargs: {file: mcq}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}} Is it so?"
doc_to_choice: ["no", "yes"]
doc_to_target: "{{answer % 2}}"
metric_list: [{metric: acc}, {metric: f1}, {metric: mcc}, {metric: brier_score}]
"""


def test_tuples_are_aggregated_as_lm_eval_does(tmp_path, monkeypatch):
    monkeypatch.setattr("kick.tasks.evaluate.AGGREGATE_RESAMPLES", 60)
    (tmp_path / "pairs.yaml").write_text(PAIRS)
    task = tasks.load(["pairs"], extra=[tmp_path])["pairs"]
    items = task.items(TaskSpec("pairs", limit=40), None)
    found = evaluate(task, items, Draws())
    gold = [item.doc["answer"] % 2 for item in items]
    logprobs = [[r.logprob for r in sample.responses] for sample in found.samples]
    said = [int(yes > no) for no, yes in logprobs]
    both = list(zip(gold, said, strict=True))
    tp, tn, fp, fn = (both.count(pair) for pair in ((1, 1), (0, 0), (0, 1), (1, 0)))
    assert min(tp, tn, fp, fn) > 0
    scores = {score.metric: score for score in found.scores}
    assert set(scores) == {"acc", "f1", "mcc", "brier_score", "brier", "confidence"}
    assert scores["acc"].value == pytest.approx((tp + tn) / 40)
    assert scores["f1"].value == pytest.approx(2 * tp / (2 * tp + fp + fn))
    root = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert scores["mcc"].value == pytest.approx((tp * tn - fp * fn) / root)
    shares = [[math.exp(a), math.exp(b)] for a, b in logprobs]
    shares = [[a / (a + b), b / (a + b)] for a, b in shares]
    brier = sum((1 - g - a) ** 2 + (g - b) ** 2 for g, (a, b) in zip(gold, shares, strict=True)) / 40
    assert scores["brier_score"].value == pytest.approx(brier)
    assert scores["brier"].value == pytest.approx(brier)
    assert scores["brier_score"].higher_is_better is False
    assert scores["f1"].low < scores["f1"].value < scores["f1"].high
    assert found == evaluate(task, items, Draws())  # the interval, too, is the same each time


def test_a_mean_that_lm_eval_does_not_take_is_not_taken():
    """lm-eval's `perplexity`, a median: plain numbers with an aggregation of their own."""
    own = {"acc": lambda values: sorted(values)[len(values) // 2], "perplexity": lambda v: math.exp(-sum(v))}
    found = summary(Plain([{"acc": a, "perplexity": -1.0} for a in (0.0, 1.0, 1.0)], own))
    assert found["acc"].value == 1.0
    assert found["perplexity"].value == pytest.approx(math.exp(3))


def test_word_perplexity_weighs_texts_by_their_words():
    rows = [
        {"rolling_nll": 30.0, "words": 10.0, "bytes": 50.0},
        {"rolling_nll": 10.0, "words": 90.0, "bytes": 450.0},
    ]
    found = summary(Plain(rows, {"word_perplexity": max, "byte_perplexity": max}))
    assert set(found) == {"word_perplexity", "byte_perplexity"}
    assert found["word_perplexity"].value == pytest.approx(math.exp(40 / 100))
    assert found["byte_perplexity"].value == pytest.approx(math.exp(40 / 500))
    assert not found["word_perplexity"].higher_is_better


def test_token_perplexity_is_the_exponential_of_the_mean():
    found = summary(Plain([{"nll": 1.0}, {"nll": 2.0}, {"nll": math.nan}], better={"nll": False}))
    assert set(found) == {"perplexity"}
    assert found["perplexity"].value == pytest.approx(math.exp(1.5))
    assert (found["perplexity"].n, found["perplexity"].missing) == (2, 1)


def test_several_filters_keep_their_names_and_direction():
    rows = [{"exact_match@strict": 1.0, "exact_match@loose": 1.0, "ter@x#0": 1.0, "ter@x#1": 3.0}, {}]
    found = summary(Plain(rows, {"ter": lambda pairs: sum(b for _, b in pairs)}, {"ter": False}))
    assert set(found) == {"exact_match@strict", "exact_match@loose", "ter@x"}
    assert found["ter@x"].value == 3.0
    assert found["ter@x"].higher_is_better is False
    assert found["exact_match@loose"].missing == 1


def test_the_yaml_says_which_way_is_better():
    assert summary(Plain([{"cost": 1.0}], better={"cost": False}))["cost"].higher_is_better is False
    assert summary(Plain([{"gain": 1.0}]))["gain"].higher_is_better is True


def test_flatten_and_back():
    draw = random.Random(3)
    values = [1.5, (1, 0.25), (2, (0.5, 0.5)), ((1, 2), (3, (4, 5))), tuple(draw.random() for _ in range(12))]
    for value in values:
        assert unflatten("m", flatten("m", value)) == value
    assert unflatten("m", {"n": 1.0}) is None
    assert flatten("m", None) == {}
    assert math.isnan(flatten("m", "a text")["m"])
    assert unflatten("m", flatten("m", (1, "a text"))) is None


def test_summaries_come_from_samples_alone():
    samples = [Sample(f"i{n}", "", "", "", (), {"acc": float(n % 2)}) for n in range(10)]
    (score,) = summarise(Plain([]), samples)
    assert (score.metric, score.value, score.n) == ("acc", 0.5, 10)
    assert score.low < 0.5 < score.high
