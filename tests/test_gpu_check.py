"""`make gpu-check`: its parts on a CPU, and what it says where there is no GPU."""

import argparse
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import kick
from kick.model import load, resolve
from kick.sweep.run import RunOptions

ROOT = Path(__file__).parents[1]
SMALL = """
name: several
model: {model}
tasks: [kick_mini_mcq]
limit: 2
variants:
  - {{method: rtn, bits: 8, group_size: 32}}
replicas: []
"""


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def gpu_check():
    return script("gpu_check")


def given(page, **options):
    plain = {"device": "cpu", "model": "smoke", "demo": "smoke", "items": 2, "length": 32, "page": page}
    return argparse.Namespace(**plain | options)


@pytest.fixture
def page(tmp_path):
    file = tmp_path / "gpu.md"
    file.write_text((ROOT / "docs/gpu.md").read_text("utf-8"), "utf-8")
    return file


def test_without_a_gpu_it_says_so_in_one_line(gpu_check, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_check.py"])
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("something was run"))
    assert gpu_check.main() == 2
    assert re.fullmatch(r"make gpu-check needs a CUDA GPU;[^\n]*\n", capsys.readouterr().err)


def test_all_parts_together_stay_below_eight_minutes(gpu_check):
    assert sum(gpu_check.LIMITS.values()) < 480


def test_the_benchmarks_run_on_a_cpu(monkeypatch):
    bench = script("gpu_bench")
    monkeypatch.setattr(bench, "STEPS", {"Wanda 50 %": bench.STEPS["Wanda 50 %"]})
    model, tokenizer = load(resolve("smoke"))
    lines = bench.compression(model, tokenizer, "cpu", 32) + bench.engine(model, tokenizer, "cpu", 2)
    assert len(lines) == len(bench.STEPS) + 4
    assert all(line["seconds"] > 0 and line["peak"] is None for line in lines)


@pytest.fixture
def in_process(gpu_check, monkeypatch):
    """Runs matrices in this process; the other parts answer as they would. Returns what was asked for."""
    asked = []
    bench = {"compression": [{"work": "Wanda", "device": "cpu", "seconds": 1.0, "peak": 2e9}], "engine": []}

    def run(title, words, environment, limit):
        asked.append((title, environment.get("CUDA_VISIBLE_DEVICES")))
        if words[:3] == ["-m", "kick.cli", "run"] and words[3] != "smoke":
            kick.run(words[3], out=words[-1], options=RunOptions(executor="inline"))
        output = json.dumps(bench) if title == "benchmarks" else "3 passed"
        return gpu_check.Part(title, 1.0, True, "", output)

    monkeypatch.setattr(gpu_check, "run", run)
    monkeypatch.setattr(gpu_check, "MATRIX", SMALL)
    return asked


def test_the_page_has_every_part_and_scores_of_several_workers_are_compared(gpu_check, in_process, page):
    assert gpu_check.check(given(page), ["0", "1"]) == 0
    assert [title for title, _ in in_process] == [
        "tests/test_cuda.py", "kick run smoke", "a matrix, 1 at a time", "a matrix, 2 at a time",
        "benchmarks",
    ]  # fmt: skip
    text = page.read_text("utf-8")
    assert "| a matrix, 2 at a time | 1 | yes | scores equal; 1.00 times as fast |" in text
    assert "| Wanda | cpu | 1.00 | 2.00 GB |" in text
    assert "Not run yet" not in text
    gpu_check.check(given(page), ["0"])  # one GPU: there is nothing to share, and the page is written anew
    assert page.read_text("utf-8").count("tests/test_cuda.py | 1") == 1
    assert "at a time" not in page.read_text("utf-8").partition(gpu_check.START)[2]


def test_each_worker_is_given_the_gpus_it_may_use(gpu_check, in_process, tmp_path):
    gpu_check.several("smoke", tmp_path, ["4", "7"], "cuda")
    assert [shown for _, shown in in_process] == ["4", "4,7"]


def test_scores_that_differ_fail_the_check(gpu_check):
    one, other = {"k": {"acc": 0.5, "f1": None}}, {"k": {"acc": 0.6, "f1": None}}
    assert gpu_check.different(one, other) == "1 of 1 cells have other scores"
    assert gpu_check.different(one, one) == ""
    assert "1 cells against 0" in gpu_check.different(one, {})


def test_a_part_that_fails_or_does_not_end_is_said(gpu_check):
    failed = gpu_check.run("a part", ["-c", "import sys; sys.exit('no memory')"], {}, 30)
    assert (failed.passed, failed.said) == (False, "status 1: no memory")
    endless = gpu_check.run("a part", ["-c", "import time; time.sleep(60)"], {}, 1)
    assert (endless.passed, endless.said) == (False, "did not end in 1 s")
    text = gpu_check.tables([failed, endless], {}, "cpu")
    assert text.count("**no**") == 2
