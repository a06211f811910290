"""Each document is asked its own turns: as many as it has, in whatever order they stand."""

from __future__ import annotations

import json

import pytest

from kick import tasks
from kick.records import Response, TaskSpec
from kick.tasks.evaluate import evaluate

TASK = """\
task: turning
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{turns[0]}}}}\\n"
doc_to_target: ""
gen_prefix: "Answer:"
process_results: !function kick.tasks.answers.instruction
generation_kwargs: {{until: [], max_gen_toks: 6, do_sample: false}}
metric_list:
  - {{metric: length, aggregation: mean, higher_is_better: true}}
metadata:
  version: 1
  kick: {{protocol: turns}}
"""


class Echo:
    """Answers with the number of requests so far."""

    def __init__(self):
        self.asked = []

    def answer(self, requests, on_done=None):
        found = []
        for index, request in enumerate(requests):
            self.asked.append(request.context)
            found.append(Response(text=f" no {len(self.asked)}", tokens=(1,), count=1))
            if on_done:
                on_done(index, found[-1])
        return found


@pytest.mark.parametrize("turns", [[1, 2, 2], [2, 1, 2], [2, 2], [1, 1], [3, 1, 4, 2]])
def test_every_turn_is_asked_and_none_else(turns, tmp_path):
    rows = [{"turns": [f"Q{row}.{turn}" for turn in range(count)]} for row, count in enumerate(turns)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "t.yaml").write_text(TASK.format(file=tmp_path / "t.jsonl"))
    task = tasks.load(["turning"], None, [tmp_path])["turning"]
    engine = Echo()
    found = evaluate(task, task.items(TaskSpec("turning"), None), engine)
    assert [len(sample.responses) for sample in found.samples] == turns
    assert len(engine.asked) == sum(turns)
    for row, sample in enumerate(found.samples):
        context = f"Q{row}.0\n Answer:"
        for turn, response in enumerate(sample.responses):
            assert engine.asked[int(response.text.split()[-1]) - 1].split() == context.split()
            context = f"{context} {response.text.strip()}\n\nQ{row}.{turn + 1} Answer:"
        assert sample.scores["length"] == 2.0
