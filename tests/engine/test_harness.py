"""lm-eval's own command line with the engine as its model."""

from __future__ import annotations

import json
import sys
from functools import partial

import lm_eval.tasks
import pytest

from kick.engine.harness import KickLM, main
from kick.records import KickError


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


def test_unknown_model_args_are_refused():
    with pytest.raises(KickError, match="quantize"):
        KickLM("smoke", quantize=True)


def test_chat_templates(models, tokenizer):
    lm = KickLM(models("llama"), tokenizer)
    assert lm.chat_template(False) is None
    assert lm.chat_template(True) == tokenizer.chat_template
    history = [{"role": "user", "content": "hi"}]
    assert lm.apply_chat_template(history).endswith("assistant\n")
    assert lm.apply_chat_template(history, add_generation_prompt=False).rstrip().endswith("hi")
