"""Last-n with L3Prune's choice: the authors' loss, pooling and layers, and the choice on real prefixes."""

import json

import pytest
import torch
from torch import nn

from kick.compress import calibrated, canonical, compress
from kick.compress.context import Calibration
from kick.compress.depth import Stack
from kick.compress.methods.last_n import best, contrastive, half, losses_by_depth, weighted_mean
from kick.errors import CellFailed, WrongOption
from kick.model import blocks
from tests.support.architectures import sequences, tiny
from tests.support.golden import FOLDER, seeds


@pytest.fixture(scope="module")
def golden():
    return seeds("tasks_l3prune"), json.loads((FOLDER / "seeds" / "tasks_l3prune.json").read_text())


def test_loss_with_and_without_hard_negatives_is_the_authors(golden):
    tensors, numbers = golden
    assert float(contrastive(tensors["q"], tensors["d"])) == pytest.approx(
        numbers["loss_without_hard_negatives"], abs=1e-5
    )
    with_negatives = contrastive(tensors["q"], tensors["d"], tensors["d_neg"])
    assert float(with_negatives) == pytest.approx(numbers["loss"], abs=1e-5)


def test_pooling_is_the_authors(golden):
    tensors, _ = golden
    pooled = weighted_mean(tensors["hidden"], tensors["attention_mask"])
    assert torch.allclose(pooled, tensors["pool.weighted_mean"], atol=1e-5)
    whole = tensors["hidden"][tensors["attention_mask"].all(dim=1)]
    assert torch.equal(weighted_mean(whole), weighted_mean(whole, torch.ones_like(whole[..., 0])))


def test_small_and_large_are_the_authors(golden):
    for case in golden[1]["selection"]:
        assert best(case["losses"], "small") == case["small"]
        assert best(case["losses"], "large") == case["large"]


def test_the_halves_share_the_blocks():
    for count in range(2, 9):
        assert [*half(count, "small"), *half(count, "large")] == list(range(1, count + 1))


@pytest.mark.parametrize("name", ["llama", "opt", "gpt2", "mamba2"])
def test_losses_are_those_of_models_that_have_these_blocks_alone(name):
    found = losses_by_depth(tiny(name), Calibration(tuple(sequences())))
    for kept, loss in enumerate(found, 1):
        model = tiny(name)
        Stack.of(model).without(range(kept, 3)).place(model)
        pooled = []
        for ids in sequences():
            for part in ids.chunk(2, dim=1):
                with torch.no_grad():
                    state = model.base_model(part, use_cache=False).last_hidden_state[0]
                weights = torch.arange(1, len(state) + 1)[:, None] / sum(range(len(state) + 1))
                pooled.append(nn.functional.normalize((state * weights).sum(dim=0), dim=0))
        scores = 20 * torch.stack(pooled[::2]) @ torch.stack(pooled[1::2]).t()
        expected = -scores.log_softmax(dim=1).diagonal().mean()
        assert loss == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("keep", ["small", "large"])
def test_the_best_prefix_is_kept(keep):
    losses = losses_by_depth(tiny("llama"), Calibration(tuple(sequences())))
    model = tiny("llama")
    report = compress(model, [canonical("last-n", {"blocks": "l3", "keep": keep})], sequences())
    assert len(blocks(model)) == (1 if keep == "small" else 2 + (losses[2] < losses[1]))
    assert model.config.num_hidden_layers == len(blocks(model))
    (note,) = [one for one in report["notes"] if one["kind"] == "contrastive loss"]
    assert note["values"] == pytest.approx(losses, abs=1e-6)
    assert report["steps"][0]["passes"] == {"forward": 8, "backward": 0}


def test_calibration_is_needed_for_it_alone():
    plain, chosen = canonical("last-n", {"layers": 1}), canonical("last-n", {"blocks": "l3"})
    assert not calibrated(plain)
    assert calibrated(chosen)
    assert "passes" not in compress(tiny("llama"), [plain], [])["steps"][0]


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({}, ValueError, "or blocks: l3"),
        ({"layers": 1, "blocks": "l3"}, WrongOption, "remove the option 'layers'"),
        ({"layers": 1, "keep": "small"}, WrongOption, "is for blocks: l3"),
        ({"blocks": "l4"}, WrongOption, "one of layers, l3"),
    ],
)
def test_options_that_contradict_each_other(options, error, word):
    with pytest.raises(error, match=word):
        canonical("last-n", options)


def test_too_little_text_is_a_failed_cell():
    with pytest.raises(CellFailed, match="at least 2"):
        compress(tiny("llama"), [canonical("last-n", {"blocks": "l3"})], sequences(1))
