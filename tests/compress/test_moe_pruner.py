"""MoE-Pruner: masks of another implementation, and what it must share with Wanda."""

from functools import cache

import pytest
import torch
import transformers as tf
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

from kick.compress import canonical, check, compress
from kick.compress.calibrate.statistics import GatedInputNorm, InputNorm
from kick.compress.context import Calibration
from kick.compress.sparsity import Sparsity, mask
from kick.errors import KickError
from kick.model import linears, named_linears
from kick.model.structure import watch
from tests.support.architectures import sequences, tiny
from tests.support.golden import seeds

LEVELS = {"mask50": "0.5", "mask2of4": "2:4"}


@cache
def golden():
    """The vectors, and what is measured of the block's experts: norms by kind and linear's name."""
    vectors = seeds("moe_pruner")
    config = tf.MixtralConfig(
        hidden_size=24, intermediate_size=40, num_local_experts=4, num_experts_per_tok=2, hidden_act="silu"
    )
    block = MixtralSparseMoeBlock(config).eval().requires_grad_(False)
    block.gate.weight.copy_(vectors["gate.weight"])
    for e in range(4):
        w1, w3 = vectors[f"expert{e}.w1.weight"], vectors[f"expert{e}.w3.weight"]
        block.experts.gate_up_proj[e] = torch.cat([w1, w3])
        block.experts.down_proj[e] = vectors[f"expert{e}.w2.weight"]
    wanted = linears(block)
    found = {kind: {} for kind in (GatedInputNorm, InputNorm)}
    for kind, statistics in found.items():

        def see(linear, x, kind=kind, statistics=statistics):
            statistics.setdefault(linear.name, kind(x.shape[-1])).add(x)

        with watch(block, wanted, see, kind.gated):
            for sample in vectors["x"]:
                block(sample[None])
    return vectors, found, {linear.name: linear for linear in wanted}


@pytest.mark.parametrize("expert", range(4))
@pytest.mark.parametrize("weight", ["w1", "w2", "w3"])
def test_masks_are_those_of_the_vectors(expert, weight):
    vectors, found, by_name = golden()
    name = f"experts.{expert}." + ("down_proj" if weight == "w2" else "gate_up_proj")
    norm, plain = (found[kind][name] for kind in (GatedInputNorm, InputNorm))
    key = f"expert{expert}.{weight}"
    assert norm.tokens == int(vectors[f"expert{expert}.tokens"])
    torch.testing.assert_close(
        norm.tensors["squares"].double(), vectors[f"{key}.gated_sq_norm"], rtol=1e-5, atol=0
    )
    whole = by_name[name].weight
    rows = {"w1": whole[:40], "w2": whole, "w3": whole[40:]}[weight]
    for mine, level in LEVELS.items():
        kept = mask(rows.abs() * norm.norm, Sparsity.parse(level))
        assert torch.equal(~kept, vectors[f"{key}.{mine}"].bool())
    kept = mask(rows.abs() * plain.norm, Sparsity.parse(0.5))
    assert torch.equal(~kept, vectors[f"{key}.wanda_mask50"].bool())
    assert not torch.equal(vectors[f"{key}.wanda_mask50"], vectors[f"{key}.mask50"])


def one_expert(model):
    """The model with a single expert, which the router then gives the weight one."""
    config = tf.MixtralConfig(**{**model.config.to_dict(), "num_local_experts": 1, "num_experts_per_tok": 1})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return tf.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def pruned(model, method):
    calibration = Calibration(tuple(sequences()))
    compress(model, [canonical(method, {"sparsity": 0.5})], calibration)
    return calibration.masks


def test_with_one_expert_it_is_wanda_bit_for_bit():
    model = one_expert(tiny("mixtral"))
    ours, wandas = pruned(model, "moe-pruner"), pruned(one_expert(tiny("mixtral")), "wanda")
    assert ours.keys() == wandas.keys()
    assert all(torch.equal(ours[name], wandas[name]) for name in ours)


def test_attention_is_wandas_and_experts_are_not():
    ours, wandas = pruned(tiny("mixtral"), "moe-pruner"), pruned(tiny("mixtral"), "wanda")
    same = {name: torch.equal(ours[name], wandas[name]) for name in ours}
    first = {name: value for name, value in same.items() if ".layers.0." in name}
    assert all(value for name, value in first.items() if "self_attn" in name)
    assert not all(value for name, value in first.items() if "experts" in name)


def test_an_expert_that_no_token_reaches_is_pruned_by_magnitude_and_noted():
    model = tiny("mixtral")
    calibration = Calibration(tuple(sequences(1, 3)))  # 6 choices of 16 experts
    compress(model, [canonical("moe-pruner", {"sparsity": 0.5})], calibration)
    unseen = [note["linear"] for note in calibration.notes if note["kind"] == "expert saw no token"]
    assert unseen
    dense = {name: linear.weight for name, _, linear in named_linears(tiny("mixtral"))}
    for name in unseen:
        assert torch.equal(calibration.masks[name], mask(dense[name].abs(), Sparsity.parse(0.5)))


def test_a_dense_model_is_refused():
    with pytest.raises(KickError, match=r"no experts that kick knows.*choose wanda"):
        check(tiny("llama"), [canonical("moe-pruner", {"sparsity": 0.5})])


def test_experts_that_do_not_see_the_routers_weights_are_refused():
    model = tiny("mixtral")
    experts = model.model.layers[1].mlp.experts
    experts.forward = lambda hidden_states, chosen: hidden_states
    with pytest.raises(KickError, match="is not called with the router's weights"):
        check(model, [canonical("moe-pruner", {"sparsity": 0.5})])
