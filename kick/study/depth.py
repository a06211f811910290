"""A model's forward from one of its blocks on: what a change in block b cannot reach is not computed again.

    depth = Depth(network)
    state = depth.start(ids)                       # (B, T, H), the input of block 0
    for block in range(depth.blocks):
        with replaced(linear, weight):             # a matrix of this block
            hidden = depth.finish(ids, block, state)   # (B, T, H), as a whole forward of the changed model
        state = depth.advance(ids, block, state)   # the input of the next block

Only the input of the block at hand is kept, never the inputs of all blocks. The model's own forward runs: the
blocks before are made to pass on what they are given, and the last of them gives the stored state. So masks,
positions, the last norm and what else stands around the blocks are the model's own, in every architecture
whose blocks hand on one tensor; `check` tells whether they do. `options` of each call are the keywords of
the model's own forward: a mask, positions, the layout of a pack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kick.engine.network import Network
from kick.errors import KickError
from kick.model import Linear, block_list

CLOSE = 1e-3  # of the largest hidden state


class _Reached(Exception):
    """Signals that the input of the block that was asked for has been seen."""


class Depth:
    """A network whose blocks can be entered in the middle. `blocks` is their number."""

    def __init__(self, network: Network):
        self.network = network
        self.modules = list(block_list(network.model)[1])
        self.blocks = len(self.modules)

    @torch.inference_mode()
    def start(self, ids: Tensor, **options: Any) -> Tensor:
        """The input (B, T, H) of block 0 for token ids (B, T)."""
        return self._input(ids, 0, options)

    @torch.inference_mode()
    def advance(self, ids: Tensor, block: int, state: Tensor, **options: Any) -> Tensor:
        """The input (B, T, H) of block + 1, of that of `block`."""
        with self._entered(block, state):
            return self._input(ids, block + 1, options)

    @torch.inference_mode()
    def finish(self, ids: Tensor, block: int, state: Tensor, **options: Any) -> Tensor:
        """The model's last hidden states (B, T, H), of the input of `block`; of the last block's output if
        `block` is `blocks`."""
        with self._entered(block, state):
            return self.network.hidden(ids, **options)

    def check(self, ids: Tensor, block: int, state: Tensor, **options: Any) -> None:
        """Raises KickError if entering at `block` does not give the hidden states of a whole forward."""
        with torch.inference_mode():
            whole = self.network.hidden(ids, **options)
        found = self.finish(ids, block, state, **options)
        if found.shape != whole.shape or not _close(found, whole):
            raise KickError(
                f"{type(self.network.model).__name__} cannot be entered at block {block}: its blocks pass on "
                "more than one tensor; this study needs blocks that hand on hidden states alone"
            )

    def _input(self, ids: Tensor, block: int, options: Mapping[str, Any]) -> Tensor:
        seen: list[Tensor] = []

        def note(*args: Any, **kwargs: Any) -> Tensor:
            seen.append(args[0] if args else kwargs["hidden_states"])
            raise _Reached

        with _patched({self.modules[block]: note}):
            try:
                self.network.hidden(ids, **options)
            except _Reached:
                return seen[0]
        raise KickError(f"{type(self.network.model).__name__} never calls its block {block}")

    @contextmanager
    def _entered(self, block: int, state: Tensor) -> Iterator[None]:
        """While open, the blocks before `block` compute nothing, and it is given `state`."""
        before = self.modules[:block]
        stand_ins: dict[nn.Module, Callable[..., Tensor]] = dict.fromkeys(before, _pass_on)
        if before:
            stand_ins[before[-1]] = lambda *_args, **_kwargs: state
        with _patched(stand_ins):
            yield


def _pass_on(*args: Any, **kwargs: Any) -> Tensor:
    return args[0] if args else kwargs["hidden_states"]


def _close(found: Tensor, whole: Tensor) -> bool:
    return float((found - whole).abs().max()) <= CLOSE * float(whole.abs().max())


@contextmanager
def _patched(forwards: dict[nn.Module, Callable[..., Tensor]]) -> Iterator[None]:
    """While open, the modules run these functions in place of their forward."""
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in forwards:
            del module.forward


@contextmanager
def replaced(linear: Linear, weight: Tensor) -> Iterator[None]:
    """While open, the matrix holds `weight` (out, in); afterwards the very values that it held before.

    A packed copy of the old weight (`PackedLinears`) is set aside for that time.
    """
    before = linear.weight.clone()
    packed = vars(linear.module).pop("forward", None)
    linear.weight.copy_(weight)
    try:
        yield
    finally:
        linear.weight.copy_(before)
        if packed is not None:
            linear.module.forward = packed
