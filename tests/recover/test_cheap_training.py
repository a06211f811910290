"""What makes training cheap changes no gradient: the head by slices, adapters' gradients in closed form."""

import pytest
import torch
from torch import nn

from kick.compress import canonical
from kick.compress.method import build
from kick.errors import CellFailed
from kick.recover import loss, remade
from tests.support.architectures import VOCABULARY, tiny


@pytest.mark.parametrize("name", ["llama", "gemma2", "opt", "gpt2", "mixtral", "mamba"])
def test_the_head_by_slices_gives_the_plain_loss_and_gradients(name, monkeypatch):
    monkeypatch.setattr(loss, "SLICE", 5 * VOCABULARY)
    model = tiny(name)
    ids = torch.randint(3, VOCABULARY, (1, 16), generator=torch.Generator().manual_seed(3))
    found = [one.requires_grad_(True) for one in model.parameters()]
    plain = model(ids, labels=ids, use_cache=False).loss
    expected = torch.autograd.grad(0.5 * plain, found, allow_unused=True)
    seen = []
    hook = model.get_output_embeddings().register_forward_hook(lambda _m, _x, out: seen.append(out.shape[-2]))
    assert loss.backward(model, ids, 0.5) == pytest.approx(0.5 * float(plain.detach()), rel=1e-5)
    hook.remove()
    assert max(seen) <= 5
    assert sum(seen) == 15
    for parameter, grad in zip(found, expected, strict=True):
        if grad is not None:
            torch.testing.assert_close(parameter.grad, grad, atol=1e-5, rtol=1e-4)
    assert loss.loss_of(model, ids) == pytest.approx(float(plain.detach()), rel=1e-5)


@pytest.mark.parametrize("form", ["lora", "masklora", "scalelora", "spp"])
def test_gradients_in_closed_form_are_those_of_autograd(form):
    made = build(canonical(f"recover-{form}", {"rank": 2} if form != "spp" else {}))
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(32, 12, generator=generator)
    mask = None if form == "lora" else torch.rand(32, 12, generator=generator) > 0.5
    weight = weight if mask is None else weight * mask
    start = [
        part + 0.1 * torch.randn(part.shape, generator=generator) for part in made.start(weight, generator)
    ]
    x, grad = torch.randn(1, 7, 12, generator=generator), torch.randn(1, 7, 32, generator=generator)
    bias = torch.randn(32, generator=generator)

    def leaves():
        return [one.clone().requires_grad_() for one in (x, bias, *start)]

    plain = leaves()
    expected = nn.functional.linear(plain[0], made.merged(weight, mask, *plain[2:]), plain[1])
    ours = leaves()
    found = made.forward(ours[0], weight, ours[1], mask, ours[2:])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for mine, other in zip(
        torch.autograd.grad(found, ours, grad), torch.autograd.grad(expected, plain, grad), strict=True
    ):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)


def _run(model, ids, form, keeping):
    """The adapters' gradients, and the bytes of activations that are kept at the end of the forward."""
    kept = {}

    def watched(tensor):
        found = keeping.pack(tensor)
        if (one := found.tensor if isinstance(found, remade.Kept) else None) is not None:
            kept[one.data_ptr()] = one
        return found

    with form.trained(model, {}, torch.Generator().manual_seed(0)) as trained, torch.enable_grad():
        for number, one in enumerate(trained.parameters.values()):
            one.data += 0.1 * torch.randn(one.shape, generator=torch.Generator().manual_seed(number))
        fixed = {one.data_ptr() for one in [*model.parameters(), *trained.parameters.values()]}
        with torch.autograd.graph.saved_tensors_hooks(watched, lambda found: found()):
            given = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        size = sum(one.nbytes for address, one in kept.items() if address not in fixed)
        given.backward(torch.randn(given.shape, generator=torch.Generator().manual_seed(1)))
        return [one.grad for one in trained.parameters.values()], size


class Plain:
    """Keeps everything, as autograd does."""

    pack = remade.Kept


@pytest.mark.parametrize(
    ("name", "form"),
    [("llama", "lora"), ("llama", "perp"), ("gemma2", "masklora"), ("opt", "lora"), ("gpt2", "last3")],
)
def test_what_is_made_again_changes_no_gradient_and_is_not_kept(name, form, monkeypatch):
    monkeypatch.setattr(remade, "LEAST", 1)
    twin, model = tiny(name), tiny(name)
    ids = torch.randint(3, VOCABULARY, (1, 16), generator=torch.Generator().manual_seed(3))
    made = build(canonical(f"recover-{form}", {"rank": 2} if "lora" in form else {}))
    expected, plain = _run(twin, ids, made, Plain)
    found, less = _run(model, ids, made, remade.Remaking(remade.epsilons(model)))
    assert all(torch.equal(mine, other) for mine, other in zip(found, expected, strict=True))
    assert less < plain
    if (name, form) == ("llama", "lora"):
        config = model.config  # two norms, an activation, a product; the first norm has no gradient
        values = config.num_hidden_layers * 2 * (config.hidden_size + config.intermediate_size)
        assert plain - less == 4 * ids.numel() * (values - config.hidden_size)


def test_what_is_written_to_after_it_was_kept_is_refused(monkeypatch):
    monkeypatch.setattr(remade, "LEAST", 1)
    x, w = torch.randn(4, 4, requires_grad=True), torch.randn(4, 4)
    with torch.enable_grad(), remade.remade(nn.Identity()):
        gate = x @ w
        found = (nn.functional.silu(gate) * gate).relu().sum()
        with torch.no_grad():
            gate.add_(1)
        with pytest.raises(CellFailed, match="written to"):
            found.backward()
