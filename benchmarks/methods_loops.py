"""Plain loops of two structured methods, as one writes them from their papers: for benchmarks/methods.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kick.compress.coupled import Coupled
from kick.model import Linear, named_linears

Masks = list[tuple[Tensor, Tensor]]


class Adapted:
    """LoRA's factors beside a matrix: trained parameters, in the forward pass by a hook."""

    def __init__(self, module: nn.Module, shape: torch.Size, rank: int, scale: float):
        rows, columns = shape
        self.scale = scale
        self.a = ((2 * torch.rand(rank, columns) - 1) / math.sqrt(columns)).requires_grad_(True)
        self.b = torch.zeros(rows, rank, requires_grad=True)
        self.handle = module.register_forward_hook(self._add)

    def _add(self, _module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return output + self.scale * (args[0] @ self.a.t() @ self.b.t())

    def sensitivity(self, weight: Tensor) -> Tensor:
        """(out, in): the gradient that the factors give, times the merged weight."""
        a, b, of_a, of_b = self.a.detach(), self.b.detach(), self.a.grad, self.b.grad
        gradient = of_b @ a + b @ of_a - of_b @ of_a
        return (gradient * (weight + self.scale * b @ a)).abs()


def plain_loraprune(
    model: Any, found: Sequence[Coupled], texts: Sequence[Tensor], gone: tuple[int, int]
) -> Masks:
    """Which groups and channels are on after a step per sequence, if `gone` of each go."""
    adapted = [
        {name: Adapted(linear.module, linear.weight.shape, 8, 2.0) for name, linear in _named(one).items()}
        for one in found
    ]
    on: Masks = [(torch.ones(one.kv_heads), torch.ones(one.channels)) for one in found]
    means: Masks = [(torch.zeros(one.kv_heads), torch.zeros(one.channels)) for one in found]
    for step, ids in enumerate(texts, 1):
        handles = [
            module.register_forward_pre_hook(lambda _m, args, mask=mask: (args[0] * mask, *args[1:]))
            for one, (groups, channels) in zip(found, on, strict=True)
            for module, mask in (
                (one.o.module, groups.repeat_interleave(one.heads_a_group * one.head)),
                (one.readers[1].module, channels),
            )
        ]
        with torch.enable_grad():
            embedded = model.get_input_embeddings()(ids)
            model(inputs_embeds=embedded, labels=ids, use_cache=False).loss.backward()
        for handle in handles:
            handle.remove()
        begin, end = 0.1 * len(texts), 0.9 * len(texts)
        ramp = 0.0 if step <= begin else 1 - (1 - min((step - begin) / (end - begin), 1.0)) ** 3
        for block, one in enumerate(found):
            scores = _scores(one, adapted[block])
            means[block] = tuple(0.9 * old + 0.1 * new for old, new in zip(means[block], scores, strict=True))
            on[block] = tuple(
                _off(mask, mean, math.floor(ramp * count + 1e-9))
                for mask, mean, count in zip(on[block], means[block], gone, strict=True)
            )
            for factors in adapted[block].values():
                factors.a.grad = factors.b.grad = None
    for parts in adapted:
        for one in parts.values():
            one.handle.remove()
    return on


def _named(one: Coupled) -> dict[str, Linear]:
    """The matrices of a block as Llama's, by short names."""
    gate, up = one.feedforward
    q, k, v = one.attention
    return {"q": q, "k": k, "v": v, "o": one.o, "gate": gate, "up": up, "down": one.readers[1]}


def _scores(one: Coupled, parts: dict[str, Adapted]) -> tuple[Tensor, Tensor]:
    sums = {}
    for name, factors in parts.items():
        found = factors.sensitivity(_named(one)[name].weight)
        total = found.sum(dim=0 if name in ("o", "down") else 1)
        if name in ("q", "k", "v", "o"):
            total = total.view(one.kv_heads, -1).sum(dim=1)
        sums[name] = total / total.norm() if total.norm() > 0 else total
    heads = torch.stack([sums[name] for name in ("q", "k", "v", "o")]).sum(dim=0)
    return heads, torch.stack([sums[name] for name in ("gate", "up", "down")]).sum(dim=0)


def _off(mask: Tensor, scores: Tensor, count: int) -> Tensor:
    order = scores.masked_fill(mask == 0, -torch.inf).argsort(stable=True)
    made = torch.ones_like(mask)
    made[order[: max(count, int((mask == 0).sum()))]] = 0
    return made


def plain_surgeon(model: Any, texts: Sequence[Tensor], share: float) -> None:
    """A shot of LLM Surgeon on rows and columns, in place: curvature, losses, the least ones, the update."""
    matrices = [one for _, _, one in named_linears(model)]
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    inputs: dict[nn.Module, Tensor] = {}
    sums: dict[nn.Module, list[Tensor]] = {}

    def forward(module: nn.Module, args: tuple[Any, ...], _output: Tensor) -> None:
        inputs[module] = args[0].detach().flatten(0, -2)

    def back(module: nn.Module, _given: Any, gradients: tuple[Tensor, ...]) -> None:
        seen[module] = inputs[module], gradients[0].flatten(0, -2)

    handles = [one.module.register_forward_hook(forward) for one in matrices]
    handles += [one.module.register_full_backward_hook(back) for one in matrices]
    for ids in texts:
        with torch.enable_grad():
            embedded = model.get_input_embeddings()(ids).detach().requires_grad_(True)
            model(inputs_embeds=embedded, labels=ids, use_cache=False).loss.backward()
        for module, (rows, gradients) in seen.items():
            new = rows.t() @ rows, gradients.t() @ gradients
            sums[module] = (
                [old + one for old, one in zip(sums[module], new, strict=True)]
                if module in sums
                else list(new)
            )
        seen.clear()
    for handle in handles:
        handle.remove()
    count = sum(ids.numel() for ids in texts)
    factors = [
        tuple(_damped(sums[one.module][i] / count, (0.01, 0.1)[i]) for i in (0, 1)) for one in matrices
    ]
    losses, stays = [], []
    for one, ((a, added_a), (g, added_g)) in zip(matrices, factors, strict=True):
        weight = one.weight.double()
        for w, inner, outer, added in ((weight, a, g, added_a), (weight.t(), g, a, added_g)):
            product = ((w @ inner) * w).sum(dim=1) - added * w.square().sum(dim=1)
            losses.append(product / (2 * torch.linalg.inv(outer).diagonal()))
            stays.append(torch.ones(len(w), dtype=torch.bool))
    _cheapest(losses, stays, round(share * sum(one.weight.numel() for one in matrices)))
    for i, (one, ((a, _), (g, _))) in enumerate(zip(matrices, factors, strict=True)):
        rows, columns = stays[2 * i], stays[2 * i + 1]
        weight = one.weight.double()
        left = rows[:, None] & columns
        push = (g @ weight.masked_fill(left, 0.0) @ a)[rows][:, columns]
        change = torch.linalg.inv(g[rows][:, rows]) @ push @ torch.linalg.inv(a[columns][:, columns])
        made = torch.zeros_like(weight)
        made[left] = (weight[rows][:, columns] + change).flatten()
        one.weight.copy_(made)


def _damped(factor: Tensor, share: float) -> tuple[Tensor, float]:
    added = share * float(factor.double().diagonal().mean())
    return factor.double() + added * torch.eye(len(factor), dtype=torch.float64), added


def _cheapest(losses: Sequence[Tensor], stays: Sequence[Tensor], budget: int) -> None:
    """Lines with the least losses go until the next one would exceed the budget of weights."""
    places = [(kind, place) for kind, one in enumerate(losses) for place in range(len(one))]
    for index in torch.cat(list(losses)).argsort(stable=True).tolist():
        kind, place = places[index]
        across = int(stays[kind ^ 1].sum())
        if across > budget:
            return
        stays[kind][place] = False
        budget -= across
