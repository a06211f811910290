"""The steps `llmcompressor` and `autoround`, really carried out: by this environment's own Python."""

import sys

import pytest
import torch

import kick
from kick.compress import elsewhere
from kick.sweep.run import RunOptions

pytestmark = [pytest.mark.interop, pytest.mark.timeout(1800)]
RECIPE = """
quant_stage:
  quant_modifiers:
    GPTQModifier:
      scheme: W4A16
      targets: ['Linear']
      ignore: ['lm_head']
"""
STEPS = elsewhere.MAKER.with_name("steps.py")


@pytest.mark.parametrize(
    ("package", "step", "bits"),
    [
        ("llmcompressor", {"method": "llmcompressor", "recipe_file": "recipe.yaml"}, 4 + 16 / 128),
        ("auto_round", {"method": "autoround", "bits": 4, "group_size": 32, "iters": 1}, 4 + 16 / 32),
    ],
)
def test_a_step_of_a_matrix(package, step, bits, base, tmp_path, monkeypatch):
    pytest.importorskip(package)
    monkeypatch.setenv(elsewhere.VARIABLE, sys.executable)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    matrix = {
        "name": "steps", "model": str(base), "tasks": ["kick_mini_mcq"], "limit": 2, "replicas": [],
        "calibration": {"corpus": "kick_mini_calibration", "sequences": 4, "length": 64},
        "variants": [step],
    }  # fmt: skip
    options = RunOptions(executor="inline")
    ran = kick.run(matrix, out=tmp_path / "results", options=options, plugins=[str(STEPS)])
    assert (ran.done, ran.failed) == (2, 0), ran.failures()
    made = kick.compress_model(
        str(base), step, calibration=[torch.arange(3, 67)[None]] * 4, plugins=[str(STEPS)]
    )
    assert made.report["footprint"]["bits_per_weight"] == pytest.approx(bits, rel=0.01)
