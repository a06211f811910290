"""Peak memory that `kick plan` predicts: the sums, and what processes are measured to take."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kick import api
from kick.matrix import memory
from kick.matrix.backward import KEPT, Backward
from kick.matrix.memory import JobWork
from kick.matrix.shapes import Shape
from kick.matrix.training import Training
from kick.model import heap
from kick.records import Step
from kick.sweep.run import RunOptions

ROOT = Path(__file__).parents[2]
SHAPE = Shape(
    parameters=1000, block=100, widest=8, hidden=4, vocabulary=50, stored=2000, largest=40, blocks=9, cached=6
)
DENSE = JobWork({"mcq": 3}, {"mcq": "multiple_choice"}, batch_tokens=10)
WANDA = JobWork(
    {"mcq": 3},
    {"mcq": "multiple_choice"},
    calibrated=1,
    sequences=2,
    length=5,
    batch_tokens=10,
    blockwise=True,
)
FORWARD = 10 * 4 * (8 * 4 + 2 * 8) + memory.LOGITS


def test_in_memory_is_weights_and_the_largest_of_loading_compressing_answering():
    answering = 4 * 50 * 4 + FORWARD
    assert memory.in_memory(SHAPE, "float32", DENSE) == memory.LIBRARIES + 4000 + answering
    one = JobWork({}, {}, batch_tokens=1, calibrated=1, sequences=10**6, length=10)
    states = 2 * 10**7 * 4 * 4
    compressing = states + 2 * 4 * 40 + 4 * 100
    assert memory.in_memory(SHAPE, "float32", one) == memory.LIBRARIES + 4000 + compressing
    same = Shape(**{**vars(SHAPE), "stored": 4000})
    mapped = memory.LIBRARIES + 4000 + FORWARD
    assert memory.in_memory(same, "float32", DENSE) == mapped, "the embedding stays in the file"
    file = Shape(10**9, 100, 8, 4, 50, stored=2 * 10**9)
    assert memory.in_memory(file, "float32", DENSE) == memory.LIBRARIES + 6 * 10**9, "read as bfloat16"
    generates = JobWork({"qa": 100}, {"qa": "generate_until"}, batch_tokens=10)
    cache = (64 * 150 + 10) * 9 * 6 * 4 + heap.SLACK
    assert memory.HEAP == heap.SLACK
    assert memory.in_memory(SHAPE, "float32", generates) == memory.LIBRARIES + 4000 + answering + cache


def test_layered_is_a_block_and_the_states_of_every_variant_or_the_head():
    evaluated = 4 * 300 * 4 * 4
    states, solving = 2 * 10 * 4 * 4, 2 * 4 * 40
    block = 100 * (4 + 4 + 1) + 40 * 2 + solving + FORWARD - memory.LOGITS
    shape = Shape(1000, 10**8, 8, 4, 50, stored=2000, largest=40)
    large = block + (10**8 - 100) * 9
    for variants in (1, 3):
        copies = (variants + 3) * (evaluated // 4)  # of one variant at a time there are four
        wanted = memory.LIBRARIES + large + copies + variants * states
        assert memory.layered(shape, "float32", WANDA, variants=variants) == wanted
    budget = evaluated + states + 1
    assert memory.layered(shape, "float32", WANDA, budget, 3) == memory.LIBRARIES + large + budget
    wide = Shape(1000, 100, 8, 4, 10**7, stored=2000, largest=40)
    head = 4 * 10**7 * 4 + 4096 * 4 * (4 + 2) + memory.LOGITS + evaluated // 4
    assert memory.layered(wide, "float32", WANDA) == memory.LIBRARIES + head
    three = head + 2 * (evaluated // 4)
    assert memory.layered(wide, "float32", WANDA, variants=3) == memory.LIBRARIES + three
    one_pass = head + (2 * evaluated) // 4 - evaluated // 4
    assert memory.layered(wide, "float32", WANDA, 2 * evaluated, 3) == memory.LIBRARIES + one_pass


def test_a_hessian_is_counted_for_methods_that_factorise_one():
    shape = Shape(10**6, 10**8, 1000, 4, 50, stored=4 * 10**6)
    solves = JobWork(**{**vars(WANDA), "solves": True})
    assert memory.compressing(shape, solves) - memory.compressing(shape, WANDA) == 12 * 10**6
    offloaded = JobWork(**{**vars(WANDA), "offload": True})
    assert memory.compressing(shape, WANDA) - memory.compressing(shape, offloaded) == 2 * 10 * 4 * 4


def test_of_large_experts_one_matrix_is_counted_and_masks_as_bits():
    size = Shape(10**9, 10**9 + 100, 8, 4, 50, stored=2 * 10**9, largest=10**6, experts=10**9)
    block = (100 + 2 * 10**6) * 8 + (10**9 + 100) // 8 + 2 * 10**6
    states, solving = 2 * 10 * 4 * 4, 2 * 4 * 10**6
    wanted = memory.LIBRARIES + block + 4 * 300 * 4 * 4 + states + solving + FORWARD - memory.LOGITS
    assert memory.layered(size, "float32", WANDA) == wanted
    small = Shape(10**9, 10**9 + 100, 8, 4, 50, stored=2 * 10**9, largest=10**6, experts=10**8)
    assert memory.layered(small, "float32", WANDA) > 8 * 10**9


# ------------------------------------------------------------------------------ measured

MATRIX = """
name: m
model: {model}
tasks: [kick_mini_mcq, kick_mini_perplexity]
limit: {{kick_mini_mcq: 40, kick_mini_perplexity: 4}}
calibration: {{corpus: kick_mini_calibration, sequences: 4, length: 128}}
variants:
  - {{method: wanda, sparsity: 0.5}}
  - {{method: gptq, bits: 4, group_size: 128}}
replicas: []
engine: {{name: {engine}}}
"""


GRADIENTS_OF_ALL = """
name: m
model: {model}
tasks: [kick_mini_mcq]
limit: {{kick_mini_mcq: 8}}
calibration: {{corpus: kick_mini_calibration, sequences: 2, length: 512}}
variants:
  - {{method: [gblm, d-pruner], sparsity: 0.5}}
  - {{method: [llm-pruner, loraprune], share: 0.2}}
replicas: []
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A checkpoint of 94 million parameters in bfloat16."""
    sys.path.insert(0, str(ROOT))
    from benchmarks import memory_models

    shape = memory_models.Shape(8, 768, 2048, 12, 12)
    return memory_models.make(shape, tmp_path_factory.mktemp("model"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("engine", ["packed", "layered"])
def test_a_workers_peak_is_predicted_within_a_fifth(engine, model, tmp_path):
    compare(MATRIX.format(model=model, engine=engine), tmp_path, cells=6)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_workers_peak_with_gradients_is_predicted_within_a_fifth(model, tmp_path):
    compare(GRADIENTS_OF_ALL.format(model=model), tmp_path, cells=5)


def compare(text: str, tmp_path: Path, cells: int) -> None:
    """Run a matrix by one worker; each cell's peak must be that of the plan within a fifth."""
    planned = api.plan(text, out=str(tmp_path))
    file = tmp_path / "m.yaml"
    file.write_text(text)
    command = [sys.executable, "-m", "kick.cli", "run", str(file), "--out", str(tmp_path), "--workers", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    runs = [json.loads(one.read_text()) for one in tmp_path.glob("m/*/run.json")]
    assert len(runs) == cells
    measured = [(run["cell"]["variant"]["name"], run["peak_memory"]) for run in runs]
    found = [(*one, planned.estimates[one[0]].memory) for one in measured]
    assert not [one for one in found if one[2] != pytest.approx(one[1], rel=0.2)]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("variant", "options"),
    [
        ("wanda-0.5", ("--method", "wanda", "--sparsity", "0.5")),
        ("gptq-4bit-g128", ("--method", "gptq", "--bits", "4", "--group_size", "128")),
    ],
)
def test_the_peak_of_kick_compress_is_predicted_within_a_fifth(variant, options, model, tmp_path):
    from benchmarks.memory import measured

    planned = api.plan(MATRIX.format(model=model, engine="packed"), options=RunOptions(out=str(tmp_path)))
    small = ("--sequences", "4", "--length", "128", "--out", str(tmp_path / "out"))
    found = measured(("compress", str(model), *options, *small), ROOT)
    assert planned.estimates[variant].compress == pytest.approx(found["peak"], rel=0.2)


SMOL = Shape(
    134_515_008,
    3_540_096,
    1536,
    576,
    49152,
    538_060_032,
    884_736,
    30,
    384,
    False,
    305_280,
    squares=304_128_000,
)


def test_workers_that_generate_are_predicted_within_a_fifth_of_what_was_measured():
    """Peaks of docs/benchmarks.md: jobs of the preset demo, with torch for the CPU and for CUDA."""
    kinds = {"mcq": "multiple_choice", "open": "reading", "facts": "generate_until"}
    predicted = memory.in_memory(SMOL, "float32", JobWork(dict.fromkeys(kinds, 64), kinds))
    for measured in (1.37e9, 1.54e9, 1.56e9):
        assert 0.8 < predicted / measured < 1.2


GRADIENTS = JobWork({}, {}, calibrated=1, sequences=16, length=256, gradients=(Backward(),))


@pytest.mark.parametrize(
    ("way", "measured"),
    [
        (Backward(), 2.10e9),  # adapt-pruner, llm-pruner, each first in its process
        (Backward(), 2.20e9),  # gblm, llm-pruner after other jobs
        (Backward(sums=2), 2.65e9),  # d-pruner
        (Backward(sums=0, rank=8), 1.96e9),  # loraprune
        (Backward(sums=0, curvature=KEPT), 2.92e9),  # llm-surgeon on rows and columns
    ],
)
def test_gradients_take_what_they_took_when_they_were_measured(way, measured):
    """Peaks of docs/benchmarks.md: jobs of SmolLM2-135M by sequences of 256 tokens, torch for the CPU."""
    work = replace(GRADIENTS, gradients=(way,))
    assert memory.in_memory(SMOL, "float32", work) == pytest.approx(measured, rel=0.1)


def test_steps_with_gradients_take_the_largest_of_them():
    few, many = Backward(sums=0, rank=8), Backward(sums=2)
    both = replace(GRADIENTS, gradients=(few, many))
    assert memory.in_memory(SMOL, "float32", both) == memory.in_memory(
        SMOL, "float32", replace(both, gradients=(many,))
    )


def training(**options):
    defaults = {"tokens": 5120, "length": 256, "batch": 1, "recompute": False, "select": "random", "pool": 2}
    return Training.of(Step("recover-x", defaults | options))


def test_training_takes_what_it_took_when_it_was_measured():
    for options, measured in (
        ({"parts": "norms", "rank": 8}, 1.351e9),
        ({"rank": 8}, 1.329e9),  # LoRA
        ({"rank": 8}, 1.55e9),  # MaskLoRA, with masks of half of the weights
        ({"rank": 8, "recompute": True}, 1.184e9),
    ):
        work = JobWork({}, {}, simple=1, training=(training(**options),))
        assert memory.in_memory(SMOL, "float32", work) == pytest.approx(measured, rel=0.2)


KEPT = (4 * 576 + 2 * 192 + 2 * 1536) * 5 // 3  # values of a block, and freed ones between


def test_training_costs_gradients_moments_activations_and_text_that_is_chosen():
    adapters, few, whole = training(rank=8), training(blocks=3), training()
    assert adapters.trained(SMOL) == 8 * 305_280
    assert few.trained(SMOL) == 3 * 3_540_096
    assert whole.memory(SMOL) - few.memory(SMOL) == 27 * (16 * 3_540_096 + 4 * 256 * KEPT)
    again = training(rank=8, recompute=True)
    assert adapters.memory(SMOL) - again.memory(SMOL) == 4 * 256 * 29 * (KEPT - 576)
    assert training(parts="norms").forwards(SMOL) == 2 * 5120 + 32 * 256
    assert adapters.forwards(SMOL) == 3 * 5120 + 32 * 256
    assert few.forwards(SMOL) == pytest.approx(1.2 * 5120 + 32 * 256)
    assert again.forwards(SMOL) == 4 * 5120 + 32 * 256
    assert training(rank=8, search=3, trial=2560).forwards(SMOL) == 3 * (5120 + 7680) + 80 * 256
    assert training(rank=8, select="paser").forwards(SMOL) - adapters.forwards(SMOL) == 2 * 2 * 5120
    dense = 4 * SMOL.parameters
    assert training(parts="norms", select="el2n").memory(SMOL) > dense > training(parts="norms").memory(SMOL)
