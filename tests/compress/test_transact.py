"""TransAct against the authors' scores and choices, and what its shots add up to."""

import pytest
import torch

from kick.compress import canonical, compress
from kick.compress.calibrate.statistics import InputNorm
from kick.compress.methods.transact import after_shot, head_scores, norms
from kick.compress.widths import largest
from kick.model import blocks, linears
from tests.support.architectures import sequences, tiny
from tests.support.golden import seeds


def measured(golden, layer, part):
    statistic = InputNorm(golden[f"batch0.layer{layer}.{part}"].shape[-1])
    for batch in range(3):
        statistic.add(golden[f"batch{batch}.layer{layer}.{part}"].flatten(0, 1))
    return norms(statistic)


@pytest.mark.parametrize("layer", [0, 1])
def test_scores_and_what_is_kept_are_the_authors(layer):
    golden = seeds("transact")
    heads, mlp = (measured(golden, layer, part) for part in ("attention_inner", "mlp_inner"))
    torch.testing.assert_close(heads, golden["score.attention"][layer], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mlp, golden["score.mlp"][layer], rtol=1e-5, atol=1e-5)
    scores = head_scores(heads, 8)
    torch.testing.assert_close(scores, golden["head_score"][layer], rtol=1e-5, atol=1e-5)
    kept = largest(scores, after_shot(6, 3, left=2))  # one of two shots, on the way to 3 of 6 heads
    wanted = golden["heads.attention_keep"][layer].view(6, 8).bool()
    assert torch.equal(wanted.all(dim=1).nonzero().flatten(), kept)
    assert torch.equal(wanted.all(dim=1), wanted.any(dim=1))
    kept = largest(mlp, after_shot(40, 20, left=2))
    assert torch.equal(golden["heads.mlp_keep"][layer].nonzero().flatten(), kept)


@pytest.mark.parametrize("shots", [1, 3, 8, 50])
def test_all_shots_together_leave_what_was_asked(shots):
    have = 37
    for left in range(shots, 0, -1):
        have = after_shot(have, 11, left)
    assert have == 11


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.8])
def test_the_share_is_of_the_weights_and_met_to_half_a_channel(share):
    model = tiny("llama")
    report = compress(model, [canonical("transact", {"share": share, "shots": 2})], sequences())
    removed = report["steps"][0]["removed"]
    left = sum(linear.weight.numel() for block in blocks(model) for linear in linears(block))
    dense = sum(linear.weight.numel() for block in blocks(tiny("llama")) for linear in linears(block))
    assert (removed["weights"], removed["of"]) == (dense - left, dense)
    assert abs(removed["share"] - share) * dense <= 3 * 3 * 32 / 2 + 1e-6  # three blocks, half a channel each
    assert model.config.intermediate_size == blocks(model)[0].mlp.down_proj.weight.shape[1]


def test_what_never_acts_goes_first():
    model = tiny("llama")
    for block in blocks(model):
        parts = {linear.name.rpartition(".")[2]: linear.weight for linear in linears(block)}
        for name in ("v_proj", "up_proj"):
            parts[name][: parts[name].shape[0] // 2] = 0
    ids = sequences(1, seed=4)[0]
    with torch.no_grad():
        before = model(ids).logits
        compress(model, [canonical("transact", {"share": 0.5, "shots": 4})], sequences())
        torch.testing.assert_close(model(ids).logits, before, rtol=1e-4, atol=1e-5)
