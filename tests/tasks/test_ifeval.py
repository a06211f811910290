"""IFEval by lm-eval's checker, refused in a line without its parts; GSM8K asked as the embedded problems."""

import importlib.util
import json
import sys
from types import SimpleNamespace

import pytest

from kick.errors import KickError
from kick.records import TaskSpec
from kick.tasks import ifeval, load

ROWS = {
    "ifeval/train": [
        {"key": 1, "prompt": "Write.", "instruction_id_list": ["a:b", "c:d"], "kwargs": [{}, {"n": 2}]},
        {"key": 2, "prompt": "Say.", "instruction_id_list": ["a:b"], "kwargs": [{"m": "x"}]},
    ],
    "gsm8k/test": [
        {
            "question": "How many? ",
            "answer": "It is 1,000 + 5 = <<1000+5=1005>>1,005.\nSo it is.\n#### 1,005",
        },
        {"question": "And now?", "answer": "2 + 2 = <<2+2=4>>4.\n#### 4"},
    ],
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """The two tasks, from a mirror of a few rows."""
    root = tmp_path_factory.mktemp("mirror")
    for name, rows in ROWS.items():
        file = root / f"{name}.jsonl"
        file.parent.mkdir()
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load(["kick_ifeval", "kick_gsm8k"], data_root=str(root))


def test_what_the_checker_lacks_is_told_in_a_line(tasks, monkeypatch):
    task, spec = tasks["kick_ifeval"], TaskSpec("kick_ifeval")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "langdetect" else object())
    with pytest.raises(KickError, match=r"task kick_ifeval: .*needs langdetect, not installed; pip install"):
        task.check(spec)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("NLTK_DATA", "")

    def absent(name):
        raise LookupError(name)

    monkeypatch.setattr("nltk.data.find", absent)
    with pytest.raises(KickError, match=r"NLTK's data tokenizers/punkt_tab, .*punkt_tab, or name a folder"):
        task.check(spec)
    with pytest.raises(KickError, match="punkt_tab"):
        ifeval.followed({}, ["x"])


def test_the_checkers_words_become_scores(monkeypatch):
    seen = []

    def checked(doc, results):
        seen.append((doc, results))
        return {
            "prompt_level_strict_acc": False,
            "prompt_level_loose_acc": True,
            "inst_level_strict_acc": [True, False],
            "inst_level_loose_acc": [True, True],
        }

    factory = SimpleNamespace(seed=None)
    monkeypatch.setattr(ifeval, "check_needs", lambda: None)
    monkeypatch.setitem(sys.modules, "langdetect", SimpleNamespace(DetectorFactory=factory))
    monkeypatch.setitem(
        sys.modules, "lm_eval.tasks.ifeval", SimpleNamespace(utils=SimpleNamespace(process_results=checked))
    )
    found = ifeval.followed({"key": 1}, ["Yes, sir."])
    assert found == {"strict": 0, "loose": 1, "strict_share": 0.5, "loose_share": 1, "empty": 0}
    assert (seen, factory.seed) == ([({"key": 1}, ["Yes, sir."])], 0)


def test_gsm8k_is_asked_as_the_embedded_problems_are(tasks):
    items = tasks["kick_gsm8k"].items(TaskSpec("kick_gsm8k"), None)
    docs = {item.doc["question"]: item.doc for item in items}
    assert docs["How many?"]["answer"] == "1005"
    assert docs["How many?"]["solution"] == "It is 1,000 + 5 = 1,005. So it is. The answer is 1005."
    for item in items:
        assert item.requests[0].context.endswith(f"Question: {item.doc['question']}\nAnswer:")
        assert item.requests[0].context.count("The answer is") == 4
        task = tasks["kick_gsm8k"].task
        assert task.process_results(item.doc, [item.doc["solution"]])["exact_match"] == 1
