"""Scores that tell nothing of a model are said to: in the run's output and in the record of the cell.

The case is the README's own task without its filter: lm-eval's exact_match compares blanks.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from kick import tasks
from kick.records import Response, Result, Score, TaskSpec
from kick.tasks import signs
from kick.tasks.evaluate import evaluate, rescore

TASK = """\
task: opposites
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "The opposite of {{{{word}}}} is"
doc_to_target: opposite
generation_kwargs: {{until: ["\\n"], max_gen_toks: 8, do_sample: false}}
{filters}metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}}
"""
STRIP = "filter_list:\n  - {name: s, filter: [{function: remove_whitespace}, {function: take_first}]}\n"
REGEX = (
    "filter_list:\n  - name: digits\n    filter:\n"
    '      - {function: regex, regex_pattern: "#### (\\\\d+)"}\n      - {function: take_first}\n'
)
ROWS = [{"word": "hot", "opposite": "cold"}, {"word": "up", "opposite": "down"}]


class Says:
    def __init__(self, texts, count=3):
        self.texts, self.count = texts, count

    def answer(self, requests, on_done=None):
        found = [Response(text=text, tokens=(1,), count=self.count) for text in self.texts]
        for index, response in enumerate(found):
            on_done(index, response)
        return found


def said(folder, texts, filters="", count=3):
    (folder / "o.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "o.yaml").write_text(TASK.format(file=folder / "o.jsonl", filters=filters))
    task = tasks.load(["opposites"], None, [folder])["opposites"]
    spec = TaskSpec("opposites")
    found = evaluate(task, task.items(spec, None), Says(texts, count))
    assert rescore(task, spec, found.samples).warnings == found.warnings
    (score,) = [one for one in found.scores if one.metric == "exact_match"]
    return score.value, found.warnings


@pytest.mark.parametrize(
    ("texts", "filters", "count", "value", "words"),
    [
        ([" cold", " down"], "", 3, 0.0, "begins with a blank.*exact_match would be another for 2 of 2"),
        ([" cold", " down"], STRIP, 3, 1.0, None),
        ([" warm", " left"], "", 3, 0.0, None),  # wrong with blanks or without
        (["cold", " down"], "", 3, 0.5, None),
        (["", " "], "", 3, 0.0, "all 2 answers are empty"),
        (["cold", "down"], "", 8, 1.0, "all 2 answers were cut by the limit of 8 tokens"),
        (["cold", "down"], "", 7, 1.0, None),
        (["cold", "down"], REGEX, 3, 0.0, "no answer has what the filter digits looks for"),
        (["cold", "#### 4"], REGEX, 3, 0.0, None),
    ],
)  # fmt: skip
def test_each_sign(texts, filters, count, value, words, tmp_path):
    import re

    found, warnings = said(tmp_path, texts, filters, count)
    assert found == value
    assert bool(warnings) == (words is not None)
    if words:
        assert re.search(words, warnings[0])


def test_they_are_kept_in_the_record_and_said_after_the_run():
    from kick.sweep.run import signs
    from tests.support.small_tables import KEYED, planned

    plan = planned(KEYED)

    class Stored:
        def done(self, key):
            return key != plan.keys[-1]

        def result(self, key):
            found = Result(key, "trial", plan.by_key[key], (), warnings=("all 2 answers are empty",))
            return Result.from_json(json.loads(json.dumps(found.to_json())))

    (first, *_) = signs(plan, Stored())
    assert first.startswith("warning: facts: all 2 answers are empty (dense, wanda-0.5")
    assert replace(Stored().result(plan.keys[0])).warnings == ("all 2 answers are empty",)


@pytest.mark.parametrize(("share", "words"), [(0.0, ""), (0.5, "no item has a value of margin")])
def test_a_margin_is_missed_only_if_something_diverged(share, words):
    divergent = Score("sdt", share, 4, 0.0, share, share)
    margin = Score("margin", None, 0, None, None, None, missing=4)
    assert signs.warnings(None, (), (), (divergent, margin)) == ((words,) if words else ())
