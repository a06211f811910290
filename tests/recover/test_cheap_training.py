"""What makes training cheap changes no gradient: the head by slices, adapters' gradients in closed form."""

import pytest
import torch
from torch import nn

from kick.compress import canonical
from kick.compress.method import build
from kick.recover import loss
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
