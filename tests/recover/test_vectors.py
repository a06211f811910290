"""The forms of recovery against their authors' own code: vectors of ../shared/golden/seeds."""

import json
import math

import pytest
import torch

from kick.compress.method import build, canonical
from kick.compress.sparsity import Sparsity
from kick.recover.adapters import scale_of
from kick.recover.forms.slope import DoublePruned, double_pruned
from tests.support.golden import FOLDER, seeds


def close(found, wanted, tolerance=1e-5):
    torch.testing.assert_close(found.detach(), wanted, atol=tolerance, rtol=0)


def form(name, **options):
    return build(canonical(f"recover-{name}", options))


def parts(*tensors):
    return [one.clone().requires_grad_() for one in tensors]


@pytest.fixture
def perp():
    vectors = seeds("recovery_perp")
    vectors["mask"] = vectors["weight"] != 0  # the authors' mask
    return vectors


def test_masklora_trains_and_merges_as_the_authors_do(perp):
    a, b = parts(perp["lora_A"], perp["lora_B"])
    made = form("masklora", rank=4, alpha=8)
    output = made.forward(perp["x"], perp["weight"], perp["bias"], perp["mask"], (a, b))
    close(output, perp["mask_lora.forward"])
    output.backward(perp["grad_out"])
    close(a.grad, perp["mask_lora.grad_A"])
    close(b.grad, perp["mask_lora.grad_B"])
    merged = made.merged(perp["weight"], perp["mask"], a, b)
    close(merged, perp["mask_lora.merged_weight"])
    assert not merged[~perp["mask"]].any()
    assert torch.allclose(perp["x"] @ merged.t() + perp["bias"], output, atol=1e-5)


def test_lora_prune_fills_zeros_in_training_and_drops_them_at_the_merge(perp):
    made = form("lora-prune", rank=4, alpha=8)
    output = made.forward(
        perp["x"], perp["weight"], perp["bias"], perp["mask"], (perp["lora_A"], perp["lora_B"])
    )
    close(output, perp["lora_prune.forward"])
    merged = made.merged(perp["weight"], perp["mask"], perp["lora_A"], perp["lora_B"])
    close(merged, perp["lora_prune.merged_weight"])
    change = (perp["x"] @ merged.t() + perp["bias"] - output).abs().max()
    assert change == pytest.approx(2.1, abs=0.05)  # as published: the merge changes the function


def test_scalelora_starts_at_the_weight_and_merges_as_the_authors_do(perp):
    made = form("scalelora", rank=4)
    start = made.start(perp["weight"], torch.Generator())
    close(start[0], perp["scale_lora.init_A"])
    close(start[1], perp["scale_lora.init_B"])
    close(made.merged(perp["weight"], None, *start), perp["scale_lora.merged_at_init"])
    factors = perp["scale_lora.A"], perp["scale_lora.B"]
    merged = made.merged(perp["weight"], None, *factors)
    close(merged, perp["scale_lora.merged_weight"])
    output = made.forward(perp["x"], perp["weight"], None, None, factors)
    close(output, perp["x"] @ merged.t())


def test_spp_trains_and_merges_as_the_authors_do():
    spp = seeds("recovery_spp")
    row, col = parts(spp["row"], spp["col"])
    made = form("spp")
    output = made.forward(spp["x"], spp["weight"], spp["bias"], None, (row, col))
    close(output, spp["forward"])
    output.backward(spp["grad_out"])
    close(row.grad, spp["grad_row"], 1e-4)
    close(col.grad, spp["grad_col"], 1e-4)
    close(made.merged(spp["weight"], None, row, col), spp["merged_weight"])


def test_slope_goes_back_through_doubly_pruned_weights():
    slope = seeds("recovery_slope")
    kept = slope["pruned_mask"] == 0
    weight, x = parts(slope["weight"], slope["x"])
    double = double_pruned(slope["weight"], kept, Sparsity.parse("2:4"))
    close(slope["weight"] * double, slope["double_pruned_weight"])
    close(slope["weight"] * kept, slope["sparse_weight"])
    output = DoublePruned.apply(x, weight, kept, Sparsity.parse("2:4"), None)
    close(output, slope["forward"])
    output.backward(slope["grad_out"])
    close(x.grad, slope["grad_x"], 1e-4)
    close(weight.grad, slope["grad_weight"], 1e-4)


def test_the_scale_by_rank_and_by_its_root():
    file = FOLDER / "seeds" / "recovery_rora_scaling.json"
    if not file.is_file():
        pytest.skip("LOUD: ../shared is absent, scales are NOT checked against their vectors")
    for row in json.loads(file.read_text())["rows"]:
        assert scale_of("rank", row["alpha"], row["r"]) == pytest.approx(row["lora"], abs=1e-6)
        assert scale_of("root", row["alpha"], row["r"]) == pytest.approx(row["rora"], abs=1e-6)
    assert scale_of("root", 8.0, 16) == scale_of("rank", 8.0 * math.sqrt(16), 16)
