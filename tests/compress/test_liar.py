"""LIAR: the least squares of the vectors, and what a repair may never be worse than."""

import pytest
import torch

from kick.compress import canonical, check_saved, compress
from kick.compress.context import Calibration
from kick.compress.methods.liar import Gram, error, repaired
from kick.errors import CellFailed
from kick.model import blocks, named_linears
from tests.support.architectures import sequences, tiny
from tests.support.golden import seeds


@pytest.fixture(scope="module")
def golden():
    vectors = seeds("liar")
    gram = Gram(vectors["inputs"].shape[1])
    gram.add(vectors["inputs"])
    kept = vectors["keep"].bool().nonzero()[:, 0]
    return vectors, gram.fit, kept, vectors["weight"].double()


@pytest.mark.parametrize(
    ("key", "how", "damping", "constant"),
    [
        ("fold", "fold", 0.0, False),
        ("fold_ridge_0.01", "fold", 0.01, False),
        ("fold_intercept", "fold", 0.0, True),
    ],
)
def test_weights_are_those_of_the_vectors(golden, key, how, damping, constant):
    vectors, products, kept, weight = golden
    columns, shift = repaired(weight, products, kept, how, damping, constant)
    wanted = vectors[f"weight.{key}"].double()
    assert (columns - wanted).abs().max() < 1e-5 * wanted.abs().max()
    if constant:
        bias = vectors["bias.fold_intercept"].double()
        assert (vectors["bias"] + shift - bias).abs().max() < 1e-5 * bias.abs().max()


@pytest.mark.parametrize(
    ("key", "how", "constant"),
    [
        ("plain", "none", False),
        ("mean_only", "mean", True),
        ("fold", "fold", False),
        ("fold_bias", "fold", True),
        ("mask_tuning", "factors", False),
    ],
)
def test_errors_are_those_of_the_vectors(golden, key, how, constant):
    vectors, products, kept, weight = golden
    columns, shift = repaired(weight, products, kept, how, 0.0, constant)
    found = error(weight, columns, shift, kept, products)
    assert found == pytest.approx(float(vectors[f"relative_error.{key}"]), rel=1e-5)
    if key == "mask_tuning":
        factors = (columns / weight[:, kept]).mean(dim=0)
        torch.testing.assert_close(factors, vectors["mask_tuning.factors"], rtol=1e-6, atol=1e-9)
    if key == "mean_only":
        wanted = vectors["bias.mean_only"].double()
        assert (vectors["bias"] + shift - wanted).abs().max() < 1e-5 * wanted.abs().max()


def noted(**options):
    model, calibration = tiny("llama"), Calibration(tuple(sequences(8)))
    compress(model, [canonical("liar", {"share": 0.5, **options})], calibration)
    return model, {note["linear"]: note for note in calibration.notes if note["kind"] == "repair"}


@pytest.mark.parametrize("after", ["flap", "llm-pruner", "magnitude", "random"])
def test_a_repair_is_never_worse_on_what_it_is_fitted_on(after):
    found = {how: noted(after=after, repair=how)[1] for how in ("fold", "factors", "mean")}
    first = [name for name in found["fold"] if ".layers.0." in name]  # later blocks see other inputs
    assert len(first) == 2
    for name in first:
        removed = {one[name]["error_removed"] for one in found.values()}
        assert len(removed) == 1
        fold, factors, mean = (found[how][name]["error"] for how in ("fold", "factors", "mean"))
        assert fold <= mean <= removed.pop()
        assert factors <= mean
        assert found["fold"][name]["held_out_error"] >= 0


@pytest.mark.parametrize("after", ["flap", "llm-pruner"])
def test_without_a_repair_it_is_the_method_that_chooses(after):
    model, _ = noted(after=after, repair="none")
    other = tiny("llama")
    options = {"share": 0.5, "bias": False} if after == "flap" else {"share": 0.5}
    compress(other, [canonical(after, options)], sequences(8))
    chosen = {name: linear.weight for name, _, linear in named_linears(other)}
    first = {name: linear.weight for name, index, linear in named_linears(model) if index == 0}
    assert all(torch.equal(weight, chosen[name]) for name, weight in first.items())


def test_the_model_is_nearer_to_dense_than_without_repair():
    ids = sequences(3, 24, seed=8)

    def off(model):
        with torch.no_grad():
            return sum(float((model(x).logits - tiny("llama")(x).logits).square().mean()) for x in ids)

    assert off(noted(after="random")[0]) < off(noted(after="random", repair="none")[0])


def test_too_few_tokens_are_named_and_llama_can_be_saved():
    step = canonical("liar", {"share": 0.25})
    with pytest.raises(CellFailed, match="on 6 tokens; use more or longer"):
        compress(tiny("llama"), [step], sequences(1, 6))
    check_saved(tiny("llama"), [step])


def test_after_an_earlier_width_step_it_chooses_as_its_chooser():
    """In the first block, whose inputs no repair has changed: what was cut before is not cut again."""
    flap, plain = ("flap", {"share": 0.25, "bias": False}), ("liar", {"share": 0.25, "repair": "none"})
    found = []
    for recipe in ([flap, flap], [flap, plain]):
        model = tiny("llama")
        compress(model, [canonical(*step) for step in recipe], sequences(8))
        found.append(blocks(model)[0].state_dict())
    assert found[0].keys() == found[1].keys()
    for name, weight in found[0].items():
        assert torch.equal(weight, found[1][name]), name


@pytest.mark.parametrize("earlier", ["liar", "transact"])
def test_its_repair_runs_after_an_earlier_width_step(earlier):
    model = tiny("llama")
    compress(model, [canonical(one, {"share": 0.25}) for one in (earlier, "liar")], sequences(8))
    assert torch.isfinite(model(sequences(1)[0]).logits).all()


def test_kept_inputs_that_do_not_determine_the_rest_are_named():
    model = tiny("llama")
    for block in blocks(model):
        block.mlp.up_proj.weight[7] = 0  # an activation that is always 0, and whose weights are kept
        block.mlp.down_proj.weight[:, 7] = 9
    options = {"share": 0.5, "after": "magnitude", "damping": 0.0, "bias": False}
    with pytest.raises(CellFailed, match=r"inputs of model.layers.0.mlp.down_proj do not determine the rest"):
        compress(model, [canonical("liar", options)], sequences(8, 64))
