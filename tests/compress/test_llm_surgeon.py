"""LLM Surgeon against the authors' losses and updates, the exact minimiser, and autograd."""

import pytest
import torch

from kick.compress import canonical, check, compress
from kick.compress.context import Calibration
from kick.compress.methods.llm_surgeon import (
    Curvature,
    cheapest,
    curvature,
    filled,
    lines,
    row_losses,
)
from kick.errors import KickError
from kick.model import blocks, linears, named_linears
from tests.support.architectures import sequences, tiny
from tests.support.golden import seeds

NAMES = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
NAMES += ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
DAMPING = (0.01, 0.01)


def factors(golden, name):
    return Curvature((golden[f"{name}.A"], golden[f"{name}.G"]), DAMPING, name)


def distance(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_the_authors(name):
    golden = seeds("llm_surgeon")
    one, weight = factors(golden, name), golden[f"{name}.weight"].double()
    found = {
        "element": one.elements(weight),
        "row": row_losses(weight, one.a, one.g_inverse, one.added[0]),
        "column": row_losses(weight.t(), one.g, one.a_inverse, one.added[1]),
    }
    for kind, losses in found.items():
        wanted = golden[f"{name}.{kind}_loss"].double()
        torch.testing.assert_close(losses, wanted, rtol=1e-5, atol=1e-5 * float(wanted.max()))


@pytest.mark.parametrize("name", NAMES)
def test_the_update_of_single_weights_is_the_exact_minimiser(name):
    golden = seeds("llm_surgeon")
    for kind in ("weight", "brute_force"):
        wanted = golden[f"{name}.element30.{kind}"].double()
        kept = golden[f"{name}.element30.weight"] != 0
        made, residual = filled(golden[f"{name}.weight"].double(), kept, factors(golden, name))
        assert residual <= 1e-7
        assert distance(made, wanted) < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_the_update_of_lines_is_the_authors_where_theirs_is_exact(name):
    golden = seeds("llm_surgeon")
    rows, columns = (golden[f"{name}.structured30.{kind}_removed"] == 0 for kind in ("rows", "columns"))
    one, weight = factors(golden, name), golden[f"{name}.weight"].double()
    made = lines(weight, rows, columns, one)
    exact, _ = filled(weight, rows[:, None] & columns, one)
    assert distance(made, exact) < 1e-5
    if rows.all() or columns.all():
        assert distance(made, golden[f"{name}.structured30.weight"].double()) < 1e-4

    def loss(new):
        change = new - weight
        return float((one.apply(change) * change).sum())

    assert loss(made) <= loss(weight * (rows[:, None] & columns)) + 1e-18
    assert loss(made) <= loss(golden[f"{name}.structured30.weight"].double()) * (1 + 1e-5) + 1e-18


def test_the_lines_chosen_are_the_authors():
    golden = seeds("llm_surgeon")
    losses = [golden[f"{name}.{kind}_loss"] for name in NAMES for kind in ("row", "column")]
    stays = [torch.ones(len(one), dtype=torch.bool) for one in losses]
    total = sum(golden[f"{name}.weight"].numel() for name in NAMES)
    cheapest(losses, stays, int(0.3 * total))
    wanted = [golden[f"{n}.structured30.{kind}_removed"] == 0 for n in NAMES for kind in ("rows", "columns")]
    assert all(torch.equal(one, other) for one, other in zip(stays, wanted, strict=True))


def test_factors_are_means_over_tokens_of_what_autograd_gives():
    model, ids = tiny("llama"), sequences(1)[0]
    found = [linear for _, _, linear in named_linears(model)]
    place = next(i for i, one in enumerate(found) if one.name.endswith("up_proj"))
    a, g = curvature(model, Calibration((ids,)), found)[place]
    seen = {}

    def keep(_module, args, output):
        seen["input"], seen["output"] = args[0], output
        output.retain_grad()

    handle = found[place].module.register_forward_hook(keep)
    found[place].module.weight.requires_grad_(True)
    model(ids, labels=ids).loss.backward()
    handle.remove()
    x, gradient = seen["input"][0].detach(), seen["output"].grad[0]
    torch.testing.assert_close(a, x.t() @ x / ids.numel(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(g, gradient.t() @ gradient / ids.numel(), rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(gradient.t() @ x, found[place].module.weight.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("shots", [1, 3])
def test_two_of_each_four_go_and_exactly_half(shots):
    model = tiny("llama")
    options = {"sparsity": "2:4", "shots": shots}
    report = compress(model, [canonical("llm-surgeon", options)], sequences())
    assert report["steps"][0]["sparsity"] == 0.5
    for block in blocks(model):
        for linear in linears(block):
            assert ((linear.weight.reshape(-1, 4) == 0).sum(dim=1) == 2).all(), linear.name


def test_rows_and_columns_go_whole_and_no_more_weights_than_asked():
    model, calibration = tiny("llama"), Calibration(tuple(sequences()))
    options = {"sparsity": 0.3, "structure": "row-column", "shots": 2}
    report = compress(model, [canonical("llm-surgeon", options)], calibration)
    assert 0.3 - 64 / 27648 < report["steps"][0]["sparsity"] <= 0.3
    for name, kept in calibration.masks.items():
        assert torch.equal(kept, kept.any(dim=1)[:, None] & kept.any(dim=0)), name
    with pytest.raises(KickError, match="rows and columns have no n:m"):
        check(model, [canonical("llm-surgeon", options | {"sparsity": "2:4"})])
