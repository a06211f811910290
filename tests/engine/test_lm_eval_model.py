"""lm-eval's own command line with the engine as its model."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import lm_eval.tasks
import pytest

from kick.engine.lm_eval_model import KickLM, main
from kick.errors import KickError

GSM8K = Path(__file__).parents[2] / ".." / "shared" / "data" / "gsm8k"


def test_lm_eval_runs_with_kick_as_its_model(tmp_path, monkeypatch):
    docs = [{"question": f"Is {i} a number?", "gold": i % 2} for i in range(3)]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    (tmp_path / "tiny.yaml").write_text(
        "task: tiny_numbers\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path}/docs.jsonl}}}}\n"
        "test_split: test\noutput_type: multiple_choice\n"
        'doc_to_text: "{{question}}"\ndoc_to_choice: [" no", " yes"]\ndoc_to_target: gold\n'
    )
    monkeypatch.setattr(sys, "argv", ["kick"])
    ours_only = partial(lm_eval.tasks.TaskManager, include_defaults=False)  # the others take 15 s to index
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", ours_only)
    asked = ["run", "--model", "kick", "--model_args", "pretrained=smoke", "--tasks", "tiny_numbers"]
    main([*asked, "--include_path", str(tmp_path), "--output_path", str(tmp_path / "out")])
    (file,) = (tmp_path / "out").rglob("results_*.json")
    assert 0 <= json.loads(file.read_text())["results"]["tiny_numbers"]["acc,none"] <= 1


def test_kicks_own_tasks_are_found_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["kick"])
    ours_only = partial(lm_eval.tasks.TaskManager, include_defaults=False)
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", ours_only)
    asked = ["run", "--model", "kick", "--model_args", "pretrained=smoke", "--tasks", "kick_mini_mcq"]
    main([*asked, "--limit", "2", "--output_path", str(tmp_path / "out")])
    (file,) = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(file.read_text())["results"]["kick_mini_mcq"]["acc,none"] in (0, 0.5, 1)
    assert lm_eval.tasks.TaskManager is ours_only


@pytest.mark.skipif(not GSM8K.is_dir(), reason="../shared/data/gsm8k is absent: lm-eval's gsm8k NOT RUN")
def test_one_of_lm_evals_own_tasks_from_local_data(tmp_path, monkeypatch):
    """As docs/protocol.md says: a group of one's own names lm-eval's task and where its data is."""
    files = "".join(
        f"        {split}: {(GSM8K / f'{split}.jsonl').resolve()}\n" for split in ("train", "test")
    )
    (tmp_path / "local.yaml").write_text(
        "group: local_gsm8k\ntask:\n  - task: gsm8k\n    dataset_path: json\n    dataset_name: null\n"
        f"    dataset_kwargs:\n      data_files:\n{files}"
    )
    monkeypatch.setattr(sys, "argv", ["kick"])
    theirs = Path(lm_eval.tasks.__file__).parent / "gsm8k"
    with_theirs = partial(lm_eval.tasks.TaskManager, include_defaults=False)  # the others take 15 s to index
    monkeypatch.setattr(
        lm_eval.tasks,
        "TaskManager",
        lambda include_path, **rest: with_theirs(include_path=[*include_path, str(theirs)]),
    )
    out = tmp_path / "out"
    asked = [
        "run",
        "--include_path",
        str(tmp_path),
        "--tasks",
        "local_gsm8k",
        "--limit",
        "2",
        "--log_samples",
    ]
    main([*asked, "--model", "kick", "--model_args", "pretrained=smoke", "--output_path", str(out)])
    (file,) = out.rglob("results_*.json")
    assert json.loads(file.read_text())["results"]["gsm8k"]["exact_match,strict-match"] == 0
    (samples,) = out.rglob("samples_gsm8k_*.jsonl")
    answers = {}
    for line in map(json.loads, samples.read_text("utf-8").splitlines()):
        answers[line["doc"]["question"]] = line["resps"][0][0]
    with (GSM8K / "test.jsonl").open() as lines:
        assert set(answers) == {
            json.loads(line)["question"] for line, _ in zip(lines, range(2), strict=False)
        }
    assert all(answers.values())


def test_unknown_model_args_are_refused():
    with pytest.raises(KickError, match="quantize"):
        KickLM("smoke", quantize=True)


def test_a_model_without_its_tokenizer_is_refused(models):
    with pytest.raises(KickError, match="without its tokenizer"):
        KickLM(models("llama"))


def test_chat_templates(models, tokenizer):
    lm = KickLM(models("llama"), tokenizer)
    assert lm.chat_template(False) is None
    assert lm.chat_template(True) == tokenizer.chat_template
    history = [{"role": "user", "content": "hi"}]
    assert lm.apply_chat_template(history).endswith("assistant\n")
    assert lm.apply_chat_template(history, add_generation_prompt=False).rstrip().endswith("hi")
