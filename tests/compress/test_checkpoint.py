"""What is saved loads with transformers alone, and is as large as it says."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from kick.compress import canonical, compress
from kick.compress.checkpoint import save
from kick.compress.context import Calibration
from kick.compress.grid import Grid
from kick.errors import CellFailed, KickError
from kick.model import bitmap, load, resolve
from kick.model.footprint import Storage, footprint, packed_bits
from tests.compress.test_every_method import REFUSED, recipe
from tests.support.architectures import ARCHITECTURES, VOCABULARY, sequences, tiny

# Why a model that flap made cannot be saved: its config has no place for a bias, or for a head's size
NOT_SAVED = {
    **dict.fromkeys(("qwen3", "mixtral"), "differ"),
    **dict.fromkeys(("opt", "gpt2", "gpt_neox"), "cannot load the checkpoint by its config"),
}


@pytest.fixture(scope="module")
def tokenizer():
    return load(resolve("smoke"))[1]


def saved(model, tokenizer, steps, out):
    calibration = Calibration(tuple(sequences()))
    report = compress(model, steps, calibration)
    return save(model, tokenizer, calibration, report, out), calibration


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("method", ["wanda", "gptq", "last-n", "flap", "eora"])
def test_loads_and_gives_the_same_logits(method, name, tmp_path, tokenizer):
    if name in REFUSED.get(method, ()):
        pytest.skip("the method does not serve this architecture")
    model = tiny(name)
    if method == "flap" and name in NOT_SAVED:
        with pytest.raises(CellFailed, match=NOT_SAVED[name]):
            saved(model, tokenizer, recipe(method), tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return
    before = {key: value.clone() for key, value in model.state_dict().items()}
    manifest, _ = saved(model, tokenizer, recipe(method), tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = sequences(1, 20, seed=8)[0]
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits, rtol=1e-3, atol=1e-3)
    linear_only = name not in ("gpt2", "mixtral", "mamba")
    packed = manifest["format"] == "compressed-tensors pack-quantized"
    assert packed == (method == "gptq" and linear_only)
    assert manifest == json.loads((tmp_path / "out" / "kick" / "manifest.json").read_text())
    assert before.keys() <= set(model.state_dict()) or method == "last-n"


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [-1, 8])
def test_packed_weights_are_the_simulated_ones(bits, symmetric, group_size, tmp_path, tokenizer):
    model = tiny("llama")
    step = canonical("rtn", {"bits": bits, "symmetric": symmetric, "group_size": group_size})
    manifest, _ = saved(model, tokenizer, [step], tmp_path / "out")
    assert manifest["logit_difference"] == 0.0
    assert manifest["bytes"]["model.safetensors"] < manifest["footprint"]["stored_bytes"]


def test_each_matrix_is_quantized_once_to_be_packed(tmp_path, tokenizer, monkeypatch):
    calls, quantize = [], Grid.quantize
    monkeypatch.setattr(Grid, "quantize", lambda *args: calls.append(args) or quantize(*args))
    saved(tiny("llama"), tokenizer, [canonical("rtn", {"bits": 4})], tmp_path / "out")
    assert len(calls) == 3 * 7


def test_masks_are_kept_beside(tmp_path, tokenizer):
    model = tiny("llama")
    steps = [canonical("wanda", {"sparsity": 0.5}), canonical("gptq", {"bits": 4, "group_size": 8})]
    manifest, calibration = saved(model, tokenizer, steps, tmp_path / "out")
    assert manifest["format"].startswith("compressed-tensors")
    stored = load_file(tmp_path / "out" / "kick" / "masks.safetensors")
    assert set(stored) == set(calibration.masks)
    for name, kept in calibration.masks.items():
        bits = np.unpackbits(stored[name].numpy(), axis=1, count=kept.shape[1])
        assert np.array_equal(bits.astype(bool), kept.numpy())


def test_a_folder_in_use_is_left_alone(tmp_path, tokenizer):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(KickError, match="there already"):
        saved(tiny("llama"), tokenizer, recipe("rtn"), tmp_path)
    assert (tmp_path / "file").read_text() == "mine"


def test_rounded_activations_are_no_checkpoint(tmp_path, tokenizer):
    with pytest.raises(KickError, match="not a plain checkpoint"):
        saved(tiny("llama"), tokenizer, recipe("smoothquant"), tmp_path / "out")


# ------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_bitmap_comes_back_bit_identical(dtype, tmp_path):
    weight = torch.randn(37, 53, generator=torch.Generator().manual_seed(0)).to(dtype)
    weight[weight.abs() < 0.7] = 0
    weight[0, 0], weight[0, 1] = -0.0, float("nan")
    tensors = {"block.weight": weight, "dense": torch.randn(5), "zeros": torch.zeros(64, dtype=dtype)}
    rate = bitmap.measure(tensors, tmp_path / "bitmap.safetensors")
    assert rate.write_mb_s > 0
    assert rate.read_mb_s > 0
    save_file(tensors, tmp_path / "dense.safetensors")
    bits, values = bitmap.pack(weight)
    assert bits.numel() == -(-weight.numel() // 8)
    assert values.numel() == int(
        (weight.view(torch.int16 if dtype != torch.float32 else torch.int32) != 0).sum()
    )


def test_bitmap_of_a_pruned_model_is_as_large_as_footprint_says(tmp_path):
    model = tiny("llama")
    report = compress(model, [canonical("magnitude", {"sparsity": 0.75})], [])
    weights = {f"{i}": p.data for i, p in enumerate(model.model.layers.parameters()) if p.ndim == 2}
    bitmap.write(weights, tmp_path / "file.safetensors")
    stored = load_file(tmp_path / "file.safetensors")
    size = sum(tensor.nbytes for name, tensor in stored.items() if not name.endswith(".shape"))
    count = report["footprint"]["linear_parameters"]
    assert size == count // 8 + 4 * count // 4  # a bit each, and four bytes for each that is kept
    assert report["footprint"]["packed_linear_bytes"] == count // 8 + 2 * count // 4  # at 16 bits


@pytest.mark.parametrize(
    ("zeros", "storage", "bits"),
    [
        (0, Storage(), 16.0),
        (512, Storage(), 9.0),
        (10, Storage(), 16.0),
        (512, Storage(n=2, m=4), 9.0),
        (256, Storage(n=1, m=4), 13.0),
        (0, Storage(bits=4.625), 4.625),
        (512, Storage(bits=4.0), 3.0),
        (0, Storage(bits=4.0, shared=0.625), 4.625),
        (512, Storage(bits=4.0, shared=0.625), 3.625),  # scales are there however many weights are pruned
        (512, Storage(bits=4.0, shared=0.625, n=2, m=4), 3.625),
    ],
)
def test_bits_by_hand(zeros, storage, bits):
    assert packed_bits(1024, zeros, storage) == bits * 1024


def test_footprint_of_a_dense_model_counts_tied_weights_once():
    model = tiny("llama")
    size = footprint(model)
    assert size["parameters"] == sum(p.numel() for p in model.parameters())
    assert size["stored_bytes"] == 4 * size["parameters"]
    assert size["packed_bytes"] == 2 * size["parameters"]
    assert size["bits_per_weight"] == 16


def test_a_packed_checkpoint_is_a_model_like_any_other(tmp_path):
    """Saved, resolved as a folder, loaded: the same logits, its bits counted, open to more compression."""
    model = tiny("llama")
    words = WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words))  # no id beyond the embedding
    step = canonical("rtn", {"bits": 4, "group_size": 8})
    manifest, _ = saved(model, tokenizer, [step], tmp_path / "out")
    again, _ = load(resolve(str(tmp_path / "out")))
    ids = sequences(1, 20, seed=8)[0]
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)
    assert footprint(again)["bits_per_weight"] == manifest["footprint"]["bits_per_weight"] == 4 + 20 / 8
    assert set(again.state_dict()) == set(model.state_dict())
    compress(again, [canonical("wanda", {"sparsity": 0.5})], sequences())
