"""MKA: the authors' vectors, and what merging must be at its ends."""

import copy

import numpy as np
import pytest
import torch
import transformers as tf

from kick.compress import canonical, check, compress
from kick.compress.context import Calibration
from kick.compress.depth import Stack
from kick.compress.methods.mka import (
    embedding,
    entropy,
    last_token_states,
    merge,
    mergeable,
    npib,
    published_ratio,
    ranks,
)
from kick.errors import CellFailed, KickError
from kick.model import blocks
from tests.support.architectures import sequences, tiny
from tests.support.golden import seeds

FEW = {"neighbours": 3, "entropy_neighbours": 20, "length": 4}  # for 24 samples


@pytest.fixture(scope="module")
def golden():
    return {name: value.numpy() for name, value in seeds("mka").items()}


@pytest.mark.parametrize("layer", range(5))
def test_embedding_is_the_authors_up_to_sign(golden, layer):
    ours, theirs = embedding(golden[f"x.{layer}"]), golden[f"embedding.{layer}"]
    ours = ours * np.sign((ours * theirs).sum(axis=0))
    assert np.abs(ours - theirs).max() < 1e-3 * np.abs(theirs).max()
    moved = np.abs(ranks(ours) - golden[f"ranked.{layer}"])
    assert moved.max() <= 2 / 60 + 1e-9  # float32 ties and near ties
    assert sorted(set(ranks(ours)[:, 0])) == sorted(set(golden["ranked.0"][:, 0]))


def test_similarities_are_the_authors(golden):
    ranked = [golden[f"ranked.{layer}"] for layer in range(5)]
    entropies = [entropy(one, 50) for one in ranked]
    np.testing.assert_allclose(entropies, golden["entropy_k50"], rtol=1e-9)
    for i in range(5):
        for j in range(5):
            found = npib(ranked[i], ranked[j], entropies[i], entropies[j], 5)
            # ties are broken at random: 4 standard deviations of theirs
            off = abs(found - golden["npib.mean_of_20_seeds"][i, j])
            assert off < 4 * golden["npib.std_of_20_seeds"][i, j], (i, j)


def test_ratios_are_the_authors(golden):
    for number, (i, j) in enumerate(golden["pairs"]):
        found = published_ratio(golden["npib.mean_of_20_seeds"], i, j)
        assert found == pytest.approx(golden["published_ratio_i"][number], rel=1e-9)
        assert 0.6 < found < 0.63


def test_merge_is_exact(golden):
    lower, upper = (torch.nn.Linear(64, 32, bias=False).double().requires_grad_(False) for _ in range(2))
    lower.weight.copy_(torch.from_numpy(golden["merge.w_l"]))
    upper.weight.copy_(torch.from_numpy(golden["merge.w_m"]))
    merge(lower, upper, float(golden["merge.lambda"]))
    np.testing.assert_allclose(lower.weight.numpy(), golden["merge.result"], rtol=1e-12)


def merged(model, **options):
    calibration = Calibration(tuple(sequences()))
    compress(model, [canonical("mka", {"layers": 1, **FEW, **options})], calibration)
    return next(note for note in calibration.notes if note["kind"] == "merged layers")


def test_weight_one_drops_the_upper_block():
    model, dense = tiny("llama"), tiny("llama")
    note = merged(model, weight="fixed", ratio=1.0)
    (upper,) = note["taken"]
    assert note["into"] == upper - 1
    stack = Stack.of(dense)
    stack.without({upper}).place(dense)
    assert all(torch.equal(value, dense.state_dict()[name]) for name, value in model.state_dict().items())


def test_merging_a_block_with_itself_changes_only_the_depth():
    model = tiny("llama")
    stack = Stack.of(model)
    twin = copy.deepcopy(stack.blocks[1])
    before = {name: value.clone() for name, value in twin.state_dict().items()}
    merge(stack.blocks[1], twin, 0.37)
    for name, value in stack.blocks[1].state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=1e-6, atol=0)


def test_the_most_similar_neighbours_are_merged():
    """Blocks that write nothing leave equal states: their neighbours are the most similar."""
    model = tiny("llama")
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        blocks(model)[2].get_submodule(name).weight.zero_()
    note = merged(model)
    assert (note["into"], note["taken"]) == (1, [2])
    assert note["weight"] == 1.0  # an NPIB above 1 is limited


def test_states_are_the_outputs_at_the_last_token():
    model, ids = tiny("llama"), sequences(2)
    found = last_token_states(model, Calibration(tuple(ids)))
    with torch.no_grad():
        wanted = [model(one, output_hidden_states=True).hidden_states for one in ids]
    for layer in range(2):  # the last of transformers' is after the norm
        for sample in range(2):
            np.testing.assert_allclose(found[layer][sample], wanted[sample][layer + 1][0, -1], rtol=1e-6)


def test_too_few_samples_are_named():
    with pytest.raises(CellFailed, match="4 samples, and its estimates need 51"):
        compress(tiny("llama"), [canonical("mka", {"layers": 1})], sequences())


def test_blocks_of_different_kinds_are_not_merged():
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    config = tf.Qwen3Config(**{**tiny("qwen3").config.to_dict(), "layer_types": kinds, "sliding_window": 8})
    model = tf.AutoModelForCausalLM.from_config(config)
    assert not mergeable(Stack.of(model), 0)
    with pytest.raises(KickError, match=r"only 0 blocks .* choose shortgpt"):
        check(model, [canonical("mka", {"layers": 1})])


def test_entropies_of_two_signs_have_no_similarity():
    plane = np.random.default_rng(0).random((30, 2))
    assert npib(plane, plane, -2.0, -2.0, 3) > 0
    with pytest.raises(CellFailed, match="no similarity of blocks with entropies 1 and -2"):
        npib(plane, plane, 1.0, -2.0, 3)
