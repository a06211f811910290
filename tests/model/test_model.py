"""Where a model comes from, what its digest is made of, and which weights of it can be compressed."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from kick.errors import KickError
from kick.model import blocks, linears, load, resolve, watch
from kick.model.source import made, weights_digest
from kick.model.structure import EXCLUDED
from kick.records import ModelSpec
from tests.support.architectures import ARCHITECTURES, tiny


def folder_of(tmp_path: Path, **files: str) -> Path:
    for name, text in files.items():
        (tmp_path / name.replace("__", ".")).write_text(text)
    return tmp_path


def test_smoke_is_the_same_every_time(tmp_path, monkeypatch):
    first = resolve("smoke")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    again = resolve("smoke")
    assert first == again
    assert sum(file.stat().st_size for file in tmp_path.glob("kick/smoke-*/*")) < 1 << 20
    model, tokenizer = load(again)
    assert not model.training
    assert len(tokenizer) <= model.config.vocab_size <= 512
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    text = "Zoë asked: what is 2 + 2?\n\tNothing is lost."
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert "assistant" in tokenizer.apply_chat_template(
        [{"role": "user", "content": "hello"}], tokenize=False, add_generation_prompt=True
    )


@pytest.mark.real
def test_demo_model_ends_where_its_tokenizer_does():
    model, tokenizer = load(resolve("smollm2-135m"))
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == 2
    assert model.generation_config.eos_token_id == model.config.eos_token_id == 2
    assert tokenizer.clean_up_tokenization_spaces is False
    assert not hasattr(model.config, "quantization_config")
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " Paris"


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("smolm2-135m", "did you mean 'smollm2-135m'"),
        ("smoek", "did you mean 'smoke'"),
        ("not a hub id", "unknown model"),
        ("./nowhere", "no folder"),
        ("/nowhere/model.gguf", "no file"),
    ],
)
def test_unknown_name_is_refused(name, word):
    with pytest.raises(KickError, match=word):
        resolve(name)


def test_unreachable_hub_id_says_where_it_looked(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(KickError, match="not in the hub's local cache"):
        resolve("nobody-here/no-model")


def test_pickles_are_refused(tmp_path):
    with pytest.raises(KickError, match=r"pickles.*pytorch_model\.bin"):
        resolve(str(folder_of(tmp_path, config__json="{}", pytorch_model__bin="x")))


@pytest.mark.parametrize(
    ("files", "word"), [({}, "no config.json"), ({"config__json": "{}"}, "no .*safetensors")]
)
def test_incomplete_folder_is_refused(tmp_path, files, word):
    with pytest.raises(KickError, match=word):
        resolve(str(folder_of(tmp_path, **files)))


def test_dtype_and_revision_are_checked():
    with pytest.raises(KickError, match="dtype 'float8'"):
        resolve("smoke", dtype="float8")
    with pytest.raises(KickError, match="not a hub id"):
        resolve("smoke", revision="main")


def test_digest_follows_weights_and_config(tmp_path):
    from kick.model.source import locate

    folder = tmp_path / "copy"
    shutil.copytree(locate("smoke"), folder)
    first = weights_digest(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"transformers_version": "0"}))
    assert weights_digest(folder) == first
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    assert weights_digest(folder) != first
    with pytest.raises(KickError, match="changed"):
        load(ModelSpec(str(folder), digest=first))


def test_made_leaves_nothing_half_done(tmp_path):
    def fail(folder: Path) -> None:
        folder.mkdir()
        raise KeyError("in the middle")

    with pytest.raises(KeyError):
        made(tmp_path / "thing", fail)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_weight_of_a_block_is_found_or_named(name):
    """All 2-D and 3-D weights of a block are linears or stand in EXCLUDED: counted in elements."""
    block = blocks(tiny(name))[0]
    left_out = sum(
        p.numel() for n, p in block.named_parameters() if n.endswith(tuple(EXCLUDED)) and p.ndim > 1
    )
    everything = sum(p.numel() for p in block.parameters() if p.ndim > 1)
    assert sum(linear.weight.numel() for linear in linears(block)) + left_out == everything
    assert left_out < 0.25 * everything


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_inputs_seen_are_the_inputs_used(name):
    """Zeroing a weight view changes the output, for every matrix whose input was seen."""
    model = tiny(name)
    block = blocks(model)[0]
    ids = torch.arange(24)[None]
    seen = {}
    with torch.no_grad(), watch(block, linears(block), lambda linear, x: seen.update({linear.name: x})):
        dense = model(ids).logits
    for linear in linears(block):
        if linear.name not in seen:
            assert linear.expert is not None
            continue
        assert seen[linear.name].shape[-1] == linear.weight.shape[1]
        kept = linear.weight.clone()
        linear.weight.zero_()
        with torch.no_grad():
            assert not torch.equal(model(ids).logits, dense)
        linear.weight.copy_(kept)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, dense)


def test_unknown_weight_is_refused():
    block = torch.nn.Module()
    block.odd = torch.nn.Bilinear(2, 3, 4)
    with pytest.raises(KickError, match=r"odd\.weight"):
        linears(block)
