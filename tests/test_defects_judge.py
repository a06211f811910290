"""Defects of the published code that kick must not repeat, 8 to 10 and 14: the judge."""

import ast
import json
import math
import re
from pathlib import Path

import pytest

from kick.errors import KickError
from kick.judge.columns import Answered, Slot, columns, questions
from kick.judge.endpoint import Settings
from kick.judge.judge import Judge, Verdict
from kick.judge.verdicts import Unparsed, parse
from kick.matrix import load
from kick.records import Sample
from kick.store.files import open_files
from kick.tasks.evaluate import summarise
from tests.support.judge_server import said, serving, verdict

ROOT = Path(__file__).parents[1]
KEY = "sk-test-8d2f60aa91c34b7e"
MATRIX = "name: m\nmodel: smoke\ntasks: [kick_mini_mcq]\nvariants: [dense]\njudge: "


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def item(mine="a good answer", dense=None, category="generic"):
    doc = {"turns": ["How?"], "category": category, "reference": []}
    return Answered(doc, (mine,), None if dense is None else (dense,))


def judged(behave, folder, one, **how):
    """(columns, what the server was asked) of one item."""
    with serving(behave) as server:
        settings = Settings("judge-1", server.url, backoff=0.01, attempts=2, **how)
        wanted = questions("instruction", one, settings)
        with Judge(settings, open_files(str(folder))) as judge:
            found = dict(zip(wanted, judge.verdicts(list(wanted.values())), strict=True))
    return columns("instruction", one, settings, found), server.asked


class Task:
    """What summarise needs of a task."""

    def aggregates(self):
        return {}

    def higher_is_better(self):
        return {}


def summed(*rows):
    samples = [Sample(str(i), "", "", "", (), row) for i, row in enumerate(rows)]
    return {score.metric: score for score in summarise(Task(), samples)}


def test_defect_08_each_answer_stands_first_once(tmp_path):
    one = item("a good answer", "another answer")
    found, asked = judged(lambda a: said(verdict(a, better="first")), tmp_path, one, mode="pair")
    firsts = {request.judged("first answer") for request in asked}
    assert firsts == {"a good answer", "another answer"}
    assert found["judge_win"] == 0.5  # a judge that takes whatever stands first has no preference
    assert found["judge_same_order"] == 0


def test_defect_09_a_failed_verdict_is_counted_and_is_no_number(tmp_path):
    fine, _ = judged(lambda a: said(verdict(a, grade=8)), tmp_path / "a", item())
    failed, asked = judged(lambda a: said("I would rather not say."), tmp_path / "b", item())
    assert (fine["judge"], fine["judge_failure"]) == (8, 0)
    assert math.isnan(failed["judge"])
    assert failed["judge_failure"] == 1
    assert len(asked) == 2  # the question and its one repair
    scores = summed(fine, failed)
    assert (scores["judge"].value, scores["judge"].n, scores["judge"].missing) == (8, 1, 1)
    assert (scores["judge_failure"].value, scores["judge_failure"].n) == (0.5, 2)


@pytest.mark.parametrize("grade", ["-1", "0", "11", "true", "null", '"8"', "NaN", "7.5"])
def test_defect_09_no_number_outside_the_scale_is_a_grade(grade):
    with pytest.raises(Unparsed):
        parse(f'{{"code": "c", "grade": {grade}}}', ("grade",), "c")


def test_defect_09_one_failed_run_is_not_dropped_from_the_mean():
    slots = {Slot(0, 0): Verdict({"grade": 8.0}), Slot(0, 1): Verdict(failure="unparsed")}
    found = columns("instruction", item(), Settings("judge-1", "http://localhost/v1", runs=2), slots)
    assert found["judge_failure"] == 0.5
    assert found["judge"] == 8 or math.isnan(found["judge"])


@pytest.mark.parametrize("category", ["math", "coding", "generic"])
def test_defect_10_a_verdict_after_reasoning_is_read(category, tmp_path):
    def reasons(asked):
        working = "First, 3 + 4 = 7.\nThen [[2]] and {x: 7}, so Score: 1 would be wrong.\n\n"
        return said(f"{working}{json.dumps({'code': asked.code, 'grade': 9})}")

    found, asked = judged(reasons, tmp_path, item(category=category))
    assert found == {"judge": 9, "judge_failure": 0}
    assert len(asked) == 1
    assert "reasoning" in asked[0].system


def test_defect_14_the_judge_is_pinned_and_its_key_is_in_no_file(tmp_path):
    for bad in ("{}", "{base_url: 'http://localhost/v1'}", "{model: ''}"):
        with pytest.raises(KickError, match=r"judge.*model"):
            load.parse(MATRIX + bad, "m.yaml")
    with pytest.raises(KickError, match="key is read from the environment"):
        load.parse(MATRIX + f"{{model: j, base_url: 'https://{KEY}@host/v1'}}", "m.yaml")
    with pytest.raises(KickError, match="unknown key 'api_key'"):
        load.parse(MATRIX + f"{{model: j, api_key: {KEY}}}", "m.yaml")
    settings = Settings("judge-1", "http://localhost/v1")
    assert {"model", "base_url", "temperature", "top_p", "max_tokens", "seed"} <= set(settings.identity())
    _, asked = judged(lambda a: said(verdict(a) + KEY), tmp_path, item())
    assert asked[0].body["model"] == "judge-1"
    assert asked[0].headers["authorization"] == f"Bearer {KEY}"
    written = [file.read_text() for file in tmp_path.rglob("*") if file.is_file()]
    assert written
    assert not any(KEY in text for text in written)


def test_defect_14_no_key_is_in_the_source():
    secret = re.compile(r"\bsk-[A-Za-z0-9_-]{16,}|\bhf_[A-Za-z0-9]{20,}|api_key *= *[\"'][^\"']{8,}")
    files = [
        *(ROOT / "kick").rglob("*.py"),
        *(ROOT / "kick").rglob("*.yaml"),
        *(ROOT / "tasks").rglob("*.yaml"),
    ]
    assert len(files) > 50
    for file in files:
        assert not secret.search(file.read_text("utf-8")), file
    keys = [
        node.value
        for file in (ROOT / "kick").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.keyword) and node.arg == "api_key"
    ]
    assert keys
    assert not any(isinstance(value, ast.Constant) for value in keys)
