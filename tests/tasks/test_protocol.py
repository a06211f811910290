"""A kind of task is one class with @protocol; what it says of itself serves list, costs, keys and judge."""

import sys

import pytest

from kick.errors import KickError
from kick.matrix.costs import tokens_of
from kick.records import TaskSpec
from kick.tasks import describe, load
from kick.tasks.protocol import protocols

KIND = '''
"""Questions asked twice: an example of a kind of task."""

from kick.tasks.lm_eval_task import HarnessTask
from kick.tasks.protocol import protocol


@protocol("twice", title="asked twice", keys=("times",), tokens=321, metrics=("acc",), judged="instruction")
class Twice(HarnessTask):
    """A task whose requests are made several times."""

    def items(self, spec, tokenizer, reference=None):
        """Every item's requests, `times` times."""
        from dataclasses import replace

        times = int(self.options.get("times", 2))
        return [replace(item, requests=item.requests * times) for item in super().items(spec, tokenizer)]
'''
TASK = """
task: asked_twice
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metadata: {version: 1, kick: {KICK}}
"""


@pytest.fixture
def twice(tmp_path, monkeypatch):
    """The protocol `twice`, entered from a file outside the package; gone again afterwards."""
    (tmp_path / "asked_twice_kind.py").write_text(KIND)
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("asked_twice_kind")
    yield protocols["twice"]
    del sys.modules["asked_twice_kind"], protocols._items["twice"], protocols._entered["twice"]


def written(folder, kick):
    """A folder of tasks with one task file, whose metadata has these keys of kick's."""
    folder.mkdir(exist_ok=True)
    data = folder / "data.json"
    data.write_text('{"question": "2 + 2?", "choices": ["3", "four"], "answer": 1}\n')
    (folder / "task.yaml").write_text(TASK.replace("DATA", str(data)).replace("KICK", kick))
    return folder


def test_a_kind_of_task_from_outside_is_one_class(tmp_path, twice):
    folder = written(tmp_path / "tasks", "protocol: twice, times: 3")
    task = load(["asked_twice"], extra=[folder])["asked_twice"]
    assert type(task) is twice
    (item,) = task.items(TaskSpec("asked_twice"), None)
    assert len(item.requests) == 3 * 2  # three times both choices
    (row,) = [one for one in describe([folder]) if one["name"] == "asked_twice"]
    assert (row["kind"], row["metrics"]) == ("twice", ["acc"])
    assert tokens_of("twice") == 321


def test_its_keys_and_its_code_count_in_what_is_asked(tmp_path, twice, monkeypatch):
    digests = []
    for number, kick in enumerate(("protocol: twice", "protocol: twice, times: 3", "title: plain")):
        folder = written(tmp_path / f"tasks{number}", kick)
        digests.append(load(["asked_twice"], extra=[folder])["asked_twice"].digest)
    assert len(set(digests)) == 3
    monkeypatch.setattr("kick.tasks.lm_eval_task._outside", lambda kind: ["another meaning"])
    folder = written(tmp_path / "tasks0", "protocol: twice")
    assert load(["asked_twice"], extra=[folder])["asked_twice"].digest != digests[0]


@pytest.mark.parametrize(
    ("kick", "said"),
    [
        ("protocol: redaing", "did you mean 'reading'"),
        ("seqlen: 64", "the key 'seqlen' belongs to protocol: perplexity; here there is no protocol"),
        ("protocol: reading, seqlen: 64", "belongs to protocol: perplexity; here the protocol is reading"),
        ("protocol: perplexity, seqlne: 64", "did you mean 'seqlen'"),
        ("family: [a]", "family: got .*expected: text"),
    ],
)
def test_what_a_protocol_does_not_have_is_refused(tmp_path, kick, said):
    with pytest.raises(KickError, match=said):
        describe([written(tmp_path / "tasks", kick)])


def test_a_name_is_taken_once(twice):
    from kick.tasks.protocol import protocol

    with pytest.raises(ValueError, match=r"'reading' is taken by kick\.tasks\.reading"):
        protocol("reading", title="again")(twice)


def test_names_and_facts_are_known_before_anything_is_imported():
    facts = protocols.facts()
    assert {"fidelity", "perplexity", "reading", "turns"} <= set(facts)
    assert facts["perplexity"].tokens == 512
    assert facts["turns"].judged == "instruction"
    assert protocols["turns"].__name__ == "Turns"
