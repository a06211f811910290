"""One matrix over all forms of recovery; a new form joins it by its file."""

import copy

import pytest
import torch

from kick.compress import canonical, compress
from kick.compress.context import Calibration
from kick.compress.method import build, methods
from kick.errors import CellFailed, KickError
from kick.model import named_linears
from kick.recover import train as training
from tests.support.architectures import VOCABULARY, sequences, tiny

FORMS = [name for name in methods if methods[name].kind == "recover"]
OPTIONS = {"tokens": 96, "length": 16, "lr": 1e-2}
MERGED_OTHERWISE = {"recover-lora-prune"}  # as published
WHOLE = {"recover-reconstruct", "recover-eora"}  # more than parameters that are trained while it is open


def model_for(form):
    return tiny("mixtral" if form == "recover-moe-distill" else "llama")


def texts(spec):
    generator = torch.Generator().manual_seed(spec.seed)
    made = [
        torch.randint(3, VOCABULARY, (1, spec.length), generator=generator) for _ in range(spec.windows + 2)
    ]
    return made[:-2], made[-2:]


def calibrated(**more):
    return Calibration(tuple(sequences()), texts=texts, **more)


def prepared(form, **options):
    """The steps before a form, and the form: after zeros where it keeps them, else after fewer blocks."""
    before = ("last-n", {"layers": 1}) if build(canonical(form, {})).fills else ("wanda", {"sparsity": "2:4"})
    return [canonical(*before), canonical(form, OPTIONS | options)]


def weights(model):
    return {name: linear.weight.clone() for name, _, linear in named_linears(model)}


@pytest.mark.parametrize("form", FORMS)
def test_zeros_stay_and_something_is_learnt(form):
    model, dense, calibration = model_for(form), model_for(form), calibrated()
    recipe = prepared(form)
    report = compress(model, recipe, calibration)
    pruned = model_for(form)
    compress(pruned, recipe[:1], calibrated())
    done = report["steps"][1]["training"]
    assert (done["steps"], done["tokens"]) == (6, 96)
    assert 0 < done["share"] <= 1
    assert report["steps"][1]["sparsity"] == report["steps"][0]["sparsity"]
    for name, weight in weights(model).items():
        if name in calibration.masks:
            assert not weight[~calibration.masks[name]].any(), name
    before = pruned.state_dict()
    changed = [n for n, p in model.state_dict().items() if n not in before or not torch.equal(p, before[n])]
    assert changed
    assert not any(parameter.requires_grad for parameter in model.parameters())
    ids = sequences()[0]
    assert not torch.equal(model(ids).logits, dense(ids).logits)


@pytest.mark.parametrize("form", [form for form in FORMS if form not in WHOLE])
@torch.no_grad()
def test_merged_logits_are_those_of_the_adapters(form):
    model, calibration = model_for(form), calibrated()
    compress(model, prepared(form)[:1], calibration)
    made = build(canonical(form, OPTIONS))
    ids = sequences()[0]
    with made.trained(model, calibration.masks, torch.Generator().manual_seed(0)) as trained:
        torch.testing.assert_close(model(ids).logits, _plain(made, model, ids), atol=1e-5, rtol=0)
        for number, parameter in enumerate(trained.parameters.values()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter.add_(0.02 * noise)
        trained.after_step()
        before = model(ids).logits
        trained.merge()
    same = torch.allclose(model(ids).logits, before, atol=1e-5, rtol=0)
    assert same == (form not in MERGED_OTHERWISE)


def _plain(made, model, ids):
    """The logits of the model without what a form has put there: those at the start."""
    twin = copy.deepcopy(model)
    for module in twin.modules():
        vars(module).pop("forward", None)
    return twin(ids).logits


@pytest.mark.parametrize("form", ["recover-masklora", "recover-perp", "recover-last3"])
def test_a_killed_run_goes_on_with_equal_weights(form, tmp_path, monkeypatch):
    def made(folder, **more):
        model = tiny("llama")
        compress(model, prepared(form, **more), calibrated(work=folder))
        return weights(model) | dict(model.named_parameters())

    whole = made(None)
    monkeypatch.setattr(training, "EVERY", 0.0)
    real, left = training._backward, [4]

    def killed(*arguments):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(*arguments)

    monkeypatch.setattr(training, "_backward", killed)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path)
    monkeypatch.setattr(training, "_backward", real)
    model = tiny("llama")
    report = compress(model, prepared(form), calibrated(work=tmp_path))
    assert report["steps"][1]["training"]["resumed_at"] == 4
    again = weights(model) | dict(model.named_parameters())
    assert all(torch.equal(again[name], one) for name, one in whole.items())
    with pytest.raises(CellFailed, match="another training"):
        made(tmp_path, tokens=64)


def test_another_seed_is_another_model():
    made = []
    for seed in (0, 0, 1):
        model = tiny("llama")
        compress(model, prepared("recover-masklora", seed=seed), calibrated())
        made.append(weights(model))
    assert all(torch.equal(made[1][name], one) for name, one in made[0].items())
    assert not all(torch.equal(made[2][name], one) for name, one in made[0].items())


def test_recomputed_blocks_give_equal_weights():
    made = []
    for recompute in (False, True):
        model = tiny("llama")
        compress(model, prepared("recover-masklora", recompute=recompute), calibrated())
        made.append(weights(model))
    for name, one in made[0].items():
        torch.testing.assert_close(made[1][name], one, atol=1e-6, rtol=0)


def test_bfloat16_learns_in_float32():
    model = tiny("llama").bfloat16()
    report = compress(model, prepared("recover-perp"), calibrated())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert report["steps"][1]["training"]["loss_last"] > 0


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ([("wanda", {"sparsity": 0.5}), ("recover-lora", {})], "fill the zeros of wanda"),
        ([("rtn", {"bits": 4}), ("recover-masklora", {})], "before rtn"),
        ([("recover-masklora", {}), ("wanda", {"sparsity": 0.5})], "must come before recover-masklora"),
        ([("recover-perp", {"parts": "biases"})], "no biases"),
        ([("recover-last3", {"blocks": 4})], "trains 4 blocks"),
        ([("recover-last3", {"head": True})], "tied"),
        ([("recover-reconstruct", {})], "after one that prunes"),
        ([("last-n", {"layers": 1}), ("recover-reconstruct", {})], "not after last-n"),
        ([("recover-perp", {}), ("recover-masklora", {})], "one per recipe"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_run(recipe, message):
    model = tiny("llama")
    with pytest.raises(KickError, match=message):
        compress(model, [canonical(*step) for step in recipe], calibrated())


def test_dense_can_be_trained_and_then_be_rounded():
    model = tiny("llama")
    report = compress(
        model, [canonical("recover-lora", OPTIONS), canonical("rtn", {"bits": 4})], calibrated()
    )
    assert [step["kind"] for step in report["steps"]] == ["recover", "quantize"]
    assert "training" not in report["steps"][1]


def test_last_blocks_alone_change():
    model, before = tiny("llama"), dict(tiny("llama").named_parameters())
    compress(model, [canonical("recover-last3", OPTIONS | {"blocks": 1})], calibrated())
    changed = {name for name, one in model.named_parameters() if not torch.equal(one, before[name])}
    assert changed
    assert all(name.startswith(("model.layers.2.", "model.norm.")) for name in changed)


def test_a_loss_that_is_not_a_number_fails():
    with pytest.raises(CellFailed, match="smaller lr"):
        compress(tiny("llama"), prepared("recover-perp", lr=1e30), calibrated())


@pytest.mark.parametrize("name", ["opt", "gpt2", "gpt_neox", "mixtral", "mamba"])
def test_other_architectures_are_trained_or_refused(name):
    for form in ("recover-masklora", "recover-perp", "recover-last3"):
        model, recipe = tiny(name), prepared(form)
        if form == "recover-masklora" and name in ("mixtral", "mamba"):
            with pytest.raises(KickError, match="choose"):
                compress(model, recipe, calibrated())
            continue
        calibration = calibrated()
        compress(model, recipe, calibration)
        for linear, weight in weights(model).items():
            assert not weight[~calibration.masks[linear]].any()


@pytest.mark.parametrize("parts", ["norms", "masklora"])
def test_reconstruction_brings_each_block_nearer_to_its_dense_output(parts):
    model, pruned, calibration = tiny("llama"), tiny("llama"), calibrated()
    recipe = prepared("recover-reconstruct", parts=parts, tokens=1280, lr=1e-2)
    done = compress(model, recipe, calibration)["steps"][1]["training"]
    compress(pruned, recipe[:1], calibrated())
    assert len(done["block_errors"]) == 3
    assert all(last < first for first, last in done["block_errors"])
    # the first block's input is the embedding for all three: its output must be nearer to the dense one
    ids = sequences()[0]
    outputs = [one(ids, output_hidden_states=True).hidden_states[1] for one in (tiny("llama"), pruned, model)]
    before, after = ((one - outputs[0]).square().mean() for one in outputs[1:])
    assert after < before
