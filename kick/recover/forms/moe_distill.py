"""MoE-Pruner's expert-wise distillation: each pruned expert is held to what its dense twin gives.

Yanyue Xie et al.: MoE-Pruner: Pruning Mixture-of-Experts Large Language Model using the Hints from Its
Router. 2024, arXiv 2410.12013. The loss is the cross entropy plus lambda times the sum over layers and
experts of the mean squared error between an expert's output and its dense twin's; lambda starts from the
ratio of the two losses. The experts' matrices are trained in full under their masks, routers and all else
stay.

Deviations: no code was published; both experts are given the pruned model's hidden states, for the tokens
that its router sends there, where a whole teacher beside it would have hidden states and routes of its own;
lambda is `balance` times the ratio on the first window, and fixed from then on; plain text in packed windows.
The dense experts are held in memory beside the pruned ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from kick.compress.context import Calibration
from kick.compress.method import method, methods, option
from kick.compress.methods.moe_pruner import check_mixture
from kick.errors import KickError
from kick.model import Linear, block_list, linears
from kick.records import Step
from kick.recover.form import RecoveryForm, Trained
from kick.recover.loss import loss_of
from kick.recover.parameters import Parameters, cleared, freed

MATRICES = ("gate_up_proj", "down_proj")


@method(
    "recover-moe-distill",
    title="Expert-wise distillation",
    paper="Xie et al., 2024, arXiv 2410.12013",
    kind="recover",
    trains=True,
    place=55,
    serves="mixtures of experts: Mixtral, Qwen3-MoE, DeepSeek-V3",
)
@dataclass(frozen=True, kw_only=True)
class MoeDistill(RecoveryForm):
    """Experts are trained in full under their masks, each towards its dense twin's output."""

    balance: float = option(
        "the distillation's weight: times the ratio of both losses at the start", 1.0, low=0
    )
    lr: float = option("the highest learning rate", 1e-5, low=0)

    dense = True  # the dense weights are kept for it

    def follows(self, earlier: Sequence[Step]) -> None:
        """Raises KickError if experts have other shapes than the dense ones."""
        super().follows(earlier)
        for step in earlier:
            if methods[step.method].structured:
                raise KickError(f"{self.name} needs the dense experts in place; not after {step.method}")

    def check(self, model: nn.Module) -> None:
        """Raises KickError if the model is not a mixture of experts."""
        check_mixture(model, self.name)

    @contextmanager
    def opened(self, model: Any, calibration: Calibration, generator: torch.Generator) -> Iterator[Trained]:
        """While open, experts are trained, beside the dense ones that earlier steps were given."""
        path, modules = block_list(model)
        pairs, own = list[_Pair](), Parameters()
        for index, block in enumerate(modules):
            groups: dict[str, list[Linear]] = {}
            for linear in linears(block):
                if linear.expert is not None:
                    groups.setdefault(_path(block, linear.module), []).append(linear)
            dense = calibration.dense.of(index) if groups and calibration.dense is not None else {}
            for name, group in groups.items():
                pairs.append(_Pair(group[0].module, _twin(group, dense)))
                own |= {f"{path}.{index}.{name}.{one}": getattr(group[0].module, one) for one in MATRICES}
        distance = _Distance(pairs, self.balance)
        with freed(own), _beside(pairs):
            yield Trained(
                own,
                after_step=cleared(model, calibration.masks, own),
                extra=distance,
                prepare=partial(distance.prepare, model),
            )

    @contextmanager
    def trained(
        self, model: nn.Module, masks: Mapping[str, Tensor], generator: torch.Generator
    ) -> Iterator[Trained]:
        """The same, towards the experts as they are now."""
        with self.opened(model, Calibration(masks=dict(masks)), generator) as made:
            yield made


@dataclass(eq=False)
class _Pair:
    """A layer's experts, the dense ones' matrices, and the last distance between their outputs."""

    module: Any
    twin: dict[str, Tensor]
    distance: Tensor | None = field(default=None)


@dataclass(eq=False)
class _Distance:
    """lambda times the sum of the distances of a forward."""

    pairs: Sequence[_Pair]
    balance: float
    weight: float = 0.0

    def __call__(self) -> Tensor | None:
        """Of the last forward, once."""
        found = self._taken()
        return None if found is None else self.weight * found

    def prepare(self, model: Any, ids: Tensor) -> None:
        """Let lambda balance the losses on a window (1, length)."""
        loss, found = loss_of(model, ids), self._taken()
        apart = 0.0 if found is None else float(found)
        self.weight = self.balance * loss / apart if apart else 0.0

    def _taken(self) -> Tensor | None:
        found = [one.distance for one in self.pairs if one.distance is not None]
        for one in self.pairs:
            one.distance = None
        return torch.stack(found).sum() if found else None


def _path(block: nn.Module, module: nn.Module) -> str:
    return next(name for name, one in block.named_modules() if one is module)


@torch.no_grad()
def _twin(group: Sequence[Linear], dense: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of a module's stacked matrices, (experts, out, in), with the dense weights in their places."""
    module: Any = group[0].module
    made = {name: getattr(module, name).detach().clone() for name in MATRICES}
    for linear in group:
        if linear.name in dense and linear.expert is not None:
            made[linear.parameter][linear.expert].copy_(dense[linear.name])
    return made


@contextmanager
def _beside(pairs: Sequence[_Pair]) -> Iterator[None]:
    """While open, the experts note how far their outputs are from their twins'."""
    try:
        for pair in pairs:
            vars(pair.module)["forward"] = partial(_forward, pair, pair.module.forward)
        yield
    finally:
        for pair in pairs:
            del vars(pair.module)["forward"]


def _forward(
    pair: _Pair, own: Callable[..., Tensor], hidden: Tensor, chosen: Tensor, weights: Tensor
) -> Tensor:
    """Output (tokens, H) for hidden (tokens, H) and the router's choices and weights (tokens, k)."""
    count = chosen.shape[-1]
    rows = hidden.repeat_interleave(count, dim=0)
    each = chosen.reshape(-1, 1)
    one = torch.ones_like(weights).reshape(-1, 1)
    ours = own(rows, each, one)
    with torch.no_grad(), _own_forward(pair.module):
        twin = functional_call(pair.module, pair.twin, (rows, each, one))
    sizes = torch.bincount(each[:, 0])[each[:, 0]]  # tokens of a row's expert
    errors = (ours.float() - twin.float()).square().mean(dim=-1)
    pair.distance = (errors / sizes).sum()
    return (ours.unflatten(0, (-1, count)) * weights[..., None].to(ours.dtype)).sum(dim=1)


@contextmanager
def _own_forward(module: Any) -> Iterator[None]:
    """While open, the module's class's forward is called again."""
    patched = vars(module).pop("forward")
    try:
        yield
    finally:
        vars(module)["forward"] = patched
