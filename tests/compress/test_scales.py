"""Scales of packed weights are stored in half precision, and the weights that load are theirs."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from kick.compress import canonical, compress
from kick.compress.calibrate import corpus
from kick.compress.context import Calibration
from kick.compress.single import compress_model
from kick.compress.streamed.compress import compress_checkpoint
from kick.errors import CellFailed
from kick.model import load, resolve
from kick.model.footprint import footprint
from kick.records import CalibrationSpec
from tests.compress.test_streamed import stored
from tests.support.architectures import sequences, tiny

SPEC = CalibrationSpec("kick_mini_calibration", 4, 24, 0)
RECIPES = {
    "rtn": [canonical("rtn", {"bits": 4, "group_size": 8})],
    "gptq": [canonical("gptq", {"bits": 4, "group_size": 8})],
    "rtn 8": [canonical("rtn", {"bits": 8, "group_size": 16})],
}


@pytest.fixture(autouse=True)
def tokens(monkeypatch):
    monkeypatch.setattr(corpus, "sequences", lambda *_: sequences())


@pytest.mark.parametrize(
    ("own", "asked", "scales"),
    [
        (torch.float32, None, torch.float16),
        (torch.float32, "float32", torch.float32),
        (torch.float32, "bfloat16", torch.bfloat16),
        (torch.bfloat16, None, torch.bfloat16),
        (torch.float16, None, torch.float16),
        (torch.bfloat16, "float32", torch.float32),
    ],
)
def test_scales_have_the_models_half_type(own, asked, scales, tmp_path):
    folder = stored(tiny("llama"), tmp_path / "model", own)
    manifest = compress_checkpoint(str(folder), RECIPES["rtn"], SPEC, tmp_path / "out", dtype=asked)
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    rest = own if asked is None else getattr(torch, asked)
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            assert tensor.dtype == (scales if name.endswith("_scale") else rest), name
    assert manifest["scales"] == str(scales).removeprefix("torch.")
    assert manifest == json.loads((tmp_path / "out" / "kick" / "manifest.json").read_text())
    assert f"scales {manifest['scales']}" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_the_file_has_the_bits_per_weight_that_the_footprint_promises(method, symmetric, tmp_path):
    folder = stored(tiny("llama"), tmp_path / "model")
    steps = [canonical(method, {"bits": 4, "group_size": 8, "symmetric": symmetric})]
    manifest = compress_checkpoint(str(folder), steps, SPEC, tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    kinds = ("_packed", "_scale", "_zero_point")
    size = sum(one.nbytes for name, one in tensors.items() if name.endswith(kinds))
    facts = manifest["footprint"]
    assert (
        8 * size / facts["linear_parameters"]
        == facts["bits_per_weight"]
        == 4 + (16 + 4 * (not symmetric)) / 8
    )


@pytest.mark.parametrize("recipe", RECIPES)
def test_loaded_are_the_codes_times_the_rounded_scales(recipe, tmp_path):
    """By transformers and by kick, bit for bit; the codes are those that were computed with exact scales."""
    folder = stored(tiny("llama"), tmp_path / "model")
    compress_checkpoint(str(folder), RECIPES[recipe], SPEC, tmp_path / "out")
    computed, calibration = tiny("llama"), Calibration(tuple(sequences()))
    compress(computed, RECIPES[recipe], calibration)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    ours, _ = load(resolve(str(tmp_path / "out")))
    ids = sequences(1, 20, seed=8)[0]
    changed = 0.0
    for name, made in calibration.formats.items():
        exact = computed.get_submodule(name).weight
        step, zero = made.scale.scale, made.scale.zero
        codes = (exact.unflatten(1, (step.shape[1], -1)) / step[..., None]).round() + zero[..., None]
        expected = ((codes - zero[..., None]) * step.half().float()[..., None]).flatten(1)
        assert torch.equal(ours.get_submodule(name).weight, expected), name
        changed = max(changed, float(((expected - exact).abs() / exact.abs().clamp_min(1e-12)).max()))
    assert 0 < changed < 2**-10.9  # of each weight: half a unit in the last place of float16, 2^-11
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, ours(ids).logits)
    assert footprint(ours)["bits_per_weight"] == footprint_of(calibration, computed)


def footprint_of(calibration, model):
    from kick.compress import storages

    return footprint(model, storages(calibration))["bits_per_weight"]


def test_the_model_in_memory_is_the_one_that_was_saved(tmp_path):
    made = compress_model(tiny("llama"), RECIPES["rtn"], sequences())
    with pytest.raises(Exception, match="needs a tokenizer"):
        made.save(tmp_path / "out")
    folder = stored(tiny("llama"), tmp_path / "model")
    made = compress_model(str(folder), RECIPES["rtn"], sequences(), out=tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    ids = sequences(1, 20, seed=8)[0]
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, made.model(ids).logits)
    assert made.manifest["logit_difference"] == 0
    assert made.manifest["scales"] == "float16"


def test_eight_bits_in_bfloat16_have_the_same_codes_either_way(tmp_path):
    """Weights of bfloat16 do not tell their codes: 255 steps away from zero they are a step apart."""
    folder = stored(tiny("llama"), tmp_path / "model", torch.bfloat16)
    compress_checkpoint(str(folder), RECIPES["rtn 8"], SPEC, tmp_path / "out")
    compress_model(str(folder), RECIPES["rtn 8"], (), out=tmp_path / "memory", dtype="bfloat16")
    one, other = (load_file(tmp_path / way / "model.safetensors") for way in ("out", "memory"))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("factor", [1e-6, 1e8])
def test_scales_that_float16_cannot_hold_are_refused(factor, tmp_path):
    model = tiny("llama")
    model.model.layers[1].mlp.up_proj.weight[3] *= factor
    folder = stored(model, tmp_path / "model")
    with pytest.raises(CellFailed, match=r"layers\.1\.mlp\.up_proj: its scales.*float16.*float32 fits"):
        compress_checkpoint(str(folder), RECIPES["rtn"], SPEC, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    made = compress_checkpoint(str(folder), RECIPES["rtn"], SPEC, tmp_path / "out", dtype="float32")
    assert made["scales"] == "float32"
