"""Experts that no token is sent to can go without a change; what is removed is counted and saved."""

import pytest
import torch
import transformers as tf

from kick.compress import canonical, check, check_saved, compress
from kick.compress.context import Calibration
from kick.compress.methods.expert_usage import usage
from kick.errors import CellFailed, KickError
from kick.model import blocks
from tests.support.architectures import sequences, tiny


def qwen():
    config = tf.Qwen3MoeConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_experts=8, num_experts_per_tok=2,
        norm_topk_prob=True, initializer_range=0.15, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return tf.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def removed(model, share, ids):
    calibration = Calibration(tuple(ids))
    report = compress(model, [canonical("expert-usage", {"share": share})], calibration)
    return report, [note for note in calibration.notes if note["kind"] == "removed experts"]


@torch.no_grad()
def test_uses_are_the_routers_choices():
    model, ids = tiny("mixtral"), sequences(2)
    found = usage(model, Calibration(tuple(ids)))
    for index, block in enumerate(blocks(model)):
        inputs = []
        block.mlp.register_forward_pre_hook(lambda _m, args, inputs=inputs: inputs.append(args[0]))
        for one in ids:
            model(one)
        logits = torch.cat([x.flatten(0, 1) for x in inputs]) @ block.mlp.gate.weight.t()
        chosen = logits.topk(2, dim=-1).indices
        assert found[index].tolist() == [int((chosen == e).sum()) for e in range(16)]
        assert found[index].sum() == 2 * 2 * 24


@pytest.mark.parametrize(("make", "share"), [(lambda: tiny("mixtral"), 0.5), (qwen, 0.375)])
def test_unused_experts_go_without_a_change(make, share):
    """Four choices or six leave most experts unused; of equally unused ones the first go."""
    ids = sequences(1, 2, seed=3)
    model, dense = make(), make()
    report, notes = removed(model, share, ids)
    assert [note["choices"] for note in notes] == [0.0] * len(blocks(model))
    with torch.no_grad():
        torch.testing.assert_close(model(ids[0]).logits, dense(ids[0]).logits, rtol=1e-5, atol=1e-5)
    experts = blocks(dense)[0].mlp.experts
    each = experts.gate_up_proj[0].numel() + experts.down_proj[0].numel() + model.config.hidden_size
    gone = sum(len(note["experts"]) for note in notes) * each
    assert report["footprint"]["parameters"] == sum(p.numel() for p in dense.parameters()) - gone


@pytest.mark.parametrize("make", [lambda: tiny("mixtral"), qwen])
def test_the_result_can_be_saved_and_loaded_again(make, tmp_path):
    model, ids = make(), sequences(2)
    check_saved(model, [canonical("expert-usage", {"share": 0.5})])
    removed(model, 0.5, ids)
    model.save_pretrained(tmp_path)
    again = tf.AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again(ids[0]).logits, model(ids[0]).logits, rtol=1e-5, atol=1e-5)


def test_the_least_used_go():
    model, ids = tiny("mixtral"), sequences()
    counts = usage(model, Calibration(tuple(ids)))
    _, notes = removed(model, 0.5, ids)
    for note in notes:
        gone = counts[note["layer"]][note["experts"]]
        kept = [e for e in range(16) if e not in note["experts"]]
        assert gone.max() <= counts[note["layer"]][kept].min()
        assert note["choices"] == pytest.approx(float(gone.sum() / counts[note["layer"]].sum()), abs=1e-6)


def test_refused():
    step = canonical("expert-usage", {"share": 0.95})
    with pytest.raises(KickError, match="no experts that kick knows"):
        check(tiny("llama"), [step])
    with pytest.raises(KickError, match="1 of 16 experts would be left, and each token is sent to 2"):
        check(tiny("mixtral"), [step])


def test_groups_of_experts_and_experts_that_nothing_reaches_are_refused():
    model = tiny("mixtral")
    with pytest.raises(CellFailed, match="no token reached the experts of block 0"):
        usage(model, Calibration(()))
    model.config.n_group = 2
    with pytest.raises(KickError, match="chooses among groups of experts"):
        check(model, [canonical("expert-usage", {"share": 0.5})])
