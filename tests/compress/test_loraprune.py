"""LoRAPrune's criterion against the authors' sensitivities and choices, and against the true gradient."""

import pytest
import torch

from kick.compress import canonical, compress
from kick.compress.calibrate.gradients import Gradients
from kick.compress.context import Calibration
from kick.compress.coupled import structures
from kick.compress.methods.loraprune import (
    Factors,
    branches,
    matrices,
    normalised,
    running,
    schedule,
    sensitivity,
    without,
)
from kick.model import blocks
from tests.support.architectures import sequences, tiny
from tests.support.golden import seeds

ATTENTION, MLP = ("q", "k", "v", "o"), ("gate", "up", "down")
COLUMNS = ("o", "down")  # whose units are columns, not rows


def sums(golden, part):
    name = f"{part}_proj"
    factors = Factors(golden[f"{name}.A"], golden[f"{name}.B"])
    gradients = Factors(golden[f"{name}.grad_A"], golden[f"{name}.grad_B"])
    found = sensitivity(golden[f"{name}.weight"], factors, gradients, 2.0)
    found = found.sum(dim=0 if part in COLUMNS else 1)
    return found.view(4, 8).sum(dim=1) if part in ATTENTION else found


@pytest.mark.parametrize("part", ATTENTION + MLP)
def test_sensitivities_are_the_authors(part):
    golden, found = seeds("loraprune"), sums(seeds("loraprune"), part)
    torch.testing.assert_close(found, golden[f"{part}_proj.sensitivity_unnormalised"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(normalised(found), golden[f"{part}_proj.sensitivity"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("module", "parts"), [("self_attn", ATTENTION), ("mlp", MLP)])
def test_running_means_and_what_is_kept_are_the_authors(module, parts):
    golden = seeds("loraprune")
    new = torch.stack([normalised(sums(golden, part)) for part in parts]).sum(dim=0)
    mean = running(torch.zeros_like(new), new)
    torch.testing.assert_close(mean, golden[f"ema1.{module}"], rtol=1e-5, atol=1e-6)
    mean = running(mean, new)
    torch.testing.assert_close(mean, golden[f"ema2.{module}"], rtol=1e-5, atol=1e-6)
    on = torch.ones_like(mean)
    for share in (0.2, 0.35, 0.5):
        on = without(on, mean, int(len(mean) * share))
        assert torch.equal(on.bool(), golden[f"keep.{module}.{share}"].bool())


def test_the_share_rises_as_the_authors():
    wanted = seeds("loraprune")["schedule.total100_0.1_0.1_to0.5"].tolist()
    assert [0.5 * schedule(step, 100) for step in range(101)] == pytest.approx(wanted, abs=1e-9)


def test_with_full_rank_the_replaced_gradient_is_the_true_one_times_the_scale():
    model, calibration = tiny("llama"), Calibration(tuple(sequences(2)))
    true, found = Gradients(model, calibration, "sum"), structures(model)
    factors = [
        {
            linear.name: Factors(
                torch.eye(linear.weight.shape[1]), torch.zeros_like(linear.weight, requires_grad=True)
            )
            for linear in matrices(one)
        }
        for one in found
    ]
    with branches(found, factors, 2.0):
        for ids in calibration:
            model(ids, labels=ids).loss.backward()
    for block, structure in enumerate(found):
        for linear in matrices(structure):
            one, wanted = factors[block][linear.name], 2 * true.of(block, linear)
            torch.testing.assert_close(one.b.grad @ one.a, wanted, rtol=1e-4, atol=1e-6)


def test_what_is_off_stays_off():
    on = without(torch.ones(4), torch.tensor([3.0, 1.0, 2.0, 4.0]), 1)
    assert on.tolist() == [1, 0, 1, 1]
    assert without(on, torch.tensor([0.0, 9.0, 2.0, 4.0]), 2).tolist() == [0, 0, 1, 1]
    assert without(on, torch.tensor([0.0, 9.0, 2.0, 4.0]), 0).tolist() == [1, 0, 1, 1]


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_the_share_is_met_in_blocks_of_one_width(share):
    model = tiny("llama")
    report = compress(model, [canonical("loraprune", {"share": share, "rank": 4})], sequences())
    assert report["steps"][0]["removed"]["share"] == pytest.approx(share, abs=1.5 * 96 / 27648 + 1e-9)
    assert len({block.mlp.up_proj.weight.shape for block in blocks(model)}) == 1
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_units_without_a_gradient_go():
    model = tiny("llama")
    for block in blocks(model):
        for name in ("gate_proj", "up_proj"):
            getattr(block.mlp, name).weight[::2] = 0
        block.mlp.down_proj.weight[:, ::2] = 0
    ids = sequences(1, seed=4)[0]
    with torch.no_grad():
        before = model(ids).logits
    compress(model, [canonical("loraprune", {"share": 0.3})], sequences())
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, before, rtol=1e-4, atol=1e-5)
