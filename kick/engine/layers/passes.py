"""Many forwards in one pass over the blocks: each block is read once and applied to all of them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from kick.compress.calibrate.walk import intercepted
from kick.engine.layers.network import LayeredNetwork
from kick.model.heap import give_back
from kick.model.packed import used_up
from kick.model.structure import hidden_of


@dataclass(eq=False)
class Forward:
    """One call of a model's body: token ids (B, T), and its keywords; `hidden` (B, T, H) is what comes out.

    attention: a function that gives the context in which the model has the attention it is to be run with.
    """

    ids: Tensor
    options: dict[str, Any]
    attention: Any
    hidden: Tensor | None = None
    output: Any = None  # of the last block, as it gives it
    calls: list[tuple[tuple, dict[str, Any]]] = field(default_factory=list)

    def context(self) -> AbstractContextManager[None]:
        """Within it the model has this forward's attention."""
        return self.attention()

    @property
    def tokens(self) -> int:
        """Positions that are computed."""
        return self.ids.numel()

    def again(self) -> Forward:
        """The same call, to be run on a model whose blocks are other ones; what is not changed is shared.

        A mapping among a block's arguments may be one in which blocks leave values for later ones.
        """
        own: dict[int, Any] = {}

        def mine(value: Any) -> Any:
            return own.setdefault(id(value), copy.copy(value)) if isinstance(value, Mapping) else value

        calls = [
            (tuple(map(mine, args)), {name: mine(value) for name, value in kwargs.items()})
            for args, kwargs in self.calls
        ]
        return replace(self, calls=calls)

    def forget(self) -> None:
        """Let go all but what says which call it is."""
        self.hidden, self.output, self.calls = None, None, []


def run(network: LayeredNetwork, forwards: Sequence[Forward]) -> None:
    """Fill in the hidden states of all forwards; every block is read once."""
    start(network, forwards)
    for index in range(len(network.layered.modules)):
        network.layered.load(index)
        push(network, index, forwards)
        network.layered.drop(index)
        give_back()
    finish(network, forwards)


@torch.inference_mode()
def start(network: LayeredNetwork, forwards: Sequence[Forward]) -> None:
    """Fill in what goes into the first block."""
    with network.layered.outside(_rows(forwards)):
        for one in forwards:
            _start(network, one)


@torch.inference_mode()
def push(network: LayeredNetwork, index: int, forwards: Iterable[Forward]) -> None:
    """Apply a block, whose weights are there, to all forwards; the weights are to be dropped then."""
    with used_up(network.layered.modules[index]):
        apply(network, index, forwards)


@torch.inference_mode()
def apply(network: LayeredNetwork, index: int, forwards: Iterable[Forward]) -> None:
    """Apply a block to all forwards, with its weights as they are."""
    block = network.layered.modules[index]
    for one in forwards:
        args, kwargs = one.calls[index]
        with one.context():
            one.output = block(one.hidden, *args, **kwargs)
        one.hidden = hidden_of(one.output)


@torch.inference_mode()
def finish(network: LayeredNetwork, forwards: Sequence[Forward]) -> None:
    """Fill in what comes out behind the last block."""
    with network.layered.outside(_rows(forwards)):
        for one in forwards:
            _finish(network, one)


def _rows(forwards: Sequence[Forward]) -> set[int]:
    return {token for one in forwards for token in one.ids.flatten().tolist()}


def _start(network: LayeredNetwork, one: Forward) -> None:
    """Embed, and note how the body calls its blocks."""
    recorded: list[tuple[Tensor, tuple, dict]] = []
    network.forget()
    with one.context(), intercepted(list(network.layered.modules), recorded):
        network.body(input_ids=one.ids, use_cache=False, **one.options)
    one.hidden = recorded[0][0]
    one.calls = [(args, kwargs) for _, args, kwargs in recorded]


def _finish(network: LayeredNetwork, one: Forward) -> None:
    """What follows the last block."""
    output, modules = one.output, network.layered.modules
    network.forget()
    try:
        for block in modules:
            vars(block)["forward"] = lambda *_args, **_options: output
        with one.context():
            one.hidden = network.body(input_ids=one.ids, use_cache=False, **one.options).last_hidden_state
    finally:
        for block in modules:
            del block.forward
    one.output, one.calls = None, []
