"""Kill -9 of a layered matrix at random moments: it ends with what an undisturbed one stores, bit by bit."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.fake_sweep import contents

ROOT = Path(__file__).parents[2]
MATRIX = """
name: m
model: smoke
tasks: [kick_mini_mcq, kick_mini_perplexity]
limit: {kick_mini_mcq: 8, kick_mini_perplexity: 2}
calibration: {corpus: kick_mini_calibration, sequences: 2, length: 48}
variants:
  - {method: wanda, sparsity: [0.3, 0.6]}
  - {method: gptq, bits: 4, group_size: 32}
replicas: []
engine: {name: layered, memory: 100MB}
"""


def started(file, out):
    """A run of the matrix, in a process of its own."""
    command = [sys.executable, "-m", "kick.cli", "run", str(file), "--out", str(out), "--executor", "inline"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def killed(folder, kills, chance):
    """What is stored undisturbed, and by a matrix that was killed so often within its run."""
    file = folder / "m.yaml"
    file.write_text(MATRIX)
    start = time.monotonic()
    assert started(file, folder / "whole").wait() == 0
    took = time.monotonic() - start
    for number in range(kills):
        process = started(file, folder / f"killed-{number // 3}")
        time.sleep(chance.uniform(0.3, 1.0) * took)
        process.kill()
        process.wait()
    sweeps = range(-(-kills // 3))
    for number in sweeps:
        assert started(file, folder / f"killed-{number}").wait() == 0
    return contents(folder / "whole", "m"), [contents(folder / f"killed-{one}", "m") for one in sweeps]


@pytest.mark.slow
def test_killed_once_or_twice(tmp_path):
    whole, others = killed(tmp_path, 2, random.Random(int.from_bytes(os.urandom(4))))
    assert len(whole) == 2 * 8
    assert others == [whole]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_killed_at_many_moments(tmp_path):
    whole, others = killed(tmp_path, 60, random.Random(16))
    assert all(other == whole for other in others)
