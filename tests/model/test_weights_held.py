"""Where weights are held: in the model's own memory, and once if they change no more."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from kick.model.owned import let_go, own
from kick.model.packed import PackedLinears, settle
from tests.support.architectures import ARCHITECTURES, tiny

IDS = torch.arange(3, 20)[None]
DETAILS = Path("/proc/self/smaps")


def _resident(folder: Path) -> list[int]:
    """kB in memory of each mapping of the folder's files."""
    lines = DETAILS.read_text().splitlines()
    starts = [number for number, line in enumerate(lines) if str(folder) in line]
    return [int(next(one for one in lines[at:] if one.startswith("Rss:")).split()[1]) for at in starts]


@pytest.fixture
def made(tmp_path):
    """A model whose embedding takes more than a page, saved in `tmp_path`."""
    model = tiny("llama")
    model.resize_token_embeddings(4096)
    model.save_pretrained(tmp_path)
    return model


def _loaded(folder: Path):
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert len(_resident(folder)) == 1, "transformers maps no file any more: `own` has nothing to do"
    own(loaded)
    return loaded


@pytest.mark.skipif(not DETAILS.exists(), reason="mappings are read off Linux's /proc")
def test_weights_leave_the_mapped_file_as_they_were(made, tmp_path):
    loaded = _loaded(tmp_path)
    for name, weight in made.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight, "they are tied"
    table = loaded.model.embed_tokens
    assert _resident(tmp_path)[0] * 1024 >= table.weight.nbytes, "it was read, and lies in the file"
    table.weight.data = table.weight.data.clone()
    assert _resident(tmp_path) == [], "nothing else lies there"


@pytest.mark.skipif(not DETAILS.exists(), reason="mappings are read off Linux's /proc")
def test_an_embedding_lets_its_pages_go_but_none_that_was_written_to(made, tmp_path):
    loaded = _loaded(tmp_path)
    weight = loaded.model.embed_tokens.weight
    weight.sum()
    let_go(weight)
    assert _resident(tmp_path)[0] * 1024 < weight.nbytes / 4
    assert torch.equal(weight, made.model.embed_tokens.weight)
    with torch.no_grad():
        weight[7] = 3.0  # a method may change it in place
    let_go(weight)
    assert (weight[7] == 3.0).all()
    assert torch.equal(weight[8:], made.model.embed_tokens.weight[8:])
    let_go(made.model.embed_tokens.weight)  # in no file
    assert made.model.embed_tokens.weight.any()


@pytest.mark.skipif(not DETAILS.exists(), reason="mappings are read off Linux's /proc")
def test_rows_that_were_looked_up_leave_no_pages_behind(made, tmp_path):
    loaded = _loaded(tmp_path)
    table, spread = loaded.model.embed_tokens, torch.arange(0, 4096, 16)
    let_go(table.weight)
    with torch.inference_mode():
        found = table(spread)
    assert torch.equal(found, made.model.embed_tokens.weight[spread])
    assert _resident(tmp_path)[0] * 1024 < table.weight.nbytes / 4
    with torch.no_grad():
        table.weight[spread] = 3.0  # a row that was written to is in this process's memory alone
        assert (table(spread) == 3.0).all()
        table.weight.data = 2 * table.weight.data  # a method may put another table in its place
        assert (table(spread) == 6.0).all()


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
