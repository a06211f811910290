"""FlexiGPT: blocks with the least influence get another block's weights, and a low-rank branch of their own.

James Seale Smith, Chi-Heng Lin, Shikhar Tuli, Haris Jeelani, Shangqian Gao, Yilin Shen, Hongxia Jin,
Yen-Chang Hsu: FlexiGPT: Pruning and Extending Large Language Models with Low-Rank Weight Sharing. NAACL
2025, arXiv 2501.14713. The blocks with the least influence, 1 - cosine of input and output, are replaced. A
replaced block shares the matrices of that kept block whose difference to it a rank-r decomposition explains
best, and adds the decomposition as a side branch of each matrix. What it adds to the hidden states is
scaled to its old size.

Deviations: the authors published no code, and train for a billion tokens afterwards; nothing is trained
here. The scale is our reading of their normalisation of outputs: one factor per channel, the root mean
square of what the dense block adds over that of its replacement, on calibration data. Norms and biases stay
the block's own. Fewer parameters are stored, but no computation is saved: no block runs faster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kick.compress.context import Calibration, calibration_of
from kick.compress.dense import add_branch
from kick.compress.depth import check_depth, outputs_of, run
from kick.compress.method import method, option
from kick.compress.methods.shortgpt import block_influence
from kick.errors import KickError
from kick.model import blocks, linears
from kick.model.structure import check_called, hidden_of


@method(
    "flexigpt",
    title="FlexiGPT, untrained",
    paper="Smith et al., NAACL 2025, arXiv 2501.14713",
    kind="structure",
    needs=("calibration", "structure"),
    place=80,
    serves="all but mixtures of experts, Mamba and Qwen3.5",
    last="its blocks share weights, which a later step would change twice",
)
@dataclass(frozen=True)
class FlexiGpt:
    """Blocks with the least influence share another's weights, plus a low-rank branch; fewer are stored."""

    layers: int = option("how many blocks are replaced", low=1)
    rank: int = option("of the side branch of each matrix", 8, low=0)
    scale: bool = option("scale what a replaced block adds to its old size, per channel", True)

    def check(self, model: nn.Module) -> None:
        """Raises KickError if the model has no more blocks than that, or a matrix cannot have a branch."""
        check_depth(model, self.layers)
        check_called(model, "flexigpt")
        shapes = [{x.name: x.weight.shape for x in linears(block)} for block in blocks(model)]
        if any(one != shapes[0] for one in shapes):
            raise KickError(
                f"blocks of {type(model).__name__} differ in their matrices and cannot share them; choose "
                "shortgpt or last-n, which drop whole layers"
            )

    def check_saved(self, _model: nn.Module) -> None:
        """Raises KickError: no config says that blocks share weights."""
        raise KickError(
            "flexigpt shares weights between blocks, which no checkpoint of transformers stores; "
            "measure it with `kick run`"
        )

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        influence = block_influence(model, calibration)
        calibration.note("block influence", values=[round(value, 6) for value in influence.tolist()])
        gone = sorted(influence.argsort(stable=True)[: self.layers].tolist())
        before = added_by(model, calibration, gone) if self.scale else {}
        for index in gone:
            donor, facts = self._replace(blocks(model), index, set(gone))
            if self.scale:
                size = added_by(model, calibration, [index])[index]
                ratio = torch.where(size > 0, before[index] / size.clamp(min=1e-30), 1.0)
                add_scale(blocks(model)[index], ratio)
            calibration.note("shared weights", layer=index, of=donor, **facts)

    def _replace(
        self, modules: list[nn.Module], index: int, gone: set[int]
    ) -> tuple[int, dict[str, float | int]]:
        """Give block `index` its donor's matrices and the branches: the donor, and what to note."""
        own = matrices(modules[index])
        energies = {
            other: residual_energy(own, matrices(modules[other]), self.rank)
            for other in range(len(modules))
            if other not in gone
        }
        donor = min(energies, key=lambda other: (energies[other], other))
        kept = 0
        for mine, theirs in zip(linears(modules[index]), linears(modules[donor]), strict=True):
            difference = mine.weight.float() - theirs.weight.float()
            mine.module.weight = theirs.module.weight
            if self.rank:
                down, up = truncated(difference, self.rank)
                add_branch(mine.module, down, up)
                kept += down.numel() + up.numel()
        whole = sum(float(one.double().square().sum()) for one in own.values())
        return donor, {"residual": round(energies[donor] / whole, 6), "branch_parameters": kept}


def matrices(block: nn.Module) -> dict[str, Tensor]:
    """A block's matrices (out, in) by name."""
    return {linear.name: linear.weight for linear in linears(block)}


def residual_energy(own: Mapping[str, Tensor], other: Mapping[str, Tensor], rank: int) -> float:
    """What rank r leaves of the squared difference of two blocks' matrices, summed over them."""
    total = 0.0
    for name, weight in own.items():
        change = weight.double() - other[name].double()
        gram = change @ change.t() if change.shape[0] <= change.shape[1] else change.t() @ change
        energies = torch.linalg.eigvalsh(gram)  # they rise
        total += float(energies[: max(0, len(energies) - rank)].clamp(min=0).sum())
    return total


def truncated(difference: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A (rank, in) and B (out, rank) whose product is the best of that rank."""
    left, values, right = torch.linalg.svd(difference.double(), full_matrices=False)
    root = values[:rank].sqrt()
    return root[:, None] * right[:rank], left[:, :rank] * root


def added_by(model: nn.Module, calibration: Calibration, chosen: Sequence[int]) -> dict[int, Tensor]:
    """The root mean square of what each of some blocks adds to the hidden states, (hidden,), by block."""
    modules = blocks(model)
    sums: dict[int, Tensor] = {}

    def see(place: int, before: Tensor, after: Tensor) -> None:
        change = (after.double() - before.double()).flatten(0, 1).square().sum(dim=0)
        sums[chosen[place]] = sums.get(chosen[place], 0) + change

    with outputs_of([modules[index] for index in chosen], see):
        count = run(model, calibration)
    return {index: (total / count).sqrt() for index, total in sums.items()}


class AddedScale:
    """Multiplies what a block adds to its input by the block's buffer `added_scale` (hidden,)."""

    def __call__(self, block: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        before = args[0] if args else kwargs["hidden_states"]
        states = before + block.get_buffer("added_scale") * (hidden_of(output) - before)
        return (states, *output[1:]) if isinstance(output, tuple) else states


def add_scale(block: nn.Module, scale: Tensor) -> None:
    """Make a block add `scale` (hidden,) times what it added."""
    block.register_buffer("added_scale", scale.to(next(block.parameters()).dtype).contiguous())
    block.register_forward_hook(AddedScale(), with_kwargs=True)
