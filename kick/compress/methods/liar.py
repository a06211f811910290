"""LIAR: what removed heads and channels did is put into the weights of those that stay, by least squares.

Pingjie Wang, Ziqing Fan, Shengchao Hu, Zhe Chen, Yanfeng Wang, Yu Wang: Reconstruct the Pruned Model
without Any Retraining. 2024, arXiv 2407.13331. Not a choice of what goes but a repair after it: removed
inner activations are estimated as linear combinations of kept ones, and the combination is folded into the
matrix that reads them, W' = W_kept + W_removed Q^T. With a constant among the kept ones it gives a bias
too. `after` says which method chooses. `repair: factors` fits one factor per kept column instead (the mask
tuning of COMP, arXiv 2501.15255), `repair: mean` adds the mean of what is removed to the bias, as FLAP
does, and `repair: none` is the choice alone.

Deviations: the authors' repository has no code; the damping is ours, and so is reading their map of biases
as a constant column, which is not damped. Blocks are repaired in order, so that later ones are fitted on
repaired inputs; the MLP of a block is fitted on its dense attention. Every block keeps the same numbers.
The choice is made on a copy of the model, which is held beside it meanwhile. Every eighth sequence is not
fitted on: the error on these is stored beside that of the fit.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kick.compress.calibrate.statistics import Statistic
from kick.compress.calibrate.walk import walk
from kick.compress.context import Calibration, calibration_of
from kick.compress.coupled import Coupled, coupled, structures
from kick.compress.method import build, canonical, method, option
from kick.compress.widths import (
    KEPT,
    EqualWidths,
    KeptWidths,
    add_bias,
    describe,
    largest,
    narrow,
    remaining,
)
from kick.errors import CellFailed
from kick.model import Linear, blocks

HELD_OUT = 8  # every so many sequences one is not fitted on


@method(
    "liar",
    title="LIAR",
    paper="Wang et al., 2024, arXiv 2407.13331",
    kind="structure",
    needs=("calibration", "structure"),
    feeds_forward=True,
    place=15,
    serves="Llama, Qwen3, Gemma 2, Gemma 3, OPT, GPT-2, GPT-NeoX, Phi-3; Mixtral, Qwen3-MoE (attention)",
)
@dataclass(frozen=True)
class Liar(EqualWidths):
    """Heads and channels are removed as another method chooses, and the rest makes up for them."""

    share: float = option("of heads and of MLP channels that go", low=0, high=0.95)
    after: str = option(
        "what chooses them (llm-pruner by gradients)", "flap",
        choices=("flap", "llm-pruner", "magnitude", "random"),
    )  # fmt: skip
    repair: str = option("what is fitted", "fold", choices=("fold", "factors", "mean", "none"))
    bias: bool = option("fit a constant too, which becomes a bias", True)
    damping: float = option("share of the kept activations' mean square added to their diagonal", 0.01, low=0)
    fit: bool = option(
        "the share is of the blocks' weights: channels make up for groups of heads that do not fit", False
    )

    @property
    def biased(self) -> bool:
        """Whether o and down get biases."""
        return self.repair == "mean" or (self.bias and self.repair != "none")

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        first, groups, channels = remaining(model, self.share, self.fit)
        kept = self._choose(model, calibration)
        for block in walk(model, calibration):
            structure, keeps = coupled(block.module, model), kept[block.index]
            pairs = structure.read_channels(keeps.groups, keeps.channels)
            found = block.measure(Gram, [linear for linear, _ in pairs])
            made = [
                self._repaired(block.full(linear), linear, found[linear.name], stays, calibration)
                for linear, stays in pairs
            ]
            narrow(block.module, structure, keeps)
            for (linear, _), (weight, _shift) in zip(pairs, made, strict=True):
                linear.put(weight)
            if self.biased:
                add_bias(structure, [shift for _, shift in made], model)
        describe(model, groups, channels, first)

    def _repaired(
        self, name: str, linear: Linear, gram: Gram, kept: Tensor, calibration: Calibration
    ) -> tuple[Tensor, Tensor]:
        """A matrix's kept columns with the rest made up for, and what is added to its bias; noted."""
        if self.repair in ("fold", "factors") and gram.fitted <= len(kept):
            raise CellFailed(
                f"liar fits {len(kept)} unknowns per output of {name} on {gram.fitted} tokens; use more or "
                "longer calibration sequences"
            )
        weight = linear.weight.double()
        result = repaired(weight, gram.fit, kept, self.repair, self.damping, self.biased)
        if result is None:
            raise CellFailed(f"the kept inputs of {name} do not determine the rest; use a larger damping")
        plain = weight[:, kept], torch.zeros_like(result[1])
        errors = {
            f"{held}{which}": round(error(weight, *made, kept, products), 6)
            for held, products in (("", gram.fit), ("held_out_", gram.held))
            for which, made in (("error", result), ("error_removed", plain))
            if float(products[-1, -1]) > 0
        }
        calibration.note("repair", linear=name, **errors)
        return result

    def _choose(self, model: nn.Module, calibration: Calibration) -> list[KeptWidths]:
        """What each block keeps."""
        if self.after in ("magnitude", "random"):
            _, groups, channels = remaining(model, self.share, self.fit)
            found = structures(model)
            scores = [sizes(one) if self.after == "magnitude" else lots(one) for one in found]
            return [KeptWidths(largest(a, groups), largest(b, channels)) for a, b in scores]
        other = copy.deepcopy(model)
        chooser = build(canonical(self.after, {"share": self.share, "fit": self.fit}))
        context = Calibration(
            calibration.sequences, calibration.propagate, calibration.offload, passes=calibration.passes
        )
        chooser(other, context)
        calibration.notes.extend(note for note in context.notes if note not in calibration.notes)
        return [_kept(coupled(block, other)) for block in blocks(other)]


def _kept(structure: Coupled) -> KeptWidths:
    """What a block that was just cut kept."""
    width = structure.heads_a_group * structure.head
    queries, *channels = (vars(linear.module)[KEPT] for linear in structure.readers)
    return KeptWidths(queries[::width] // width, channels[0] if channels else queries.new_empty(0))


def sizes(structure: Coupled) -> tuple[Tensor, Tensor]:
    """Squared norms of the columns that read each group of heads and each MLP channel."""
    return structure.scores(lambda linear: linear.weight.float().square().sum(dim=0))


def lots(structure: Coupled) -> tuple[Tensor, Tensor]:
    """Random scores of each group of heads and each MLP channel, by torch's generator."""
    device = structure.o.weight.device
    return torch.rand(structure.kv_heads).to(device), torch.rand(structure.channels).to(device)


class Gram(Statistic):
    """Sums of products of inputs and a constant, (in + 1, in + 1), float64; of held out samples apart."""

    kind = "gram_held_out"

    def empty(self, inputs: int, device: torch.device | str) -> dict[str, Tensor]:
        """The state before the first sample."""
        zeros = torch.zeros(inputs + 1, inputs + 1, dtype=torch.float64, device=device)
        return {"fit": zeros, "held": zeros.clone()}

    def _sum(self, x: Tensor) -> None:
        wide = torch.cat([x.double(), x.new_ones(len(x), 1, dtype=torch.float64)], dim=1)
        self.tensors["fit" if self.samples % HELD_OUT else "held"] += wide.t() @ wide

    @property
    def fit(self) -> Tensor:
        """Of the samples that are fitted on."""
        return self.tensors["fit"]

    @property
    def held(self) -> Tensor:
        """Of the others; zeros if there are none."""
        return self.tensors["held"]

    @property
    def fitted(self) -> int:
        """How many tokens are fitted on."""
        return round(float(self.fit[-1, -1]))


def repaired(
    weight: Tensor, products: Tensor, kept: Tensor, how: str, damping: float = 0.0, constant: bool = False
) -> tuple[Tensor, Tensor] | None:
    """A matrix (out, in) without some inputs: the columns kept, changed, and what to add to the bias (out,).

    products: sums of products of the inputs and a constant, (in + 1, in + 1), float64. None if the kept
    inputs do not determine the fit.
    """
    mean = products[-1, :-1] / products[-1, -1]
    gram = products[:-1, :-1] - (products[-1, -1] * torch.outer(mean, mean) if constant else 0)
    columns = weight[:, kept]
    if how == "fold":
        among = gram[kept][:, kept]
        among.diagonal().add_(damping * products.diagonal()[kept].mean())
        lower, failed = torch.linalg.cholesky_ex(among)
        if failed:
            return None
        gone = torch.ones(weight.shape[1], dtype=torch.bool, device=weight.device)
        gone[kept] = False
        columns = columns + weight[:, gone] @ torch.cholesky_solve(gram[kept][:, gone], lower).t()
    elif how == "factors":
        among = (columns.t() @ columns) * gram[kept][:, kept]
        target = (gram[kept] * (columns.t() @ weight)).sum(dim=1)
        columns = columns * torch.linalg.lstsq(among.cpu(), target[:, None].cpu()).solution[:, 0].to(among)
    shift = weight @ mean - columns @ mean[kept] if constant else torch.zeros_like(weight[:, 0])
    return columns, shift


def error(weight: Tensor, columns: Tensor, shift: Tensor, kept: Tensor, products: Tensor) -> float:
    """The squared error of a matrix's output over its squared norm, where `columns` take its place."""
    whole = torch.cat([weight, torch.zeros_like(shift)[:, None]], dim=1)
    off = whole.clone()
    off[:, kept] -= columns
    off[:, -1] -= shift
    return float(((off @ products) * off).sum() / ((whole @ products) * whole).sum())
