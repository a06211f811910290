"""Bonsai against the authors' priors, candidates, fit and choice, and on a loss whose truth is known."""

import pytest
import torch
from scipy.stats import spearmanr

from kick.compress import canonical, compress
from kick.compress.calibrate.statistics import InputNorm
from kick.compress.coupled import structures
from kick.compress.methods.bonsai import candidates, prior, regression, within
from kick.compress.switches import batched, loss_of, switched
from kick.compress.widths import KeptWidths, narrow
from kick.model import blocks
from tests.support.architectures import sequences, tiny
from tests.support.golden import seeds


def priors(golden, weight, inner):
    statistic = InputNorm(golden[inner].shape[-1])
    for sample in golden[inner]:
        statistic.add(sample)
    return prior(golden[weight], statistic)


def test_priors_and_candidates_are_the_authors():
    golden = seeds("bonsai")
    mlp = priors(golden, "down_proj.weight", "mlp_inner")
    heads = priors(golden, "o_proj.weight", "attn_inner").view(8, 8).mean(dim=1)
    for name, found in (("mlp", mlp), ("head", heads)):
        torch.testing.assert_close(found, golden[f"prior_{name}"], rtol=1e-5, atol=1e-7)
        module = candidates(golden[f"prior_{name}"], 0.2)
        assert sorted(module.places.tolist()) == sorted(golden[f"prior_{name}.candidates"].tolist())
        chance = golden[f"prior_{name}.sampling_probability"]
        torch.testing.assert_close(module.chance.float(), chance, rtol=1e-5, atol=1e-7)


def test_a_draw_switches_off_as_many_as_the_authors_and_by_chance():
    module = candidates(seeds("bonsai")["prior_mlp"], 0.2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        draws = torch.stack([module.draw() for _ in range(2000)])
    assert ((~draws).sum(dim=1) == 10).all()
    off = (~draws).double().mean(dim=0)
    assert spearmanr(off, module.chance[module.places]).statistic > 0.98


def test_the_fit_is_minimum_norm_least_squares_and_ranks_as_the_authors():
    golden = seeds("bonsai")
    found = regression(golden["masks_candidates"], golden["neg_ppl"].double())
    torch.testing.assert_close(found, golden["least_squares.weights"], rtol=1e-9, atol=1e-9)
    for name in ("authors_fit", "authors_search"):
        assert spearmanr(found, golden[f"{name}.weights"]).statistic >= 0.99
    ridge = regression(golden["masks_candidates"], golden["neg_ppl"].double(), ridge=1e-7)
    torch.testing.assert_close(ridge, found, rtol=1e-4, atol=1e-6)


def test_what_is_kept_within_the_budget_is_the_authors():
    golden = seeds("bonsai")
    counts, budget = golden["global.param_counts"].tolist(), int(golden["global.budget"])
    gone = within(golden["global.scores"], counts, budget, fill=False)
    assert sorted(gone) == (golden["global.keep"] == 0).nonzero().flatten().tolist()
    assert within(torch.tensor([0.0, 1.0, 2.0]), [3, 9, 4], 8) == [0, 2]
    assert within(torch.tensor([0.0, 1.0, 2.0]), [3, 9, 4], 8, fill=False) == [0]


def test_an_additive_loss_is_ranked_as_it_is():
    generator = torch.Generator().manual_seed(0)
    true = torch.rand(20, generator=generator, dtype=torch.float64)
    halves = [torch.randperm(20, generator=generator) < 10 for _ in range(100)]
    masks = torch.stack([mask for half in halves for mask in (half, ~half)])
    noise = 0.01 * torch.randn(200, generator=generator, dtype=torch.float64)
    found = regression(masks, masks.double() @ true + noise)
    assert spearmanr(found, true).statistic >= 0.995


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "gemma3"])
def test_a_unit_that_is_off_is_a_unit_that_is_gone(name):
    model = tiny(name)
    batches = batched(sequences(), torch.device("cpu"))
    found = structures(model)
    on = [(torch.tensor([0.0, 1.0]), torch.ones(64)) for _ in found]
    on[1] = (torch.ones(2), (torch.arange(64) % 3 > 0).float())
    with switched(found, on):
        wanted = loss_of(model, batches)
    assert wanted != loss_of(model, batches)
    for block, structure, (groups, channels) in zip(blocks(model), found, on, strict=True):
        narrow(block, structure, KeptWidths(groups.nonzero().flatten(), channels.nonzero().flatten()))
    assert loss_of(model, batches) == pytest.approx(wanted, rel=1e-5)


def test_the_share_is_met_and_the_forwards_are_counted():
    model = tiny("llama")
    options = {"share": 0.3, "part": 0.15, "pairs": 6, "sequences": 2}
    report = compress(model, [canonical("bonsai", options)], sequences())
    assert 0 <= 0.3 - report["steps"][0]["removed"]["share"] < 96 / 27648
    walk = 4 * (2 + 2 + 1) / 3  # the last of three blocks feeds none
    assert report["steps"][0]["passes"] == {"forward": round(2 * (walk + 12 * 2), 3), "backward": 0}


def test_channels_that_do_nothing_go():
    model = tiny("llama")
    for block in blocks(model):
        block.mlp.down_proj.weight[:, ::4] = 0
    batches = batched(sequences(), torch.device("cpu"))
    before = loss_of(model, batches)
    options = {"share": 0.04, "part": 0.05, "pairs": 40, "sequences": 4}
    compress(model, [canonical("bonsai", options)], sequences())
    assert loss_of(model, batches) == pytest.approx(before, rel=1e-5)
