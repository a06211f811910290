"""Variants that continue prompts in their own ways are one job that reads each prompt once: same answers."""

import pytest

from kick.engine.sparse import SparseEngine
from kick.matrix.load import load
from kick.matrix.plan import plan
from kick.model import load as load_model
from kick.model import resolve
from kick.records import Request
from kick.runtime.kv_quant import KVQuant
from kick.runtime.page_attention import PageAttention
from kick.runtime.twilight import Twilight
from kick.sweep.groups import sharing, split, title
from kick.sweep.sparse import Sharer, ask
from kick.sweep.together import OpenCell, Together
from kick.tasks.evaluate import InMemory, Phase
from tests.engine.conftest import build

TEXT = "The miller of Tarn had two lanterns, and the older one hung over the door of the mill."
REQUESTS = [Request("generate", context=TEXT[:end], max_tokens=6) for end in (60, 64, 30, 70)]
METHODS = [
    Twilight(p=0.3, dense_layers=0),
    PageAttention(budget=12, page=4, sub_page=2),
    KVQuant(bits=2, group=8, residual=8),
]


@pytest.fixture(scope="module")
def first():
    tokenizer = load_model(resolve("smoke"))[1]
    return SparseEngine(METHODS[0], build("llama", tokenizer), tokenizer)


@pytest.fixture
def read(first, monkeypatch):
    """How many prompts were read each time."""
    found, prompts = [], type(first.reader).prompts
    monkeypatch.setattr(
        type(first.reader), "prompts", lambda self, rows: found.append(len(rows)) or prompts(self, rows)
    )
    return found


def steps(requests):
    """A cell that asks the requests and ends with their answers."""
    kept = InMemory()
    yield Phase(requests, kept)
    return [kept.answers[i] for i in range(len(requests))]


def asked(engines, requests):
    """What becomes of a cell of each engine asked together: answers or an error, and counts."""
    found = {}

    def member(engine, own):
        cell = OpenCell(None, steps(own))
        place = type(engine.method).__name__

        def end(_, what):
            found[place] = what if isinstance(what, Exception) else (what, engine.counted())

        return Sharer(engine, Together(engine, end, end), cell)

    ask([member(engine, own) for engine, own in zip(engines, requests, strict=True)])
    return found


def alone(first, requests):
    engines = [first.beside(method) for method in METHODS]
    return {
        type(one.method).__name__: (one.answer(own), one.counted())
        for one, own in zip(engines, requests, strict=True)
    }


def test_answers_and_counts_are_those_of_a_job_alone_and_prompts_are_read_once(first, read, monkeypatch):
    monkeypatch.setattr("kick.engine.budget.slots", lambda *_: (1, 2))  # a prompt at a time
    expected = alone(first, [REQUESTS] * 3)
    assert read == [4, 4, 4]
    read.clear()
    assert asked([first.beside(method) for method in METHODS], [REQUESTS] * 3) == expected
    assert read == [4]


def test_a_method_that_fails_does_not_cost_the_others(first, read, monkeypatch):
    expected = alone(first, [REQUESTS] * 3)
    read.clear()
    monkeypatch.setattr(Twilight, "look", lambda self, sight: 1 / 0)
    found = asked([first.beside(method) for method in METHODS], [REQUESTS] * 3)
    assert isinstance(found.pop("Twilight"), ZeroDivisionError)
    expected.pop("Twilight")
    assert found == expected
    assert read == [4]


def test_cells_with_other_requests_are_asked_by_themselves(first, read):
    requests = [REQUESTS, REQUESTS[:2], REQUESTS]
    expected = alone(first, requests)
    read.clear()
    assert asked([first.beside(method) for method in METHODS], requests) == expected
    assert read == [4, 2]


def test_which_jobs_are_merged_and_what_that_saves():
    pruned = {"method": "magnitude", "sparsity": 0.5}
    variants = [
        "dense",
        {"runtime": {"method": "twilight"}},
        {"runtime": {"method": "page-attention", "budget": 32}},
        {"runtime": {"method": "lazyllm"}},
        pruned,
        {**pruned, "runtime": {"method": "twilight", "p": [0.5, 0.7]}},
    ]
    matrix = {
        "name": "m",
        "model": "smoke",
        "tasks": ["kick_mini_open"],
        "replicas": [],
        "variants": variants,
    }
    planned = plan(load(matrix))
    jobs = sharing(planned.jobs)
    assert sorted(map(title, jobs)) == [
        "dense",
        "lazyllm",
        "magnitude-0.5",
        "magnitude-0.5+twilight-p=0.5 and 1 more",
        "twilight and 1 more",
    ]
    assert [len(split(job)) for job in jobs] == [1, 1, 1, 2, 2]
    whole = sum(planned.estimates[job.variant.name].total for job in planned.jobs)
    assert planned.seconds == pytest.approx(sum(job.cost for job in jobs))
    assert planned.seconds < 0.8 * whole
