"""kick's scores of KICK-Mini are those of `lm_eval.simple_evaluate` with HFLM on the same task files."""

import hashlib
import json
import logging
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from kick import tasks
from kick.engine import Engine
from kick.model import load, resolve
from kick.records import Response, TaskSpec
from kick.tasks.evaluate import evaluate
from kick.tasks.lm_eval_task import HarnessTask

TASKS = Path(__file__).parents[2] / "tasks"
GENERATED = [f"kick_mini_{name}" for name in ("factoid", "closed", "open", "conflict", "summary")]
LIKELIHOOD = "kick_mini_mcq"
LIMIT = 2

SUMS = 1e-4  # float32 sums in two orders: within 1e-5 on one processor, 2e-5 on one without AVX-512


@pytest.fixture(scope="module")
def manager():
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return TaskManager(include_path=str(TASKS), include_defaults=False)


@pytest.fixture(scope="module")
def smoke():
    return load(resolve("smoke"))


def theirs(lm, manager, names, limit=LIMIT, chat=False, shots=None):
    """lm-eval's results with its samples; the same order of items as kick's."""
    return simple_evaluate(
        lm,
        tasks=list(names),
        task_manager=manager,
        limit=limit,
        num_fewshot=shots,
        apply_chat_template=chat,
        bootstrap_iters=0,
    )


def ours(model, tokenizer, names, limit=LIMIT, chat=False, shots=None):
    engine = Engine(model, tokenizer)
    found = {}
    for name, task in tasks.load(names).items():
        items = task.items(TaskSpec(name, shots=shots, limit=limit, chat_template=chat), tokenizer)
        found[name] = (items, evaluate(task, items, engine))
    return found


def same(wanted, name, items, evaluation, exact=True):
    """Prompts, answers and every score that lm-eval reports are the same."""
    samples = sorted(wanted["samples"][name], key=lambda sample: sample["doc_id"])
    assert [json.dumps(s["doc"], sort_keys=True) for s in samples] == [
        json.dumps(item.doc, sort_keys=True) for item in items
    ]
    for sample, item, got in zip(samples, items, evaluation.samples, strict=True):
        assert [arguments[0] for arguments in sample["arguments"]] == [r.context for r in item.requests]
        for resps, response in zip(sample["resps"], got.responses, strict=True):
            if response.text is not None:
                assert resps[0] == response.text
            else:
                assert resps[0][1] == response.greedy
                assert resps[0][0] == pytest.approx(response.logprob, rel=1e-5, abs=1e-4)  # logits of ~20
    scores = {score.metric: score.value for score in evaluation.scores}
    metrics = [m.removesuffix(",none") for m in wanted["results"][name] if m.endswith(",none")]
    metrics = [m for m in metrics if not m.endswith("_stderr")]
    assert metrics
    for metric in metrics:
        value = wanted["results"][name][f"{metric},none"]
        if isinstance(value, float) and math.isnan(value):
            assert scores[metric] is None
        else:
            assert scores[metric] == pytest.approx(value, rel=1e-12 if exact else 1e-5), metric


@pytest.mark.parametrize(
    ("chat", "shots", "names"),
    [
        (False, None, [*GENERATED, LIKELIHOOD]),
        (True, None, ["kick_mini_open", LIKELIHOOD]),
        (False, 1, ["kick_mini_factoid", LIKELIHOOD]),
        (True, 0, ["kick_mini_factoid", LIKELIHOOD]),
    ],
)
def test_right_and_wrong_are_lm_evals(manager, smoke, chat, shots, names):
    model, tokenizer = smoke
    wanted = theirs(HFLM(model, tokenizer=tokenizer, batch_size=4), manager, names, chat=chat, shots=shots)
    for name, (items, evaluation) in ours(model, tokenizer, names, chat=chat, shots=shots).items():
        same(wanted, name, items, evaluation)


class Scripted(LM):
    """Answers without a model: right, nearly right, wrong or not at all, by the hash of what is asked."""

    def __init__(self):
        super().__init__()
        self.said = {}

    def _draw(self, *parts):
        return int(hashlib.sha256("|".join(parts).encode()).hexdigest()[:8], 16)

    def generate_until(self, requests, disable_tqdm=False):
        for request in requests:
            self.said[request.args[0]] = self._text(request.doc, self._draw(request.args[0]))
        return [self.said[request.args[0]] for request in requests]

    def _text(self, doc, draw):
        gold = doc.get("answer") or doc.get("context_answer") or doc.get("summary") or doc["prefix"]
        memory = doc.get("memory_answer", "I do not know")
        alias = next(iter(doc.get("aliases") or doc.get("memory_aliases") or ["nothing"]))
        offers = (gold, f" {gold.upper()}.", f"It is {memory}, not {gold}", alias, "", "no, " * 16, memory)
        return offers[draw % len(offers)]

    def loglikelihood(self, requests, disable_tqdm=False):
        for request in requests:
            draw = self._draw(*request.args)
            self.said[request.args] = (-(draw % 1000) / 100 - 0.01, draw % 5 == 0)
        return [self.said[request.args] for request in requests]

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        for request in requests:
            self.said[request.args[0]] = (
                -3.25 * len(request.args[0].split()) - self._draw(request.args[0]) % 99
            )
        return [self.said[request.args[0]] for request in requests]

    def answer(self, requests, on_done=None):
        """The same answers as an Engine gives them."""
        responses = []
        for index, request in enumerate(requests):
            said = self.said[
                (request.context, request.continuation) if request.continuation else request.context
            ]
            if isinstance(said, str):
                response = Response(text=said, tokens=(), count=0)
            elif isinstance(said, tuple):
                response = Response(logprob=said[0], greedy=said[1], count=1)
            else:
                response = Response(logprob=said, count=1)
            responses.append(response)
            if on_done:
                on_done(index, response)
        return responses


def test_every_score_is_lm_evals_whatever_is_answered(manager):
    script, names = Scripted(), [*GENERATED, LIKELIHOOD]
    wanted = theirs(script, manager, names, limit=48)
    for name, task in tasks.load(names).items():
        items = task.items(TaskSpec(name, limit=48), None)
        evaluation = evaluate(task, items, script)
        same(wanted, name, items, evaluation)
        values = [score.value for score in evaluation.scores]
        assert any(0 < value < 1 for value in values), name  # the script does not make it trivial


def test_rolling_perplexity_is_lm_evals(manager, smoke):
    model, tokenizer = smoke
    name = "kick_mini_perplexity"
    wanted = theirs(HFLM(model, tokenizer=tokenizer, batch_size=2), manager, [name])["results"][name]
    windowed = tasks.load([name])[name]
    task = HarnessTask(name, windowed.task, tasks.index.own()[name][1])  # without kick's own protocol
    items = task.items(TaskSpec(name, limit=LIMIT), tokenizer)
    assert {request.kind for item in items for request in item.requests} == {"rolling"}
    scores = {s.metric: s.value for s in evaluate(task, items, Engine(model, tokenizer)).scores}
    for metric in ("word_perplexity", "byte_perplexity"):
        assert scores[metric] == pytest.approx(wanted[f"{metric},none"], rel=1e-5)


def windows_by_hand(model, tokenizer, seqlen, count):
    """Perplexity of the joined texts by windows, with nothing but torch: what the papers' code computes."""
    rows = (TASKS / "kick_mini" / "data" / "perplexity.jsonl").read_text("utf-8").splitlines()
    text = "\n\n".join(json.loads(row)["text"] for row in rows)
    ids = tokenizer(text, return_tensors="pt", verbose=False)["input_ids"][0]
    losses = []
    for number in range(min(count, len(ids) // seqlen)):
        window = ids[number * seqlen : (number + 1) * seqlen]
        with torch.no_grad():
            logits = model(window[None]).logits[0].float()
        losses.append(torch.nn.functional.cross_entropy(logits[:-1], window[1:]).double())
    return torch.stack(losses).mean().exp().item()


def windowed_perplexity(model, tokenizer, count):
    ((_, evaluation),) = ours(model, tokenizer, ["kick_mini_perplexity"], limit=count).values()
    (score,) = evaluation.scores
    assert (score.metric, score.n) == ("perplexity", count)
    return score.value


def test_windowed_perplexity_is_the_papers(smoke):
    assert windowed_perplexity(*smoke, 3) == pytest.approx(windows_by_hand(*smoke, 512, 3), rel=1e-5)


def test_fidelity_asks_what_lm_eval_asks(manager, smoke):
    model, tokenizer = smoke
    name = "kick_mini_fidelity"
    wanted = theirs(HFLM(model, tokenizer=tokenizer, batch_size=2), manager, [name])["samples"][name]
    ((items, evaluation),) = ours(model, tokenizer, [name]).values()
    assert [s["arguments"][0][0] for s in wanted] == [item.requests[0].context for item in items]
    assert [s["resps"][0][0] for s in wanted] == [sample.responses[0].text for sample in evaluation.samples]
    scores = {score.metric: score.value for score in evaluation.scores}
    assert scores["fdt"] == 48  # the dense model never leaves its own continuation
    assert scores["sdt"] == 0


def test_chat_template_changes_the_prompts(smoke):
    _, tokenizer = smoke
    task = tasks.load(["kick_mini_open"])["kick_mini_open"]
    plain = task.items(TaskSpec("kick_mini_open", limit=1), tokenizer)
    chat = task.items(TaskSpec("kick_mini_open", limit=1, chat_template=True), tokenizer)
    assert chat[0].requests[0].context.count("<|im_start|>user") == 3  # two worked examples and the question
    assert "<|im_start|>" not in plain[0].requests[0].context
    assert chat[0].id == plain[0].id
    assert chat[0].prompt != plain[0].prompt


@pytest.mark.parametrize(
    ("name", "stem", "size"),
    [
        ("kick_mini_factoid", "factoid", 256),
        ("kick_mini_mcq", "mcq", 256),
        ("kick_mini_closed", "reading", 132),
        ("kick_mini_open", "reading", 132),
        ("kick_mini_conflict", "conflict", 64),
        ("kick_mini_summary", "summary", 26),
    ],
)
def test_a_limit_of_the_first_editions_size_asks_the_first_edition(name, stem, size):
    items = tasks.load([name])[name].items(TaskSpec(name, limit=size), None)
    assert [int(item.doc["id"].removeprefix(f"{stem}-")) for item in items] == [*range(1, size + 1)]


def test_the_files_load_through_plain_lm_eval(manager):
    found = theirs(Scripted(), manager, ["kick_mini"], limit=1)
    assert set(found["results"]) >= {*GENERATED, LIKELIHOOD, "kick_mini_perplexity", "kick_mini_fidelity"}
    assert all(count["effective"] == 1 for count in found["n-samples"].values())


@pytest.mark.slow
def test_lm_evals_own_command_line_runs_them(tmp_path):
    command = (
        "-m lm_eval run --model dummy --include_path tasks --tasks kick_mini_factoid,kick_mini_mcq --limit 2"
    )
    done = subprocess.run(
        [sys.executable, *command.split()],
        cwd=TASKS.parent,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "|kick_mini_factoid|" in done.stdout.replace(" ", "")


@pytest.mark.real
def test_the_real_model_scores_as_with_hflm(manager):
    model, tokenizer = load(resolve("smollm2-135m"))
    lm = HFLM(model, tokenizer=tokenizer, batch_size=2)
    for chat, names in ((False, ["kick_mini_factoid"]), (True, [LIKELIHOOD])):  # all pairs: the tiny model
        wanted = theirs(lm, manager, names, chat=chat)
        for name, (items, evaluation) in ours(model, tokenizer, names, chat=chat).items():
            same(wanted, name, items, evaluation)
    assert windowed_perplexity(model, tokenizer, 1) == pytest.approx(
        windows_by_hand(model, tokenizer, 512, 1), rel=SUMS
    )
