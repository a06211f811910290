"""Mini-GPTs: rows and columns of matrices that are quiet on the text of a domain are set to zero.

Tim Valicenti, Justice Vidal, Ritik Patnaik: Mini-GPTs: Efficient Large Language Models through Contextual
Pruning. 2023, arXiv 2312.12682. A column of a matrix is as quiet as the mean absolute value of its input, a
row as that of its output, with or without its bias, whichever is less, or as that of the activation that
follows. What is quieter than one threshold for the whole model goes, a row's bias with it if the output is
quiet with the bias, or the activation is.

Deviations: `share` says how many of the blocks' weights go, and the threshold follows, met from below to one
row or column (the published threshold is given, and its share found out); what follows an activation is the
input of the matrix behind it, so that gated MLPs are served, whose activation the published code does not
see; embeddings and head stay whole (the published code takes out the rows of tokens that the text does not
have, which perplexity on the same text cannot show); no fine-tuning, which the published code does on the
text that it tests on. Weights are only set to zero: nothing gets smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kick.compress.context import Calibration, calibration_of
from kick.compress.depth import run
from kick.compress.method import method, option
from kick.compress.methods.llm_surgeon import cheapest
from kick.compress.pruning import clear
from kick.compress.sparsity import Sparsity
from kick.errors import CellFailed
from kick.model import Linear, named_linears
from kick.model.structure import check_called

# An MLP's matrices whose output goes through an activation, and the one that reads it
_READERS = {
    "fc1": "fc2",
    "c_fc": "c_proj",
    "dense_h_to_4h": "dense_4h_to_h",
    "gate_proj": "down_proj",
    "up_proj": "down_proj",
}


@method(
    "mini-gpts",
    title="Mini-GPTs, untrained",
    paper="Valicenti et al., 2023, arXiv 2312.12682",
    kind="prune",
    needs=("calibration",),
    place=97,
    chooses="one threshold over all matrices chooses",
    serves="all but mixtures of experts and Mamba",
)
@dataclass(frozen=True)
class MiniGpts:
    """Rows and columns whose inputs, outputs or activations are quiet on the text are set to zero."""

    share: float = option("of the weights of all blocks that is set to zero", low=0, high=0.95)

    def check(self, model: nn.Module) -> None:
        """Raises KickError if a matrix is not called: its output cannot be seen."""
        check_called(model, "mini-gpts")

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        found = {name: one for name, _, one in named_linears(model) if calibration.scope.covers(name)}
        heard = loudness(model, calibration, found)
        scores, stays, have = [], [], 0
        for name, linear in found.items():
            known = calibration.kept(name, linear.weight)
            kept = torch.ones_like(linear.weight, dtype=torch.bool) if known is None else known
            have += int((~kept).sum())
            for score, left in ((row_scores(name, heard), kept.any(1)), (heard[name].inputs, kept.any(0))):
                scores.append(score.masked_fill(~left, torch.inf))
                stays.append(left.clone())
        goal = Sparsity.parse(self.share).count(sum(one.weight.numel() for one in found.values()))
        cheapest(scores, stays, goal - have)
        gone = [score[~left & score.isfinite()] for score, left in zip(scores, stays, strict=True)]
        threshold = float(torch.cat([*gone, torch.zeros(1, device=gone[0].device)]).max())
        for (name, linear), rows, columns in zip(found.items(), stays[::2], stays[1::2], strict=True):
            kept = rows[:, None] & columns
            clear(linear.weight, kept)
            calibration.keep(name, kept)
            if linear.bias is not None:
                linear.bias.data[~rows & (row_scores(name, heard, bare=False) <= threshold)] = 0
        calibration.note("quiet rows and columns", threshold=threshold, count=sum(map(len, gone)))


@dataclass(frozen=True, eq=False)
class Loudness:
    """Means over tokens of absolute values, float64: a matrix's inputs (in,), outputs with and without its
    bias (out,)."""

    inputs: Tensor
    outputs: Tensor
    bare: Tensor


@torch.no_grad()
def loudness(model: nn.Module, calibration: Calibration, found: Mapping[str, Linear]) -> dict[str, Loudness]:
    """How loud each matrix's inputs and outputs are. Raises CellFailed at NaN or infinity."""
    sums = {name: _zeros(linear) for name, linear in found.items()}
    tokens = dict.fromkeys(found, 0)
    handles = []

    def seer(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def see(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            x, y, bias = args[0].flatten(0, -2), output.flatten(0, -2), found[name].bias
            sums[name].inputs.add_(x.double().abs().sum(dim=0))
            sums[name].outputs.add_(y.double().abs().sum(dim=0))
            sums[name].bare.add_((y if bias is None else y - bias).double().abs().sum(dim=0))
            tokens[name] += len(x)

        return see

    try:
        for name, linear in found.items():
            handles.append(linear.module.register_forward_hook(seer(name)))
        run(model, calibration)
    finally:
        for handle in handles:
            handle.remove()
    for name, one in sums.items():
        if not (one.inputs.sum() + one.outputs.sum()).isfinite():
            raise CellFailed(f"the input or output of {name} has NaN or infinity in it")
        if not tokens[name]:
            calibration.note("expert saw no token", linear=name)
        for total in (one.inputs, one.outputs, one.bare):
            total /= max(tokens[name], 1)
    return sums


def _zeros(linear: Linear) -> Loudness:
    rows, columns = (
        torch.zeros(size, dtype=torch.float64, device=linear.weight.device) for size in linear.weight.shape
    )
    return Loudness(columns, rows, rows.clone())


def row_scores(name: str, heard: Mapping[str, Loudness], bare: bool = True) -> Tensor:
    """(out,): the least of what a matrix's rows give, with and (bare) without bias, and its activation."""
    scores = torch.minimum(heard[name].outputs, heard[name].bare) if bare else heard[name].outputs
    parent, _, leaf = name.rpartition(".")
    reader = heard.get(f"{parent}.{_READERS[leaf]}") if leaf in _READERS else None
    return scores if reader is None else torch.minimum(scores, reader.inputs)
