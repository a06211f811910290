"""The embedded sets of kick_beyond: made by their script, sound, and scored by rule."""

import json
import operator
import re
import runpy
from collections import Counter
from pathlib import Path

import pytest

from kick.tasks.data import read_rows
from kick.tasks.form import followed, meets
from kick.tasks.index import read_yaml
from kick.tasks.text import words
from kick.tasks.worked import solution

FOLDER = Path(__file__).parents[2] / "tasks" / "kick_beyond"
MADE = runpy.run_path(str(FOLDER / "make.py"))


def rows(name):
    return read_rows(FOLDER / "data" / f"{name}.jsonl")


def test_the_script_gives_the_files_byte_by_byte():
    for name, made in MADE["sets"]().items():
        assert MADE["text_of"](made) == (FOLDER / "data" / f"{name}.jsonl").read_text("utf-8"), name
    assert "CC0 1.0" in (FOLDER / "LICENSE").read_text("utf-8")


@pytest.mark.parametrize(("name", "key", "kinds"), [("form", "kind", 8), ("reasoning", "steps", 4)])
def test_sets_are_large_enough_balanced_in_every_prefix_and_without_repetition(name, key, kinds):
    found = rows(name)
    assert len(found) >= 250
    for size in range(kinds, len(found) + 1, kinds):
        assert set(Counter(row[key] for row in found[:size]).values()) == {size // kinds}
    asked = [tuple(words(row.get("question") or row["instruction"])) for row in found]
    assert len(set(asked)) == len(asked)
    task = read_yaml(FOLDER / f"kick_{name}.yaml")
    shown = {
        tuple(words(one.get("question") or one["instruction"])) for one in task["fewshot_config"]["samples"]
    }
    assert not shown & set(asked)


def test_worked_solutions_compute_what_they_say():
    signs = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
    for row in rows("reasoning"):
        steps = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)\.", row["solution"])
        assert len(steps) == row["steps"], row["id"]
        for left, sign, right, result in steps:
            assert signs[sign](int(left), int(right)) == int(result), row["id"]
        assert steps[-1][3] == row["answer"]
        assert row["solution"].endswith(f"The answer is {row['answer']}.")
        given = set(re.findall(r"\d+", row["question"])) | {"2", "3"}  # twice; 3 euros
        made = {step[3] for step in steps}
        assert {number for step in steps for number in (step[0], step[2])} <= given | made, row["id"]


@pytest.mark.parametrize(
    ("rule", "right", "wrong"),
    [
        ({"lines": 2}, ["a b\nc", "1\n2"], ["a b", "a\n\nb", "a\nb\nc"]),
        ({"lines": 1, "words_per_line": 3}, ["the old sea"], ["old sea", "the old sea\n", "a b c\nd e f"]),
        ({"lines": 2, "words_per_line": 2}, ["a b\nc d"], ["a b\nc", "a b\nc d\ne f"]),
        ({"words": 3}, ["it's very old", "a\nb c"], ["a b", "a b c d"]),
        ({"items": 3}, ["red, blue, green", "red,blue,green."], ["red, blue", "red, , green", "a, b,\nc"]),
        ({"numbered": 2}, ["1. cat\n2. dog"], ["1. cat", "1) cat\n2) dog", "2. cat\n1. dog", "1. a\n2."]),
        (
            {"json": ["age", "name"]},
            ['{"name": "A", "age": 3}'],
            ['{"age": 3}', '{"name": "A", "age": 3} ok'],
        ),
        (
            {"json": ["age"]},
            ['{"age": {"age": 1}}'],
            ['["age"]', '{"age": 1, "age": 2}', "{'age': 1}", "[" * 9999],
        ),
        ({"without": "e"}, ["a dog barks"], ["the dog", "Every dog"]),
        ({"lower": True}, ["rome is nice.", "42"], ["Rome", "rOme"]),
    ],
)
def test_form_is_met_or_not(rule, right, wrong):
    assert [meets(text, rule) for text in right] == [True] * len(right)
    assert [meets(text, rule) for text in wrong] == [False] * len(wrong)


def test_an_unknown_rule_of_form_is_an_error():
    with pytest.raises(ValueError, match="rhymes"):
        meets("a", {"rhymes": 2})


def test_form_and_content_are_told_apart():
    doc = {"rule": json.dumps({"words": 3}), "about": ["sea", "waves"], "least": 1}
    assert followed(doc, ["  The grey sea. "]) == {
        "form": 1,
        "content": 1,
        "form_and_content": 1,
        "empty": 0,
    }
    assert followed(doc, ["The old man"])["content"] == 0
    assert followed(doc, ["The sea is wide"])["form"] == 0
    assert followed({**doc, "rule": json.dumps({"without": "e"})}, [" \n"]) == {
        "form": 0,
        "content": 0,
        "form_and_content": 0,
        "empty": 1,
    }


@pytest.mark.parametrize(
    ("text", "exact", "last", "failed"),
    [
        ("6 * 7 = 42. The answer is 42.", 1, 1, 0),
        ("the answer is: 42", 1, 1, 0),
        ("The answer is $1,042.", 0, 0, 0),
        ("The answer is 41. No, the answer is 42.", 1, 1, 0),
        ("6 * 7 = 42", 0, 1, 1),
        ("The answer is unknown, as 42 is a number.", 0, 1, 1),
        ("The answer is 42.0, and 7", 1, 0, 0),
        ("", 0, 0, 1),
    ],
)
def test_the_stated_number_counts(text, exact, last, failed):
    found = solution({"answer": "42"}, [text])
    assert (found["exact_match"], found["last_number"], found["format_failure"]) == (exact, last, failed)
    assert found["empty"] == (text == "")
