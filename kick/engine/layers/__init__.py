"""Passes over the blocks of a model that memory does not hold: passes, network, forwards, reader."""

from __future__ import annotations

from dataclasses import dataclass

COPIES = 4  # hidden states, what a block makes of them, rotations and masks, in sizes of the hidden states
SHARE = 4  # one part in so many of the free memory is taken by a pass if no budget is stated


@dataclass(frozen=True)
class Passing:
    """How passes are made.

    memory: bytes that the hidden states of a pass may take; None chooses by what is free. generate: whether
    answers may be generated, at a pass over all weights per token.
    """

    memory: int | None = None
    generate: bool = False
