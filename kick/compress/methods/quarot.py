"""QuaRot: hidden states and inner activations are rotated, so that 4 bits hold weights and activations.

Saleh Ashkboos, Amirkeivan Mohtashami, Maximilian L. Croci, Bo Li, Pashmina Cameron, Martin Jaggi, Dan
Alistarh, Torsten Hoefler, James Hensman: QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs. NeurIPS 2024,
arXiv 2404.00456. The residual stream is multiplied by a Hadamard matrix with random signs, folded into the
weights that read and write it, with the norms' weights folded before; what o and down read is rotated as the
model runs. Without rounding the model computes what it did. Then weights are rounded by rtn or gptq, and each
token that enters a matrix to 4 or 8 bits, symmetric, at 0.9 of its largest value.

Deviations: embeddings, final norm and head stay as they are: hidden states are rotated behind the embeddings
and back before the final norm as the model runs, which computes the same; what o reads is rotated whole, not
head by head and across heads; queries, keys and values are not rotated or rounded (the paper rounds the
key/value cache). If no Hadamard matrix of an order can be built, a random rotation is used, and noted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kick.compress.context import Calibration, calibration_of
from kick.compress.coupled import check_channels, coupled
from kick.compress.method import method, option
from kick.compress.methods.gptq import Gptq
from kick.compress.methods.rtn import RoundToNearest
from kick.compress.quantizing import check_groups
from kick.compress.rotation import Turned, check_folds, final_norm, read, rotation
from kick.compress.widths import check_widths
from kick.errors import KickError
from kick.model import block_list, named_linears
from kick.model.structure import device_of


@method(
    "quarot",
    title="QuaRot",
    paper="Ashkboos et al., NeurIPS 2024, arXiv 2404.00456",
    kind="quantize",
    needs=("calibration",),
    activations=True,
    feeds_forward=True,
    place=80,
    serves="Llama, Qwen3, Phi-3",
    last="it rotates all weights",
    rotates=True,
)
@dataclass(frozen=True)
class QuaRot:
    """Rotated weights by rtn or gptq, and rotated activations, in few bits (activations really rounded)."""

    bits: int = option("bits of a weight", low=2, high=8)
    activations: int = option("bits of an activation", 4, low=2, high=16)
    weights: str = option("how weights are rounded", "gptq", choices=("gptq", "rtn"))
    group_size: int = option("inputs that share a weight's scale; -1: the whole row", -1, low=-1)
    clip: float = option("of a token's largest value that the largest code stands for", 0.9, low=0.1, high=1)
    seed: int = option("of the rotations' signs", 0, low=0)

    def check(self, model: nn.Module) -> None:
        """Raises KickError if blocks are not built as Llama's, with norms whose weights can be folded."""
        check_channels(model, check_widths(model))
        check_folds(model, "quarot")
        check_groups(model, self.group_size)

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        if calibration.masks or calibration.formats:
            raise KickError("quarot rotates all weights, and must come before steps that prune or round them")
        rotate(model, self.seed, calibration)
        calibration.memory = None  # what is there was measured before the rotation
        if self.weights == "rtn":
            RoundToNearest(self.bits, self.group_size, symmetric=True, mse=True)(model, calibration)
        else:
            Gptq(self.bits, self.group_size, symmetric=True, mse=True)(model, calibration)
        for name, _, linear in named_linears(model):
            stored = calibration.formats[name]
            calibration.formats[name] = replace(stored, activation_bits=self.activations)
            linear.module.register_forward_pre_hook(RoundedToken(self.activations, self.clip))


class RoundedToken:
    """A hook that rounds a module's input, each token by itself, to so many bits around zero."""

    def __init__(self, bits: int, clip: float):
        self.top, self.clip = 2 ** (bits - 1) - 1, clip

    def __call__(self, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        wide = args[0].float()
        step = (self.clip * wide.abs().amax(dim=-1, keepdim=True) / self.top).clamp(min=1e-30)
        rounded = (wide / step).round().clamp(-self.top, self.top).mul(step).to(args[0].dtype)
        return (rounded, *args[1:])


def rotate(model: nn.Module, seed: int, calibration: Calibration) -> None:
    """Rotate a model in place; it computes what it did."""
    generator = torch.Generator().manual_seed(seed)
    device = device_of(model)
    known: dict[int, Tensor] = {}

    def made(size: int) -> Tensor:
        """One rotation for each size, float64."""
        if size not in known:
            found, exact = rotation(size, generator)
            known[size] = found.to(device)
            if not exact:
                calibration.note("no Hadamard matrix is known: a random rotation", size=size)
        return known[size]

    for block in block_list(model)[1]:
        structure = coupled(block, model)
        hidden = made(structure.hidden)
        for name, readers in read(structure):
            norm = block.get_submodule(name)
            weight = norm.get_parameter("weight")
            for linear in readers:
                linear.put(linear.weight.double() * weight.double() @ hidden)
            weight.data.fill_(1)
        for linear in structure.readers:
            inner = made(linear.weight.shape[1])
            linear.put(hidden.t() @ linear.weight.double() @ inner)
            if linear.bias is not None:
                linear.bias.data = (linear.bias.double() @ hidden).to(linear.bias.dtype)
            linear.module.register_forward_pre_hook(Turned(inner.float()).on_input)
    embeddings: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
    embeddings.register_forward_hook(Turned(hidden.float()).on_output)
    final_norm(model, "quarot").register_forward_pre_hook(Turned(hidden.t().float()).on_input)
