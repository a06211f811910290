"""The size that a result states is that of the files which are written, counted before any is."""

import json
import struct

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from kick.compress import canonical, compress
from kick.compress.calibrate import corpus
from kick.compress.checkpoint import save
from kick.compress.context import Calibration
from kick.compress.streamed.compress import compress_checkpoint
from kick.model import load, resolve
from kick.model.shipped import as_loaded, weight_files
from kick.records import CalibrationSpec
from tests.support.architectures import VOCABULARY, sequences, tiny


@pytest.fixture(scope="module")
def tokenizer():
    words = WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words))


def tensors(folder):
    """Bytes of the tensors in a folder's weight files, without their headers."""
    size = 0
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            (header,) = struct.unpack("<Q", stream.read(8))
            entries = json.loads(stream.read(header))
        size += sum(e["data_offsets"][1] - e["data_offsets"][0] for n, e in entries.items() if n[0] != "_")
    return size


RECIPES = {
    "wanda": ("dense", [("wanda", {"sparsity": 0.5})]),
    "rtn 4": ("compressed-tensors pack-quantized, 4 bits", [("rtn", {"bits": 4, "group_size": 8})]),
    "rtn 3": (
        "compressed-tensors pack-quantized, 3 bits",
        [("rtn", {"bits": 3, "group_size": -1, "symmetric": True})],
    ),
    "both": (
        "compressed-tensors pack-quantized, 8 bits",
        [("magnitude", {"sparsity": 0.5}), ("rtn", {"bits": 8, "group_size": 8})],
    ),
    "hqq": ("dense, quantized weights stored dequantized", [("hqq", {"bits": 4, "group_size": 8})]),
    "last-n": ("dense", [("last-n", {"layers": 1})]),
    "eora": (
        "dense, side branches merged into the weights",
        [("rtn", {"bits": 4, "group_size": 8}), ("eora", {"rank": 2})],
    ),
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_size_stated_is_that_of_the_checkpoint(name, kind, tmp_path, tokenizer):
    expected, steps = RECIPES[name]
    model, calibration = tiny(kind), Calibration(tuple(sequences()))
    report = compress(model, [canonical(method, options) for method, options in steps], calibration)
    save(model, tokenizer, calibration, report, tmp_path / "out")
    assert report["footprint"]["shipped_bytes"] == tensors(tmp_path / "out")
    if kind == "llama":
        assert report["footprint"]["shipped_as"] == expected


@pytest.mark.parametrize("name", ["wanda", "rtn 4"])
def test_a_bfloat16_checkpoint_measured_in_float32_is_written_in_bfloat16(
    name, tmp_path, tokenizer, monkeypatch
):
    monkeypatch.setattr(corpus, "sequences", lambda *_: sequences())
    tiny("llama").to(torch.bfloat16).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    model, _ = load(resolve(str(tmp_path / "model")))
    (file,) = weight_files(tmp_path / "model")
    assert as_loaded(model) == {"shipped_bytes": file.stat().st_size, "shipped_as": "the safetensors file"}
    steps = [canonical(method, options) for method, options in RECIPES[name][1]]
    report = compress(model, steps, Calibration(tuple(sequences())))
    spec = CalibrationSpec("kick_mini_calibration", 4, 24, 0)
    compress_checkpoint(str(tmp_path / "model"), steps, spec, tmp_path / "out")
    assert report["footprint"]["shipped_bytes"] == tensors(tmp_path / "out")


def test_what_cannot_be_written_has_no_size():
    report = compress(tiny("llama"), [canonical("llm.int8", {})], ())
    assert report["footprint"]["shipped_bytes"] is None
    assert report["footprint"]["shipped_as"].startswith("no plain checkpoint: activations")


def test_another_copy_of_the_weights_is_not_counted(tmp_path):
    for name in ("model-00001-of-00002", "model-00002-of-00002", "consolidated"):
        (tmp_path / f"{name}.safetensors").touch()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [file.name[:11] for file in weight_files(tmp_path)] == ["model-00001", "model-00002"]
