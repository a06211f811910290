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

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kick.compress.context import Calibration, calibration_of
from kick.compress.method import method, option
from kick.compress.methods.gptq import Gptq
from kick.compress.methods.rtn import RoundToNearest
from kick.compress.quantizing import check_groups
from kick.compress.rotation import rotation
from kick.compress.widths import Coupled, check_widths, coupled
from kick.errors import KickError
from kick.model import Linear, block_list, named_linears
from kick.model.structure import device_of

BEFORE_ATTENTION, BEFORE_MLP = "input_layernorm", "post_attention_layernorm"
HEAD_NORMS = ("q_norm", "k_norm")  # of queries and keys, which are not rotated


@method(
    "quarot",
    title="QuaRot",
    paper="Ashkboos et al., NeurIPS 2024, arXiv 2404.00456",
    kind="quantize",
    needs=("calibration",),
    activations=True,
    feeds_forward=True,
    place=80,
    serves="Llama, Qwen3",
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
        check_widths(model)
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


class Turned:
    """A hook that multiplies a tensor, the first input or the output, by a rotation, in float32."""

    def __init__(self, turn: Tensor):
        self.turn = turn

    def on_input(self, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The module's arguments with the first one rotated."""
        return (self._of(args[0]), *args[1:])

    def on_output(self, _module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor:
        """The module's output rotated."""
        return self._of(output)

    def _of(self, x: Tensor) -> Tensor:
        return (x.float() @ self.turn).to(x.dtype)


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
        hidden = made(structure.q.weight.shape[1])
        for name, readers in read(structure):
            norm = block.get_submodule(name)
            weight = norm.get_parameter("weight")
            for linear in readers:
                linear.put(linear.weight.double() * weight.double() @ hidden)
            weight.data.fill_(1)
        for linear in (structure.o, structure.down):
            inner = made(linear.weight.shape[1])
            linear.put(hidden.t() @ linear.weight.double() @ inner)
            if linear.bias is not None:
                linear.bias.data = (linear.bias.double() @ hidden).to(linear.bias.dtype)
            linear.module.register_forward_pre_hook(Turned(inner.float()).on_input)
    embeddings: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
    embeddings.register_forward_hook(Turned(hidden.float()).on_output)
    final_norm(model, "quarot").register_forward_pre_hook(Turned(hidden.t().float()).on_input)


def read(structure: Coupled) -> tuple[tuple[str, list[Linear]], ...]:
    """The names of a block's two norms, and the matrices that read what they give."""
    attention = [structure.q, structure.k, structure.v]
    return (BEFORE_ATTENTION, attention), (BEFORE_MLP, [structure.gate, structure.up])


def final_norm(model: nn.Module, method: str) -> nn.Module:
    """The norm behind the last block. Raises KickError if there is none of that name."""
    path = block_list(model)[0].rpartition(".")[0]
    norm = getattr(model.get_submodule(path), "norm", None)
    if not isinstance(norm, nn.Module):
        raise KickError(
            f"{type(model).__name__} has no final norm that {method} knows; choose gptq, flap or shortgpt"
        )
    return norm


def check_folds(model: nn.Module, method: str) -> None:
    """Raises KickError if hidden states cannot be rotated: a block has other parameters than matrices and two
    norms that divide by the root mean square and multiply by a weight, or there is no final norm."""
    final_norm(model, method)
    for block in block_list(model)[1]:
        norms = [name for name, _ in block.named_modules() if name in (BEFORE_ATTENTION, BEFORE_MLP)]
        vectors = [name for name, parameter in block.named_parameters() if parameter.ndim == 1]
        others = [name for name in vectors if not _passes(name)]
        if len(norms) < 2 or others or not all(_divides(block.get_submodule(name)) for name in norms):
            raise KickError(
                f"{type(model).__name__} has norms in its blocks that a rotation does not pass "
                f"({', '.join(others) or 'not as those of Llama'}), which {method} needs; choose gptq, "
                "flap or shortgpt"
            )


def _passes(name: str) -> bool:
    """Whether a vector of a block is one that rotations of hidden states leave alone or can be folded."""
    owner = name.split(".")[-2]
    return owner in (BEFORE_ATTENTION, BEFORE_MLP, *HEAD_NORMS) or name.endswith("_proj.bias")


@torch.no_grad()
def _divides(norm: nn.Module) -> bool:
    """Whether a norm is x / root mean square x weight, tried on numbers: a plan's model has no weights."""
    weight = getattr(norm, "weight", None)
    if not isinstance(weight, Tensor) or len(list(norm.parameters())) != 1:
        return False
    trial = copy.deepcopy(norm).to_empty(device="cpu").float()
    x, weight = torch.linspace(-3, 5, len(weight))[None], torch.linspace(0.5, 2, len(weight))
    trial.get_parameter("weight").copy_(weight)
    return torch.allclose(trial(x), x / x.square().mean().sqrt() * weight, rtol=2e-2, atol=2e-2)
