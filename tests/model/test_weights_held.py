"""Where weights are held: in the model's own memory, and once if they change no more."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from kick.model.owned import MAPS, own
from kick.model.packed import PackedLinears, settle
from tests.support.architectures import ARCHITECTURES, tiny

IDS = torch.arange(3, 20)[None]


def _mappings(folder: Path) -> int:
    return sum(str(folder) in line for line in MAPS.read_text().splitlines())


@pytest.mark.skipif(not MAPS.exists(), reason="mappings are read off Linux's /proc")
def test_weights_leave_the_mapped_file_as_they_were(tmp_path):
    made = tiny("llama")
    made.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert _mappings(tmp_path) == 1, "transformers maps no file any more: `own` has nothing to do"
    own(loaded)
    assert _mappings(tmp_path) == 0
    for name, weight in made.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight, "they are tied"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_settled_model_computes_the_same_and_holds_matrices_once(name):
    free, settled = tiny(name), tiny(name)
    settle(settled)
    with torch.inference_mode():
        packs = PackedLinears(free)
        with packs.on():
            expected = free(IDS).logits
        packs = PackedLinears(settled)
        for _ in range(2):  # the second time with packed weights alone
            with packs.on() as version:
                assert torch.equal(settled(IDS).logits, expected)
            assert version == 1
        assert torch.equal(settled(IDS).logits, expected), "outside too"
        another = PackedLinears(settled)  # a second engine of the same model
        with another.on():
            assert torch.equal(settled(IDS).logits, expected)
    gone = [layer for layer in packs.layers if layer.weight.untyped_storage().nbytes() == 4]
    head = settled.get_output_embeddings()
    assert gone == [layer for layer, one in zip(packs.layers, packs.packed, strict=True)
                    if one is not None and layer is not head]  # fmt: skip
    assert bool(gone) == any(one is not None for one in packs.packed[:-1])
    assert torch.equal(head.weight, free.get_output_embeddings().weight), "others read it"
    for layer in gone:
        assert layer.weight.isnan().all(), "who reads it all the same must notice"


def test_what_has_gone_outlives_a_changed_weight():
    model = tiny("llama")
    settle(model)
    packs = PackedLinears(model)
    with torch.inference_mode():
        with packs.on():
            before = model(IDS).logits
        with torch.inference_mode(False), torch.no_grad():
            model.lm_head.weight.mul_(2.0)
        with packs.on() as version:
            after = model(IDS).logits
    assert version == 2
    assert not torch.equal(after, before)
    assert after.isfinite().all()
