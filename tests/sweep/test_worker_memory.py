"""A worker holds a model's weights once while it answers, and gives back what a job has left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kick.model import smoke

MATRIX = """
name: memory
model: {model}
tasks: [kick_mini_mcq]
limit: 4
engine: {{name: packed, batch_tokens: 64}}
variants: [dense]
"""
PROGRAM = """
import json, sys
from kick.store import Store
from kick.sweep.run import RunOptions, prepare, worker

def resident():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024

found = {}
for path in sys.argv[1:]:  # the first is there for what is imported and kept with any job
    planned, store = prepare(path, RunOptions(out=path + ".results"))
    work = worker(planned, store, RunOptions(), [])
    for job in planned.jobs:
        before = resident()
        work(job)
        found[job.variant.name] = store.result(job.cells[0].key).peak_memory - before
print(json.dumps(found))
"""


def _save(folder: Path) -> int:
    """Write a model of 68 MB with random weights; its bytes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    smoke.make(folder)
    config = LlamaConfig.from_pretrained(folder)
    config.update(
        {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 5, "num_attention_heads": 8,
         "num_key_value_heads": 8, "head_dim": 64, "initializer_range": 0.02}
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return (folder / "model.safetensors").stat().st_size


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux says what a process's peak is")
def test_a_job_holds_its_weights_once(tmp_path):
    size = _save(tmp_path / "model")
    for name, model in (("small.yaml", "smoke"), ("large.yaml", tmp_path / "model")):
        (tmp_path / name).write_text(MATRIX.format(model=model))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    paths = [str(tmp_path / "small.yaml"), str(tmp_path / "large.yaml")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *paths], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    # as mapped and packed, with nothing given back, dense took 2.2 times its size
    assert found["dense"] < 1.6 * size, found
