"""The bitmap format of a checkpoint gives the checkpoint back byte for byte, and is as small as it can be."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from kick.cli import main
from kick.compress import bitmaps
from kick.errors import Damaged, KickError
from kick.model import bitmap
from tests.support.architectures import tiny


@pytest.fixture
def checkpoint(tmp_path):
    """A tiny model half of whose weights are zero, in two files, with a config and a folder beside."""
    model = tiny("llama").to(torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter[torch.rand(parameter.shape, generator=torch.Generator().manual_seed(0)) < 0.5] = 0
    folder = tmp_path / "dense"
    model.save_pretrained(folder, max_shard_size="40KB")
    (folder / "kick").mkdir()
    (folder / "kick" / "manifest.json").write_text("{}")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


def files(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_what_is_decoded_is_the_checkpoint_byte_for_byte_and_loads(checkpoint, tmp_path):
    made = bitmaps.encode(checkpoint, tmp_path / "bitmap")
    assert not [file for file in (tmp_path / "bitmap").glob("*.safetensors") if ".bitmap." not in file.name]
    assert bitmaps.decode(tmp_path / "bitmap", tmp_path / "again")
    assert files(tmp_path / "again") == files(checkpoint)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert loaded.lm_head.weight.dtype == torch.bfloat16
    for name, sizes in made["files"].items():
        assert sizes["dense"] == (checkpoint / name).stat().st_size
        packed = tmp_path / "bitmap" / name.replace(".safetensors", ".bitmap.safetensors")
        assert sizes["bitmap"] == packed.stat().st_size


def test_it_is_the_format_that_the_reader_of_tensors_knows(checkpoint, tmp_path):
    bitmaps.encode(checkpoint, tmp_path / "bitmap")
    for file in sorted(checkpoint.glob("*.safetensors")):
        own = load_file(file)
        found = bitmap.read(tmp_path / "bitmap" / f"{file.stem}.bitmap.safetensors")
        assert set(found) == set(own)
        parts = load_file(tmp_path / "bitmap" / f"{file.stem}.bitmap.safetensors").values()
        held = sum(part.nbytes for part in parts)
        least = sum(tensor.numel() / 8 + 2 * int(tensor.count_nonzero()) for tensor in own.values())
        assert least <= held <= least + 25 * len(own), (
            "a bit per weight, two bytes per value, shape, alignment"
        )
        for name, tensor in own.items():
            assert torch.equal(found[name].view(torch.int16), tensor.view(torch.int16))


def test_every_type_and_every_bit_pattern_comes_back(tmp_path):
    folder = tmp_path / "dense"
    folder.mkdir()
    values = torch.tensor([0.0, -0.0, float("nan"), 1.5, 0.0, 0.0, 0.0, 0.0, 0.0])
    kinds = (torch.float64, torch.float32, torch.float16)
    tensors = {f"{kind}".split(".")[1]: values.to(kind) for kind in kinds}
    tensors |= {"eight": values.to(torch.float8_e4m3fn), "bits": values.bool(), "none": torch.empty(0, 3)}
    tensors |= {"one": torch.tensor(0.0), "whole": torch.arange(9), "full": torch.ones(3, 3)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    bitmaps.encode(folder, tmp_path / "bitmap")
    bitmaps.decode(tmp_path / "bitmap", tmp_path / "again")
    assert files(tmp_path / "again") == files(folder)
    names = set(load_file(tmp_path / "bitmap" / "model.bitmap.safetensors"))
    assert "full" in names, "it would not get smaller"
    assert "float32.bitmap" in names


def test_a_changed_bit_is_found_and_nothing_is_written(checkpoint, tmp_path):
    bitmaps.encode(checkpoint, tmp_path / "bitmap")
    (file, *_) = sorted((tmp_path / "bitmap").glob("*.safetensors"))
    whole = file.read_bytes()
    for at in (-9, -200):  # the last ones may be there for the sake of alignment
        data = bytearray(whole)
        data[at] ^= 1
        file.write_bytes(bytes(data))
        with pytest.raises(Damaged):
            bitmaps.decode(tmp_path / "bitmap", tmp_path / "again")
        assert sorted(one.name for one in tmp_path.iterdir()) == ["bitmap", "dense"]
    for damaged in (whole[:100], b"", b"\xff" * 64):
        file.write_bytes(damaged)
        with pytest.raises(Damaged, match="not a safetensors file"):
            bitmaps.decode(tmp_path / "bitmap", tmp_path / "again")


def test_wrong_folders_are_told(checkpoint, tmp_path, capsys):
    with pytest.raises(KickError, match="is there already"):
        bitmaps.encode(checkpoint, checkpoint)
    with pytest.raises(KickError, match="holds no safetensors"):
        bitmaps.encode(tmp_path, tmp_path / "out")
    with pytest.raises(SystemExit) as ended:
        main(["decompress", str(checkpoint), "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert "--format bitmap" in capsys.readouterr().err


def test_the_command_writes_it_and_another_reads_it(checkpoint, tmp_path, capsys):
    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        return ended.value.code or 0

    words = ("compress", "smoke", "--method", "magnitude", "--sparsity", "0.5")
    assert run(*words, "--format", "zip", "--out", tmp_path / "zip") == 2
    assert "--format" in capsys.readouterr().err
    assert run(*words, "--out", tmp_path / "plain") == 0
    capsys.readouterr()
    assert run(*words, "--format", "bitmap", "--out", tmp_path / "packed") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["format"] == "dense"
    assert set(told["bitmap"]) == {"model.safetensors"}
    assert run("decompress", tmp_path / "packed", "--out", tmp_path / "again") == 0
    plain, again = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "again"))
    assert all(np.array_equal(plain[name].numpy(), again[name].numpy()) for name in plain)
    assert (tmp_path / "again" / "kick" / "masks.safetensors").exists()
    assert not list(tmp_path.glob(".*")), "nothing is left beside"
