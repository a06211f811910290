"""Rotations of hidden states: Hadamard matrices of many orders, and how they are folded into weights.

A Hadamard matrix with random signs spreads outliers over channels. A rotation passes a norm that divides by
the root mean square once its weight is folded into the matrices that read it.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from kick.compress.coupled import Coupled
from kick.errors import KickError
from kick.model import Linear, block_list

BEFORE_ATTENTION, BEFORE_MLP = "input_layernorm", "post_attention_layernorm"
HEAD_NORMS = ("q_norm", "k_norm")  # of queries and keys, which are not rotated


def rotation(size: int, generator: torch.Generator) -> tuple[Tensor, bool]:
    """An orthogonal (size, size), float64, and whether it is a Hadamard matrix with random signs.

    If none of that order can be built, it is a random orthogonal matrix.
    """
    found = hadamard(size)
    if found is None:
        gaussian = torch.randn(size, size, generator=generator, dtype=torch.float64)
        orthogonal, upper = torch.linalg.qr(gaussian)
        return orthogonal * upper.diagonal().sign(), False
    signs = 2.0 * torch.randint(0, 2, (size,), generator=generator, dtype=torch.float64) - 1
    return signs[:, None] * found / math.sqrt(size), True


def hadamard(size: int) -> Tensor | None:
    """A matrix of 1 and -1 with orthogonal rows, (size, size), float64; None if this knows none.

    Paley's two constructions over primes, doubled as Sylvester's.
    """
    doubled, rest = 0, size
    while rest > 0:
        made = _paley(rest)
        if made is not None:
            for _ in range(doubled):
                made = torch.cat([torch.cat([made, made], 1), torch.cat([made, -made], 1)])
            return made
        if rest % 2:
            return None
        rest //= 2
        doubled += 1
    return None


def _paley(order: int) -> Tensor | None:
    """A Hadamard matrix of this order if it is 1, 2, or follows from a prime; or None."""
    if order == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    if _prime(order - 1) and (order - 1) % 4 == 3:
        skew = _bordered(order - 1)
        skew[1:, 0] = -1
        return skew + torch.eye(order, dtype=torch.float64)
    half = order // 2
    if order % 2 == 0 and _prime(half - 1) and (half - 1) % 4 == 1:
        whole, one = _bordered(half - 1), torch.eye(half, dtype=torch.float64)
        pair = torch.tensor([[1.0, 1], [1, -1]], dtype=torch.float64)
        other = torch.tensor([[1.0, -1], [-1, -1]], dtype=torch.float64)
        return torch.kron(whole, pair) + torch.kron(one, other)
    return None


def _bordered(prime: int) -> Tensor:
    """Jacobsthal's matrix of quadratic residues behind a row and a column of ones, 0 in the corner."""
    character = torch.full((prime,), -1.0, dtype=torch.float64)
    character[torch.arange(prime).square() % prime] = 1
    character[0] = 0
    places = torch.arange(prime)
    whole = torch.ones(prime + 1, prime + 1, dtype=torch.float64)
    whole[0, 0] = 0
    whole[1:, 1:] = character[(places[:, None] - places) % prime]
    return whole


def _prime(number: int) -> bool:
    return number > 2 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


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


def fold(structure: Coupled, block: nn.Module) -> None:
    """Multiply the norms' weights into the matrices that read them."""
    for name, readers in read(structure):
        weight = block.get_submodule(name).get_parameter("weight")
        for linear in readers:
            linear.put(linear.weight.double() * weight.double())


def turn_inputs(linear: Linear, basis: Tensor) -> None:
    """Make a matrix read the coordinates in a basis (hidden, kept)."""
    linear.set_weight((linear.weight.double() @ basis).to(linear.weight.dtype))
    vars(linear.module)["in_features"] = basis.shape[1]


def turn_outputs(linear: Linear, basis: Tensor) -> None:
    """Make a matrix give the coordinates in a basis (hidden, kept), and its bias."""
    if linear.bias is not None:
        turned = (linear.bias.double() @ basis).to(linear.weight.dtype)
        linear.module.bias = nn.Parameter(turned, requires_grad=False)
    linear.set_weight((basis.t() @ linear.weight.double()).to(linear.weight.dtype))
    vars(linear.module)["out_features"] = basis.shape[1]


def read(structure: Coupled) -> tuple[tuple[str, list[Linear]], ...]:
    """The names of a block's two norms, and the matrices that read what they give."""
    return (BEFORE_ATTENTION, structure.attention), (BEFORE_MLP, structure.feedforward)


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
