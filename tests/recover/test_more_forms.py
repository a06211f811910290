"""SLoPe's late adapter, EoRA with fine-tuning, expert-wise distillation: against closed forms."""

import pytest
import torch

from kick.compress import canonical, compress
from kick.compress.context import Calibration
from kick.compress.method import build
from kick.errors import KickError
from kick.model import named_linears
from kick.recover import train as training
from tests.recover.test_forms import OPTIONS, calibrated, texts
from tests.support.architectures import sequences, tiny

WANDA = canonical("wanda", {"sparsity": "2:4"})


def sides(model):
    return {name: one for name, one in model.named_buffers() if name.endswith(("side_down", "side_up"))}


def test_the_late_adapter_is_trained_in_the_last_steps_alone_and_stays_beside_the_weights():
    model, calibration = tiny("llama"), calibrated()
    form = canonical("recover-slope", OPTIONS | {"adapter": 2, "late": 0.1})
    report = compress(model, [WANDA, form], calibration)
    last = build(form).schedule.rate(5)  # of the six steps, the only one with an adapter
    for name, side in sides(model).items():
        if name.endswith("side_up"):  # Adam's first step is the rate, whatever the gradient
            torch.testing.assert_close(side.abs(), torch.full_like(side, last), rtol=1e-3, atol=0)
        else:
            assert 0.3 < float(side.std()) < 0.7  # normal, over the rank of 2
    for name, _, linear in named_linears(model):
        assert not linear.weight[~calibration.masks[name]].any()
    own, size = sum(one.numel() for one in sides(model).values()), report["footprint"]["packed_bytes"]
    plain = tiny("llama")
    without = compress(plain, [WANDA, canonical("recover-slope", OPTIONS)], calibrated())["footprint"]
    assert not sides(plain)
    assert size == without["packed_bytes"] + 2 * own  # 16 bits each


def test_a_killed_training_with_a_late_adapter_goes_on_with_equal_branches(tmp_path, monkeypatch):
    recipe = [WANDA, canonical("recover-slope", OPTIONS | {"adapter": 2, "late": 0.5})]
    whole = tiny("llama")
    compress(whole, recipe, calibrated())
    monkeypatch.setattr(training, "EVERY", 0.0)
    real, left = training._backward, [5]

    def killed(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(training, "_backward", killed)
    with pytest.raises(KeyboardInterrupt):
        compress(tiny("llama"), recipe, calibrated(work=tmp_path))
    monkeypatch.setattr(training, "_backward", real)
    model = tiny("llama")
    report = compress(model, recipe, calibrated(work=tmp_path))
    assert report["steps"][1]["training"]["resumed_at"] == 5
    expected = whole.state_dict()
    assert all(torch.equal(one, expected[name]) for name, one in model.state_dict().items())


def test_eora_starts_from_its_own_branches_and_trains_them_alone():
    options = {"tokens": 96, "length": 16, "rank": 3, "sequences": 6}
    windows, heldout = texts(build(canonical("recover-eora", options)).text())
    reference = tiny("llama")
    compress(reference, [WANDA, canonical("eora", {"rank": 3})], Calibration(tuple(windows)))
    asked = []

    def made(lr):
        model = tiny("llama")
        calibration = Calibration(tuple(windows), texts=lambda spec: asked.append(spec) or texts(spec))
        done = compress(model, [WANDA, canonical("recover-eora", options | {"lr": lr})], calibration)
        return model, done["steps"][1]["training"]

    still, _ = made(1e-12)
    for name, one in sides(reference).items():
        torch.testing.assert_close(sides(still)[name], one, atol=1e-6, rtol=1e-4)
    trained, done = made(1e-2)
    assert done["trained"] == sum(one.numel() for one in sides(trained).values())
    assert not any(torch.equal(one, sides(still)[name]) for name, one in sides(trained).items())
    for name, one in trained.named_parameters():
        assert torch.equal(one, dict(still.named_parameters())[name]), name
    assert len(heldout) == 2
    assert len(asked) == 2  # once per training: with branches a ranking would choose other windows


def test_what_adds_a_second_branch_or_has_nothing_to_make_up_for_is_refused():
    eora = canonical("eora", {"rank": 2})
    with pytest.raises(KickError, match="leaves its own"):
        compress(tiny("llama"), [WANDA, canonical("recover-eora", OPTIONS), eora], calibrated())
    with pytest.raises(KickError, match="after one that prunes"):
        compress(tiny("llama"), [canonical("recover-eora", OPTIONS)], calibrated())
    with pytest.raises(KickError, match="moe-distill serves mixtures"):
        compress(tiny("llama"), [canonical("recover-moe-distill", OPTIONS)], calibrated())


@torch.no_grad()
def test_distance_of_experts_is_the_mean_squared_error_of_each_over_its_own_tokens():
    model, ids = tiny("mixtral"), sequences()[0]
    plain = model(ids, labels=ids)
    seen = {}
    first = model.model.layers[0].mlp.experts
    hook = first.register_forward_pre_hook(lambda _module, args: seen.update(x=args[0], chosen=args[1]))
    form = build(canonical("recover-moe-distill", {"balance": 0.5}))
    with form.trained(model, {}, torch.Generator()) as trained:
        torch.testing.assert_close(model(ids).logits, plain.logits, atol=1e-5, rtol=0)
        assert float(trained.extra()) == 0
        dense = first.down_proj.clone()
        first.down_proj.mul_(1 + 0.1 * torch.randn(dense.shape, generator=torch.Generator().manual_seed(0)))
        changed = model(ids, labels=ids)
        hook.remove()
        expected = 0.0
        for expert in seen["chosen"].unique():
            x = seen["x"][(seen["chosen"] == expert).any(dim=-1)]
            gate, up = (x @ first.gate_up_proj[expert].t()).chunk(2, dim=-1)
            inner = torch.nn.functional.silu(gate) * up
            expected += float((inner @ (first.down_proj[expert] - dense[expert]).t()).square().mean())
        distance = trained.extra
        assert float(distance._taken()) == pytest.approx(expected, rel=1e-4)
        distance.prepare(model, ids)
        assert distance.weight == pytest.approx(0.5 * float(changed.loss) / expected, rel=1e-4)
    assert "forward" not in vars(first)
