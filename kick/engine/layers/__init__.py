"""Passes over the blocks of a model that memory does not hold: passes, network, reader."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Passing:
    """How passes are made.

    memory: bytes that the hidden states of a pass may take; None chooses by what is free. generate: whether
    answers may be generated, at a pass over all weights per token.
    """

    memory: int | None = None
    generate: bool = False
