"""Steps that another library carries out in its own Python: what is handed over, and what is taken back."""

import json
import os
import stat
import sys
from pathlib import Path

import pytest
import torch

from kick import plugins, registry
from kick.compress import canonical, compress, elsewhere
from kick.compress.context import Calibration
from kick.errors import CellFailed, KickError
from tests.support.architectures import sequences, tiny

STEPS = Path(elsewhere.__file__).with_name("steps.py")
STAND_IN = """#!{python}
import json, sys, pathlib
if sys.argv[2] == "-c":
    print("1.2.3")
    raise SystemExit("auto-round" in sys.argv[3])
from safetensors.numpy import load_file, save_file  # numpy starts in a tenth of the time of torch
job = json.loads(pathlib.Path(sys.argv[4]).read_text())
pathlib.Path({kept!r}).write_text(json.dumps(job))
if job["options"]["recipe"] == "fails":
    print("a warning", file=sys.stderr)
    raise SystemExit("no such modifier")
base, out = pathlib.Path(job["model"]), pathlib.Path(job["out"])
out.mkdir()
weights = {{name: weight.copy() for name, weight in load_file(base / "model.safetensors").items()}}
for name, weight in weights.items():
    if name.endswith("up_proj.weight") and job["options"]["recipe"] == "halve":
        weight[:, ::2] = 0
save_file(weights, out / "model.safetensors", metadata={{"format": "pt"}})
for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
    (out / name).write_bytes((base / name).read_bytes())
if job["options"]["recipe"] == "lost":
    (out / "config.json").unlink()
(out / "made.json").write_text(json.dumps({{"versions": {{"llmcompressor": "1.2.3"}}, "cpu_seconds": 0.5}}))
"""


@pytest.fixture
def loaded():
    """The methods in the table, as `--plugins` puts them there."""
    plugins.load([STEPS])
    yield
    for name in [*sys.modules]:
        if name.startswith(plugins.PREFIX):
            registry.forget(name)
            del sys.modules[name]


@pytest.fixture
def python(tmp_path, monkeypatch):
    """A Python that says it has llm-compressor, and prunes half of each up projection."""
    file = tmp_path / "python"
    file.write_text(STAND_IN.format(python=sys.executable, kept=str(tmp_path / "job.json")))
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv(elsewhere.VARIABLE, str(file))
    return file


def test_without_its_python_it_is_refused_before_a_model_is_loaded(loaded, monkeypatch, tmp_path):
    monkeypatch.delenv(elsewhere.VARIABLE, raising=False)
    with pytest.raises(KickError, match=r"set KICK_LLMCOMPRESSOR_PYTHON to the python .* llmcompressor"):
        canonical("llmcompressor", {"recipe": "x"})
    monkeypatch.setenv(elsewhere.VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(KickError, match="nowhere: not a python that runs"):
        canonical("autoround", {"bits": 4})


def test_a_python_without_the_package_is_refused(loaded, python):
    with pytest.raises(KickError, match="does not have the package auto-round"):
        canonical("autoround", {"bits": 4})


def test_the_recipes_text_and_the_version_count(loaded, python, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("stage: {}\n")
    step = canonical("llmcompressor", {"recipe_file": str(file)})
    assert step.options == {"recipe": "stage: {}\n", "library": "1.2.3"}
    with pytest.raises(KickError, match="both recipe and recipe_file"):
        canonical("llmcompressor", {"recipe_file": str(file), "recipe": "x"})
    with pytest.raises(KickError, match=r"missing\.yaml cannot be read"):
        canonical("llmcompressor", {"recipe_file": str(tmp_path / "missing.yaml")})


def test_the_same_tokens_are_handed_over_and_the_weights_taken_back(loaded, python, tmp_path):
    model, calibration = tiny("llama"), Calibration(tuple(sequences()))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step = canonical("llmcompressor", {"recipe": "halve"})
    report = compress(model, [step], calibration)
    job = json.loads((tmp_path / "job.json").read_text())
    assert job["tokens"] == [one[0].tolist() for one in sequences()]
    assert job["options"] == {"recipe": "halve"}
    assert not os.path.exists(job["model"])
    for name, value in model.state_dict().items():
        expected = before[name]
        if name.endswith("up_proj.weight"):
            expected[:, ::2] = 0
        assert torch.equal(value, expected), name
    pruned = sum(m.mlp.up_proj.weight.numel() // 2 for m in model.model.layers)
    assert report["steps"][0]["pruned"] == pruned
    assert report["notes"][0]["versions"] == {"llmcompressor": "1.2.3"}


def test_its_last_line_is_the_cause_of_a_failure(loaded, python):
    with pytest.raises(CellFailed, match="llmcompressor failed with exit status 1: no such modifier"):
        compress(tiny("llama"), [canonical("llmcompressor", {"recipe": "fails"})], sequences())


def test_a_recipe_that_changes_nothing_is_a_failure(loaded, python):
    with pytest.raises(CellFailed, match="llmcompressor changed no weight"):
        compress(tiny("llama"), [canonical("llmcompressor", {"recipe": "nothing"})], sequences())


def test_a_result_without_a_checkpoint_is_a_failure(loaded, python):
    with pytest.raises(CellFailed, match="has no checkpoint in it"):
        compress(tiny("llama"), [canonical("llmcompressor", {"recipe": "lost"})], sequences())
