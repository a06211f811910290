"""Numbers that are not ours alone: lm-eval's own definitions of MMLU, NQ-open and WikiText, and its command.

lm-eval gets its data by another way than kick: files written here from the mirror's, read by `datasets`.
Where definitions differ (docs/protocol.md lists them), the difference itself is tested.
"""

import json
import logging
import math
from itertools import pairwise
from pathlib import Path

import lm_eval
import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from kick import tasks
from kick.engine import Engine
from kick.errors import KickError
from kick.model import load, resolve
from kick.tasks.data import read_rows
from kick.tasks.evaluate import evaluate
from kick.tasks.text import exact_match
from tests.support.llm_kick import FOLDER, mirror, smoke, spec, task

THEIRS = Path(lm_eval.__file__).parent / "tasks"
BY_LIKELIHOOD = ("word_perplexity", "byte_perplexity", "bits_per_byte")

SUMS = 1e-4  # float32 sums in two orders: within 1e-5 on one processor, 2e-5 on one without AVX-512


@pytest.fixture(scope="module")
def manager():
    """lm-eval's own definitions of three tasks, and kick's folder."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    folders = [THEIRS / "mmlu" / "default", THEIRS / "nq_open", THEIRS / "wikitext", FOLDER]
    return TaskManager(include_path=[str(folder) for folder in folders], include_defaults=False)


@pytest.fixture
def files(tmp_path):
    """lm-eval's data: MMLU's anatomy, NQ-open, and WikiText pages, cut out of the mirror without kick."""
    root = Path(mirror())
    return {
        "mmlu_anatomy": {s: _write(tmp_path, f"mmlu-{s}", _anatomy(root, s)) for s in ("dev", "test")},
        "nq_open": {"validation": str(root / "nq_open" / "validation.jsonl")},
        "wikitext": {"test": _write(tmp_path, "pages", [{"page": page} for page in _pages(root)[:2]])},
    }


def _anatomy(root, split):
    rows = read_rows(root / "mmlu" / f"{split}.parquet")
    return [row for row in rows if row["subject"] == "anatomy"]


def _pages(root):
    lines = [row["text"] or " \n" for row in read_rows(root / "wikitext2_raw" / "test.jsonl")]
    starts = [i for i, line in enumerate(lines) if line.startswith(" = ") and not line.startswith(" = =")]
    return ["".join(lines[a:b]) for a, b in zip(starts, [*starts[1:], len(lines)], strict=True)]


def _write(folder, name, rows):
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(file)


def theirs(lm, manager, name, limit, files=None, shots=None):
    """lm-eval's result of a task, its data from `files` where they are given."""
    override = {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": files}}
    lacking = {key: None for key in ("training_split", "validation_split") if name != "mmlu_anatomy"}
    if name == "nq_open":
        del lacking["validation_split"]
    wanted = [{"group": "g", "task": [{"task": name, **override, **lacking}]}] if files else [name]
    return simple_evaluate(
        lm, tasks=wanted, task_manager=manager, limit=limit, num_fewshot=shots, bootstrap_iters=0
    )


def hflm(pair):
    return HFLM(pair[0], tokenizer=pair[1], batch_size=4)


def sorted_samples(found, name):
    return sorted(found["samples"][name], key=lambda sample: sample["doc_id"])


def metrics(found, name):
    """lm-eval's numbers by metric."""
    results = {key.split(",")[0]: value for key, value in found["results"][name].items() if "," in key}
    return {key: value for key, value in results.items() if not key.endswith("_stderr")}


def same(wanted, name, items, evaluation):
    """Prompts and answers are the same, and so is every number that lm-eval gives."""
    samples = sorted_samples(wanted, name)
    assert len(samples) == len(items) > 0
    for sample, item, got in zip(samples, items, evaluation.samples, strict=True):
        assert [a[0] for a in sample["arguments"]] == [r.context or a[0] for r, a in _both(item, sample)]
        for resps, response in zip(sample["resps"], got.responses, strict=False):
            if response.text is not None:
                assert resps[0] == response.text
            elif response.greedy is not None:
                assert resps[0][0] == pytest.approx(response.logprob, rel=1e-5)
                assert resps[0][1] == response.greedy
    ours = {score.metric: score.value for score in evaluation.scores}
    for metric, value in metrics(wanted, name).items():
        if isinstance(value, float) and math.isnan(value):
            assert ours[metric] is None
        else:
            assert ours[metric] == pytest.approx(value, rel=1e-5 if metric in BY_LIKELIHOOD else 1e-12)


def _both(item, sample):
    return zip(item.requests, sample["arguments"], strict=True)


def asked(one, pair, limit, shots=None):
    """(items, evaluation) of a task with kick's engine."""
    items = one.items(spec(one.name, limit=limit, shots=shots), pair[1])
    return items, evaluate(one, items, Engine(*pair))


# ------------------------------------------------------------------- kick's files under lm-eval's command


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("kick_factoid_qa_nq", 3),
        ("kick_factoid_qa_triviaqa_fast", 3),
        ("kick_mcr_qa", 2),
        ("kick_mcr_qa_gen_fast", 2),
        ("kick_icra_qa_closed", 3),
        ("kick_conflict_qa", 2),
        ("kick_summarization", 1),
        ("kick_instruction_following_fast", 1),
    ],
)
def test_kicks_files_give_the_same_under_lm_eval(name, limit, manager, monkeypatch):
    monkeypatch.setenv("KICK_DATA_ROOT", mirror())
    wanted = theirs(hflm(smoke()), manager, name, limit)
    same(wanted, name, *asked(task(name), smoke(), limit))


def test_the_group_is_one_to_lm_eval_too(manager, monkeypatch):
    monkeypatch.setenv("KICK_DATA_ROOT", mirror())
    found = theirs(hflm(smoke()), manager, "kick_factoid_qa", 1)
    assert set(found["samples"]) == set(tasks.index.expand(["kick_factoid_qa"]))


# ------------------------------------------------------------------- lm-eval's own definitions, same data


@pytest.fixture(scope="module")
def foreign():
    """lm-eval's own tasks as kick loads them, from the mirror."""
    return tasks.load(["mmlu_anatomy", "nq_open", "wikitext"], mirror())


def test_lm_evals_own_tasks_read_the_mirror(foreign, files):
    assert foreign["mmlu_anatomy"].size == 135  # not 14,042 under one subject's header
    assert foreign["nq_open"].size == 3610
    assert foreign["wikitext"].size == 62
    with pytest.raises(KickError, match=r"no split 'train' to take worked examples from"):
        foreign["nq_open"].items(spec("nq_open", limit=1, shots=2), smoke()[1])


@pytest.mark.parametrize(
    ("name", "limit", "shots"), [("mmlu_anatomy", 3, 5), ("nq_open", 2, None), ("wikitext", 1, None)]
)
def test_lm_evals_own_tasks_give_lm_evals_numbers(name, limit, shots, foreign, files, manager):
    wanted = theirs(hflm(smoke()), manager, name, limit, files[name], shots)
    same(wanted, name, *asked(foreign[name], smoke(), limit, shots))


def mirror_of(folder, rows, dev):
    """A mirror with nothing but these MMLU rows."""
    (folder / "mmlu").mkdir(parents=True)
    for split, content in (("test", rows), ("dev", dev)):
        _write(folder / "mmlu", split, content)
    return str(folder)


def mmlu_of(folder, limit):
    """kick_mcr_qa on the first anatomy questions alone."""
    root = Path(mirror())
    rows, dev = _anatomy(root, "test")[:limit], read_rows(root / "mmlu" / "dev.parquet")
    return tasks.load(["kick_mcr_qa"], mirror_of(folder / "mirror", rows, dev))["kick_mcr_qa"]


def check_mmlu(pair, manager, files, folder, limit):
    """Our MMLU is lm-eval's with five shots: prompts, log-likelihoods, right and wrong."""
    wanted = theirs(hflm(pair), manager, "mmlu_anatomy", limit, files["mmlu_anatomy"], 5)
    by_question = {sample["doc"]["question"]: sample for sample in wanted["samples"]["mmlu_anatomy"]}
    items, found = asked(mmlu_of(folder, limit), pair, limit)
    assert len(items) == len(by_question) == limit
    pairs = []
    for item, sample in zip(items, found.samples, strict=True):
        other = by_question[item.doc["question"]]
        assert [a[0] for a in other["arguments"]] == [r.context for r in item.requests]
        assert [a[1] for a in other["arguments"]] == [r.continuation for r in item.requests]
        pairs += [(r[0][0], o.logprob) for r, o in zip(other["resps"], sample.responses, strict=True)]
        assert sample.scores["acc"] == other["acc"]
    for one, mine in pairs:
        assert one == pytest.approx(mine, abs=5e-5)  # float32's noise in a logit, at any batch size
    assert sum(one for one, _ in pairs) == pytest.approx(sum(mine for _, mine in pairs), rel=SUMS)
    assert metrics(wanted, "mmlu_anatomy")["acc"] == next(s.value for s in found.scores if s.metric == "acc")


def test_our_mmlu_is_lm_evals(manager, files, tmp_path):
    check_mmlu(smoke(), manager, files, tmp_path, 3)


@pytest.mark.real
def test_our_mmlu_is_lm_evals_on_the_real_model(manager, files, tmp_path):
    check_mmlu(load(resolve("smollm2-135m")), manager, files, tmp_path, 2)


def test_our_exact_match_is_lm_evals_on_nq_open_where_the_definitions_agree(foreign):
    theirs_scored = foreign["nq_open"].task
    docs = theirs_scored.eval_docs.to_list()[:150]
    for doc, other in pairwise(docs):
        for text in (
            doc["answer"][0],
            f"the {doc['answer'][-1]}",
            other["answer"][0],
            "nobody knows",
        ):
            wanted = theirs_scored.process_results(doc, [text])["exact_match"]
            if set(text) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 "):
                assert float(exact_match(text, doc["answer"])) == wanted, (text, doc["answer"])


def test_where_our_exact_match_differs_from_lm_evals():
    """Punctuation is a blank to us and nothing to lm-eval; an empty answer is never right here."""
    assert exact_match("twenty one", ["twenty-one"])
    assert not exact_match("", ["the"])


# ------------------------------------------------------------------- WikiText-2


def check_windows(pair, limit):
    """Our perplexity is what nothing but torch computes over the same windows."""
    model, tokenizer = pair
    rows = read_rows(Path(mirror()) / "wikitext2_raw" / "test.jsonl")[:800]
    ids = tokenizer("\n\n".join(row["text"] for row in rows), return_tensors="pt", verbose=False)[
        "input_ids"
    ][0]
    losses = []
    for window in ids[: limit * 2048].reshape(limit, 2048):
        with torch.no_grad():
            logits = model(window[None]).logits[0]
        losses.append(torch.nn.functional.cross_entropy(logits[:-1], window[1:]).double())
    _, found = asked(task("kick_perplexity_fast"), pair, limit)
    ours = next(score.value for score in found.scores if score.metric == "perplexity")
    assert ours == pytest.approx(torch.stack(losses).mean().exp().item(), rel=SUMS)


def test_our_perplexity_is_that_of_the_windows():
    check_windows(smoke(), 2)


@pytest.mark.slow  # of 2048 tokens; test_kick_mini_parity.py has windows of 512 on the real model
@pytest.mark.real
def test_our_perplexity_is_that_of_the_windows_on_the_real_model():
    check_windows(load(resolve("smollm2-135m")), 1)
