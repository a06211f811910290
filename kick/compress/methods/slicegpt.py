"""SliceGPT: hidden states are rotated to their principal components, and the least of these are cut off.

Saleh Ashkboos, Maximilian L. Croci, Marcelo Gennari do Nascimento, Torsten Hoefler, James Hensman: SliceGPT:
Compress Large Language Models by Deleting Rows and Columns. ICLR 2024, arXiv 2401.15024. The norms' weights
are folded into the matrices that read them. Before each attention and each MLP the hidden states of the
calibration text, as the sliced blocks before give them, have their own principal components; matrices that
read and write them are rotated and lose rows or columns, and each residual connection changes the basis by a
matrix of its own.

Deviations: `share` is of the blocks' weights with these matrices counted (the published number is the share
of channels, of which a good part comes back with them); any number of channels is kept, not a multiple of 8;
embeddings, final norm and head stay as they are: hidden states enter the basis of the first block behind the
embeddings and leave that of the last before the final norm, by a matrix each, which is noted; no fine-tuning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from kick.compress.calibrate.walk import Block, walk
from kick.compress.context import Calibration, calibration_of, tokens
from kick.compress.coupled import Coupled, check_channels, coupled
from kick.compress.method import method, option
from kick.compress.rotation import Turned, check_folds, final_norm, fold, turn_inputs, turn_outputs
from kick.compress.sliced import SlicedBlock, matrix
from kick.compress.twin import Form
from kick.compress.uneven import refuse_saved
from kick.compress.widths import check_widths
from kick.errors import CellFailed, KickError
from kick.model import block_list
from kick.model.structure import device_of


@method(
    "slicegpt",
    title="SliceGPT",
    paper="Ashkboos et al., ICLR 2024, arXiv 2401.15024",
    kind="structure",
    needs=("calibration", "structure"),
    place=28,
    serves="Llama, Qwen3, Phi-3",
)
@dataclass(frozen=True)
class SliceGpt:
    """Hidden states lose their least principal components, and matrices rows and columns with them."""

    share: float = option("of the weights of the blocks that is removed", low=0, high=0.95)

    def check(self, model: nn.Module) -> None:
        """Raises KickError if blocks are not built as Llama's, with norms whose weights can be folded."""
        check_channels(model, check_widths(model))
        check_folds(model, "slicegpt")

    def check_saved(self, model: nn.Module) -> None:
        """Raises KickError: no config describes what would be left."""
        refuse_saved("blocks with matrices in their residual connections")

    def forms(self, model: nn.Module) -> list[Form]:
        """What the model becomes."""
        return [partial(_empty, share=self.share)]

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        if calibration.propagate == "dense":
            raise KickError(
                "slicegpt feeds each block what the sliced ones before it give: choose propagate compressed"
            )
        slice_to(model, calibration, width(model, self.share))


def width(model: nn.Module, share: float) -> int:
    """How many channels of the hidden states are kept, so that blocks lose at least a share of their weights.

    A block of w weights with h of n channels has w h / n, and 2 h^2 in its shortcuts.
    """
    structure = coupled(block_list(model)[1][0], model)
    hidden, weights = structure.hidden, structure.size.weights
    linear = weights / hidden
    kept = (math.sqrt(linear**2 + 8 * (1 - share) * weights) - linear) / 4
    return max(int(kept + 1e-9), 1)


def slice_to(model: nn.Module, calibration: Calibration, kept: int) -> None:
    """Slice a model in place to so many channels of its hidden states."""
    embeddings: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
    signals = [embeddings(ids)[0].detach() for ids in tokens(calibration, device_of(model))]
    basis = components(gram(signals), kept)
    entry = embeddings.register_forward_hook(Turned(basis.float()).on_output)
    modules = block_list(model)[1]
    with ExitStack() as undo:  # if it ends early, the embeddings give again what they gave
        undo.callback(entry.remove)
        for block in walk(model, calibration, runs=True):
            block.feed.reach(block.index)  # before its module is another
            structure = coupled(block.module, model)
            fold(structure, block.module)
            sliced, basis = _slice(block, structure, basis, kept)
            modules[block.index] = sliced
        undo.pop_all()
    final_norm(model, "slicegpt").register_forward_pre_hook(Turned(basis.t().float()).on_input)
    calibration.note("hidden channels", kept=kept, of=len(basis), outside_blocks=2 * basis.numel())


def _slice(block: Block, structure: Coupled, before: Tensor, kept: int) -> tuple[SlicedBlock, Tensor]:
    """The sliced block and the basis of its output, from the basis (hidden, kept) of its input."""
    dtype = structure.o.weight.dtype
    sliced = SlicedBlock(block.module, len(before))
    block.feed.modules[block.index] = sliced
    for linear in structure.attention:
        turn_inputs(linear, before)
    sliced.attn_shortcut = matrix(before.to(dtype))  # back to all channels
    middle = components(_outputs(block), kept)
    turn_outputs(structure.o, middle)
    for linear in structure.feedforward:
        turn_inputs(linear, middle)
    sliced.attn_shortcut = matrix((middle.t() @ before).to(dtype))
    sliced.mlp_shortcut = matrix(middle.to(dtype))
    after = components(_outputs(block), kept)
    turn_outputs(structure.readers[-1], after)
    sliced.mlp_shortcut = matrix((after.t() @ middle).to(dtype))
    return sliced, after


def _outputs(block: Block) -> Tensor:
    """The Gram matrix of what the block gives, as it is now."""
    samples = range(len(block.feed.calibration))
    return gram(block.run(sample)[0] for sample in samples)


def gram(signals) -> Tensor:
    """The sum over samples (tokens, hidden) of X^T X, float64. Raises CellFailed at NaN or infinity."""
    total = sum(x.double().t() @ x.double() for x in signals)
    if not isinstance(total, Tensor) or not total.sum().isfinite():
        raise CellFailed("hidden states on the calibration data are NaN or infinite")
    return total


def components(total: Tensor, kept: int) -> Tensor:
    """(hidden, kept): the principal components with the largest eigenvalues, from the Gram matrix."""
    return torch.linalg.eigh(total).eigenvectors.flip(1)[:, :kept]


def _empty(model: nn.Module, share: float) -> None:
    """The form of a sliced model, whatever its weights."""
    kept, modules = width(model, share), block_list(model)[1]
    for index, block in enumerate(list(modules)):
        structure = coupled(block, model)
        weight = structure.o.weight
        basis = torch.empty(len(weight), kept, dtype=torch.float64, device=weight.device)
        for linear in structure.attention + structure.feedforward:
            turn_inputs(linear, basis)
        for linear in structure.readers:
            turn_outputs(linear, basis)
        square = (basis.t() @ basis).to(weight.dtype)
        sliced = SlicedBlock(block, len(basis))
        sliced.attn_shortcut, sliced.mlp_shortcut = matrix(square), matrix(square)
        modules[index] = sliced
    model.get_input_embeddings().register_forward_hook(Turned(basis.float()).on_output)  # type: ignore[operator]
    final_norm(model, "slicegpt").register_forward_pre_hook(Turned(basis.t().float()).on_input)
