"""Rotations: Hadamard matrices of many orders, with random signs, that spread outliers over channels."""

from __future__ import annotations

import math

import torch
from torch import Tensor


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
