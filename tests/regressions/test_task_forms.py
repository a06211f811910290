"""Forms of task files that lm-eval takes without a word and scores wrong, or that give no number."""

from __future__ import annotations

import json

import pytest

from kick import tasks
from kick.errors import KickError
from kick.records import Response, TaskSpec
from kick.tasks import evaluate

CHOICES = """\
task: digits
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}} ="
doc_to_choice: {choices}
doc_to_target: {target}
"""
WRITTEN = """\
task: texts
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{q}}}}"
doc_to_target: answer
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
  - {{metric: {metric}, aggregation: {metric}, higher_is_better: true}}
"""


def loaded(folder, target, answers, choices='["1", "2", "3", "4"]'):
    rows = [{"q": f"1 + {i}", "answer": answer, "place": i} for i, answer in enumerate(answers)]
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "d.yaml").write_text(CHOICES.format(file=folder / "d.jsonl", target=target, choices=choices))
    return tasks.load(["digits"], None, [folder])["digits"]


@pytest.mark.parametrize("answers", [["1", "2", "3", "4"], ["1", "2", "3"], ["2"], [1, 4]])
def test_the_text_of_a_digit_is_no_place(answers, tmp_path):
    """lm-eval takes "1" as the second choice; a gold "4" has no place at all."""
    with pytest.raises(KickError, match=r"named by digits \(1, 2, 3, 4\).*doc_to_target: answer"):
        loaded(tmp_path, '"{{answer}}"', answers)


@pytest.mark.parametrize(
    ("target", "answers", "choices"),
    [
        ("answer", ["1", "2", "3", "4"], '["1", "2", "3", "4"]'),  # looked up as text
        ("place", ["1", "2", "3", "4"], '["1", "2", "3", "4"]'),  # whole numbers are places
        ('"{{place}}"', ["1", "2", "3", "4"], '["1", "2", "3", "4"]'),  # 0 is no choice's name
        ('"{{answer}}"', ["0", "1", "2"], '["0", "1", "2"]'),  # each name is its own place
    ],
)
def test_what_can_mean_one_thing_only_is_scored_so(target, answers, choices, tmp_path):
    task = loaded(tmp_path, target, answers, choices)
    items = task.items(TaskSpec("digits"), None)
    assert [item.target for item in items] == answers
    for place, item in enumerate(items):
        said = [
            Response(logprob=-1.0 - (i != place), greedy=False, count=1) for i in range(len(item.requests))
        ]
        (sample,) = evaluate.score(task, [item], [said])
        assert sample.scores["acc"] == 1.0


def test_the_first_gold_without_a_place_is_told_likewise(tmp_path):
    """lm-eval itself stops at it, with an IndexError."""
    with pytest.raises(KickError, match=r"digits is a place counted from 0.*doc_to_target: answer"):
        loaded(tmp_path, '"{{answer}}"', ["4", "1"])


def test_a_place_that_there_is_not(tmp_path):
    task = loaded(tmp_path, "place", ["a"] * 5)
    with pytest.raises(KickError, match="number 4, counted from 0, of 4"):
        task.items(TaskSpec("digits"), None)


@pytest.mark.parametrize("metric", ["bleu", "chrf", "ter"])
def test_a_metric_of_a_whole_corpus_is_refused_before_anything_is_answered(metric, tmp_path):
    (tmp_path / "d.jsonl").write_text('{"q": "a", "answer": "cold"}\n')
    (tmp_path / "d.yaml").write_text(WRITTEN.format(file=tmp_path / "d.jsonl", metric=metric))
    with pytest.raises(KickError, match=f"metric {metric} is one number of a whole corpus"):
        tasks.load(["texts"], None, [tmp_path])
