"""Expert usage: the experts that fewest tokens are sent to are removed.

What remains of ModuleFormer's pruning for a given model: Yikang Shen, Zheyu Zhang, Tianyou Cao, Shawn Tan,
Zhenfang Chen, Chuang Gan: ModuleFormer: Modularity Emerges from Mixture-of-Experts. 2023, arXiv 2306.04640,
which trains a mixture of its own and removes the modules that a task seldom uses.

Deviations: not the paper's system: its architecture, its training and its attention modules have no part in
this. Uses are counted on the calibration text, as the router's choices, each token once per chosen expert.
Every block keeps the same number of experts, so that the model's own config describes the result, and at
least as many as a token is sent to. The router's rows of the others stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kick.compress.context import Calibration, calibration_of
from kick.compress.depth import run
from kick.compress.method import method, option
from kick.compress.sparsity import Sparsity
from kick.compress.twin import Form
from kick.compress.widths import largest
from kick.errors import CellFailed, KickError
from kick.model import blocks, linears

_NAMES = ("num_experts", "num_local_experts", "n_routed_experts")  # in configs and modules
_ROUTERS = ("gate.weight", "gate.wg.weight", "router.weight", "router.classifier.weight")


@method(
    "expert-usage",
    title="Expert usage",
    paper="after Shen et al., 2023, arXiv 2306.04640 (ModuleFormer)",
    kind="structure",
    needs=("calibration", "structure"),
    place=90,
    serves="mixtures of experts: Mixtral, Qwen3-MoE, DeepSeek-V3",
)
@dataclass(frozen=True)
class ExpertUsage:
    """The experts that the router chooses least are removed; the model is smaller."""

    share: float = option("of the experts of each block that go", low=0, high=0.95)

    def check(self, model: nn.Module) -> None:
        """Raises KickError if the model is not a mixture, or too few experts would be left."""
        mixtures = [one for one in map(mixture, blocks(model)) if one is not None]
        if not mixtures:
            raise KickError(
                f"{type(model).__name__} has no experts that kick knows: expert-usage serves mixtures of "
                "experts (Mixtral, Qwen3-MoE); choose flap, last-n or shortgpt"
            )
        if len({one.count for one in mixtures}) > 1:
            raise KickError(
                f"blocks of {type(model).__name__} differ in their number of experts, which expert-usage "
                "does not serve; choose last-n or shortgpt"
            )
        config: Any = model.config
        if (getattr(config, "n_group", None) or 1) > 1:
            raise KickError(
                f"{type(model).__name__} chooses among groups of experts, which must stay whole; choose "
                "last-n or shortgpt"
            )
        left, chosen = self._left(mixtures[0].count), int(getattr(config, "num_experts_per_tok", None) or 1)
        if left < chosen:
            raise KickError(
                f"{left} of {mixtures[0].count} experts would be left, and each token is sent to {chosen}; "
                "choose a smaller share"
            )

    def forms(self, _model: nn.Module) -> list[Form]:
        """What the model becomes."""
        return [partial(_narrowed, method=self)]

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        for index, counts in usage(model, calibration).items():
            found = mixture(blocks(model)[index])
            if found is None:
                raise RuntimeError(f"block {index} has no experts")
            kept = largest(counts, self._left(found.count))
            lost = 1 - float(counts[kept].sum()) / max(float(counts.sum()), 1.0)
            gone = sorted(set(range(found.count)) - set(kept.tolist()))
            calibration.note("removed experts", layer=index, experts=gone, choices=round(lost, 6))
            found.keep(kept)
        _describe(model)

    def _left(self, count: int) -> int:
        return count - Sparsity.parse(self.share).count(count)


@dataclass(frozen=True, eq=False)
class Mixture:
    """A block's experts and the router that chooses among them."""

    block: nn.Module
    experts: nn.Module
    router: nn.Module

    @property
    def count(self) -> int:
        """How many experts there are."""
        return len(self.experts.get_parameter("gate_up_proj"))

    def keep(self, kept: Tensor) -> None:
        """Remove all experts but those kept (sorted), and what the router has of the others, in place."""
        count = self.count
        for name in ("gate_up_proj", "down_proj"):
            held = self.experts.get_parameter(name)
            setattr(self.experts, name, _part(held, kept))
        for name, tensor in [*self.router.named_parameters(), *self.router.named_buffers()]:
            owner, _, leaf = name.rpartition(".")
            if len(tensor) == count:
                setattr(self.router.get_submodule(owner), leaf, _part(tensor, kept))
        for module in self.block.modules():
            for name in (*_NAMES, "out_features"):
                if vars(module).get(name) == count and (name in _NAMES or module is self.router):
                    vars(module)[name] = len(kept)


def _part(held: Tensor, kept: Tensor) -> Tensor:
    part = held.data[kept.to(held.device)].contiguous()
    return nn.Parameter(part, requires_grad=False) if isinstance(held, nn.Parameter) else part


def mixture(block: nn.Module) -> Mixture | None:
    """A block's experts and router; None for a block without experts.

    Raises KickError for several sets of experts, or a router that kick does not know.
    """
    found = {id(x.module): x.module for x in linears(block) if x.expert is not None}
    if not found:
        return None
    experts = next(iter(found.values()))
    count = len(experts.get_parameter("gate_up_proj"))
    ends = tuple("." + end for end in _ROUTERS)
    routers = [
        block.get_submodule(name.rpartition(".")[0])
        for name, parameter in block.named_parameters()
        if name.endswith(ends) and len(parameter) == count
    ]
    if len(found) > 1 or len(routers) != 1:
        raise KickError(
            f"a block has {len(found)} sets of experts and {len(routers)} routers that kick knows; "
            "expert-usage expects one of each; choose last-n or shortgpt"
        )
    return Mixture(block, experts, routers[0])


def usage(model: nn.Module, calibration: Calibration) -> dict[int, Tensor]:
    """How many choices of the router each expert has, (experts,), by block that has experts."""
    counts: dict[int, Tensor] = {}
    handles = []
    for index, block in enumerate(blocks(model)):
        if (found := mixture(block)) is None:
            continue
        counts[index] = torch.zeros(found.count, dtype=torch.int64)

        def see(_module: nn.Module, args: tuple[Any, ...], index: int = index) -> None:
            chosen = args[1].flatten().cpu()
            counts[index] += torch.bincount(chosen, minlength=len(counts[index]))

        handles.append(found.experts.register_forward_pre_hook(see))
    try:
        run(model, calibration)
    finally:
        for handle in handles:
            handle.remove()
    for index, one in counts.items():
        if not one.sum():
            raise CellFailed(f"no token reached the experts of block {index}")
    return counts


def _narrowed(model: nn.Module, method: ExpertUsage) -> None:
    for block in blocks(model):
        if (found := mixture(block)) is not None:
            found.keep(torch.arange(method._left(found.count)))
    _describe(model)


def _describe(model: nn.Module) -> None:
    """Write the number of experts into the config."""
    count = next(found.count for found in map(mixture, blocks(model)) if found is not None)
    for name in _NAMES:
        if isinstance(getattr(model.config, name, None), int):
            setattr(model.config, name, count)
        if isinstance(vars(model).get(name), int):  # of a loss that balances experts
            vars(model)[name] = count
