"""`only` and `sparsities`: a pruning step that is about some matrices, or gives them shares of their own."""

from dataclasses import replace

import pytest
import torch

from kick import compress
from kick.compress import Calibration
from kick.compress.method import methods
from kick.errors import CellFailed, KickError
from kick.model import block_list, linears
from tests.support.architectures import sequences, tiny

UP, DOWN = "model.layers.1.mlp.up_proj", "model.layers.2.mlp.down_proj"
FOLLOWING = ["magnitude", "wanda", "random", "pruner-zero", "gblm"]


def weights(model):
    path, modules = block_list(model)
    return {
        f"{path}.{index}.{linear.name}": linear.weight.clone()
        for index, block in enumerate(modules)
        for linear in linears(block)
    }


def pruned(method, propagate="compressed", **options):
    model = tiny("llama")
    step = compress.canonical(method, {"sparsity": 0.5, **options})
    compress.compress(model, [step], sequences(), propagate=propagate)
    return weights(model)


@pytest.mark.parametrize("method", [*FOLLOWING, "sparsegpt", "admm"])
def test_one_matrix_alone_is_pruned_as_the_dense_pass_prunes_it_among_all(method):
    dense, alone = weights(tiny("llama")), pruned(method, "dense", only=UP)
    among_all = pruned(method, "dense")
    assert torch.equal(alone[UP], among_all[UP])
    assert not torch.equal(alone[UP], dense[UP])
    assert all(torch.equal(alone[name], dense[name]) for name in dense if name != UP)
    assert torch.equal(pruned(method, "compressed", only=UP)[UP], alone[UP])  # all before it is dense


@pytest.mark.parametrize("method", FOLLOWING)
def test_a_share_of_its_own_is_exact_and_the_others_keep_the_steps(method):
    found = pruned(method, sparsities={UP: 0.75, DOWN: 0.25})
    for name, weight in found.items():
        share = {UP: 0.75, DOWN: 0.25}.get(name, 0.5)
        assert int((weight == 0).sum()) == int(share * weight.numel()), name


@pytest.mark.parametrize(
    ("method", "options"),
    [("sparsegpt", {}), ("admm", {}), ("magnitude", {"per": "global"}), ("magnitude", {"ties": "authors"})],
)
def test_a_method_that_chooses_by_itself_is_told_before_anything_runs(method, options):
    with pytest.raises(ValueError, match=f"{method} cannot follow the option 'sparsities'"):
        compress.canonical(method, {"sparsity": 0.5, "sparsities": {UP: 0.75}, **options})


def test_a_method_of_ones_own_that_chooses_by_itself_is_told(monkeypatch):
    told = replace(methods["sparsegpt"], chooses="")  # as the author of a method may forget it
    monkeypatch.setitem(methods._items, "sparsegpt", told)
    with pytest.raises(CellFailed, match="chooses by itself"):
        pruned("sparsegpt", sparsities={UP: 0.75})


def test_a_plain_step_has_the_options_that_it_always_had():
    assert dict(compress.canonical("wanda", {"sparsity": 0.5}).options) == {"sparsity": 0.5}


def test_a_later_step_has_no_scope_of_an_earlier_one():
    model = tiny("llama")
    steps = [
        compress.canonical("magnitude", {"sparsity": 0.5, "only": UP}),
        compress.canonical("magnitude", {"sparsity": 0.25}),
    ]
    context = Calibration()
    compress.compress(model, steps, context)
    shares = {name: float((~kept).float().mean()) for name, kept in context.masks.items()}
    assert shares.pop(UP) == 0.5
    assert set(shares.values()) == {0.25}


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"only": 3}, "'only' is 3"),
        ({"only": []}, "full name"),
        ({"sparsities": {}}, "a share each"),
        ({"sparsities": {UP: 1.5}}, "out of range"),
    ],
)
def test_values_that_are_neither_are_refused(options, word):
    with pytest.raises(ValueError, match=word):
        compress.canonical("wanda", {"sparsity": 0.5, **options})


@pytest.mark.parametrize("options", [{"only": "model.layers.1.mlp.up"}, {"sparsities": {f"{UP}s": 0.5}}])
def test_a_name_that_is_no_matrix_is_refused_with_its_neighbour(options):
    with pytest.raises(KickError, match=r"mlp\.up_proj"):
        pruned("magnitude", **options)


def test_quantizers_have_no_such_options():
    with pytest.raises(ValueError, match="only"):
        compress.canonical("rtn", {"bits": 4, "only": UP})
