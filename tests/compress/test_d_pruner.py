"""D-Pruner against the authors' general importance and choices, and against GBLM's first order."""

import pytest
import torch

from kick.compress import canonical, compress
from kick.compress.calibrate.gradients import Gradients
from kick.compress.calibrate.statistics import Hessian
from kick.compress.context import Calibration
from kick.compress.methods.d_pruner import (
    DPruner,
    by_columns,
    general_importance,
    importance,
    part,
    regularised,
    zeros,
)
from kick.compress.solver import factor
from kick.compress.sparsity import Sparsity, mask
from kick.errors import KickError
from kick.model import named_linears
from tests.support.architectures import sequences, tiny
from tests.support.golden import seeds


def close(found, wanted, tolerance=1e-5):
    wanted = wanted.double()
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=tolerance * float(wanted.abs().max()))


def test_general_importance_is_the_authors_behind_the_first_128_columns_too():
    golden = seeds("d_pruner")
    hessian = Hessian(144)
    for sample in golden["inputs"]:
        hessian.add(sample)
    inverse = factor(hessian.triangle, 0.01, "a matrix", Calibration())
    close(general_importance(golden["weight"], inverse), golden["general_importance"], 1e-4)


def test_importances_and_masks_are_the_authors():
    golden = seeds("d_pruner")
    weight, general = golden["weight"].double(), golden["general_importance"].double()
    gradient = regularised(golden["gradient"].double(), general, 0.1 / 1000, 0.03)
    close(gradient, golden["gradient_regularised"], 1e-7)  # what it is of is stored in float32
    plain = golden["gradient"].double()
    names = {"published": "published", "first": "first_order_only", "second": "taylor_second"}
    for order, name in names.items():
        close(importance(plain, weight, order), golden[f"importance.{name}"])
    both = sum(importance(golden[name].double(), weight, "published") for name in ("gradient", "gradient_b"))
    close(both, golden["importance.sum_of_two"])
    summed = golden["importance.sum_of_two"]
    assert torch.equal(~mask(summed, Sparsity(0.52), "matrix"), golden["pruned_mask_52"].bool())
    ours, theirs = ~by_columns(summed, Sparsity(0.52)), golden["pruned_mask_52_blocks"].bool()
    assert not (ours & ~theirs).any()
    assert int((theirs & ~ours).sum()) == 1  # a percentile takes 1,065 of the 1,064.96 of 2,048 weights


def test_without_penalty_the_first_order_is_weight_times_gradient():
    model, ids = tiny("gpt2"), sequences(1)
    found = [linear for _, _, linear in named_linears(model)]
    pruner = DPruner(Sparsity(0.5), penalty=0.0, order="first")
    sums = pruner._importances(model, Calibration(tuple(ids)), found, zeros(found))
    true = Gradients(model, Calibration(tuple(ids)), "sum")
    for _, index, linear in named_linears(model):
        wanted = (linear.weight * true.of(index, linear)).abs()
        torch.testing.assert_close(part(sums, linear), wanted, rtol=1e-5, atol=1e-9)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_penalty_on_what_matters_in_general_changes_the_choice():
    masks = []
    for penalty in (0.0, 1e9):
        calibration = Calibration(tuple(sequences()))
        options = {"sparsity": 0.5, "penalty": penalty, "order": "first"}
        compress(tiny("llama"), [canonical("d-pruner", options)], calibration)
        masks.append(torch.cat([kept.flatten() for kept in calibration.masks.values()]))
    assert 0.5 < (masks[0] == masks[1]).float().mean() < 1


def test_open_text_is_the_first_sequences_and_the_domain_the_rest():
    calibration = Calibration(tuple(sequences()))
    options = {"sparsity": 0.5, "general": 1, "per": "columns"}
    report = compress(tiny("llama"), [canonical("d-pruner", options)], calibration)
    walk = (2 + 2 + 1) / 3  # the last of three blocks feeds none
    assert report["steps"][0]["passes"] == {"forward": round(walk + 3, 3), "backward": 3}
    with pytest.raises(KickError, match="4 of 4 sequences are open text"):
        compress(tiny("llama"), [canonical("d-pruner", options | {"general": 4})], sequences())
