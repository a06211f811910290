"""A `Network` over a layered model: its first blocks tell how it may be run, its head is read last."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from kick.engine import probe
from kick.engine.network import Head, Network, finished
from kick.engine.packed.trust import packs_well
from kick.errors import KickError
from kick.model.layered import Layered

LEAST = 2  # blocks that are tried
_TRIED = 20  # tokens that the trials take, and their multiples by the trials' stride


@dataclass(frozen=True, kw_only=True)
class _Sliced(Head):
    """A head whose weight is read again in every call, a slice at a time: for trials of a few tokens."""

    layered: Layered

    def __call__(self, hidden: Tensor) -> Tensor:
        return self.finish(self.layered.product(hidden))


class LayeredNetwork(Network):
    """The body is run by passes; the head is there from its first use until `release`: for logits laid out
    for the processor, in slices of the vocabulary.

    packed: whether packs may be trusted. Raises KickError for a model whose head is not a plain one.
    """

    def __init__(self, layered: Layered):
        self.layered = layered
        self._head: Head | None = None
        self._slices: list[Callable[[Tensor], Tensor]] = []
        self._bias: Tensor | None = None
        with first_blocks(layered):
            super().__init__(layered.model)
            if not self.plain_head:
                raise KickError(
                    f"{type(layered.model).__name__} has more than a linear head behind its body: the engine "
                    "'layered' does not serve it; choose packed"
                )
            self.manner = probe.manner_of(self)
            self.packed = packs_well(self)
        self.release()
        self.linears.layers = []  # blocks are packed as they come
        self.linears.packed = []

    @property
    def head(self) -> Head:
        """The head, read if it is not there."""
        if self._head is None:
            self._head = self._read()
        return self._head

    @head.setter
    def head(self, head: Head) -> None:
        self._form = head.scale, head.cap
        if self.layered.one_head:
            head = _Sliced(head.weight, None, *self._form, layered=self.layered)
        self._head = head

    def release(self) -> None:
        """Let the head go."""
        self._head, self._bias = None, None
        self._slices.clear()

    def _read(self) -> Head:
        return Head(*self.layered.head(), *self._form)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (N, V) in float32 of hidden states (N, H)."""
        if isinstance(self._head, _Sliced) or not self.layered.one_head:
            return self.head(hidden)
        if not self._slices:
            self._slices, self._bias = self.layered.products(), self.layered.bias()
        hidden = hidden.to(self.layered.working)
        product = torch.cat([one(hidden) for one in self._slices], dim=-1)
        return finished(product if self._bias is None else product + self._bias, *self._form)

    def like(self, head: Head | None) -> Callable[[Tensor], Tensor] | None:
        """A function that does what `head` does; which one is decided when it is called first."""
        if head is None:
            return None
        decided: list[Callable[[Tensor], Tensor]] = []

        def say(hidden: Tensor) -> Tensor:
            if not decided:
                decided.append(super(LayeredNetwork, self).like(head) or head)
            return decided[0](hidden)

        return say


@contextmanager
def first_blocks(layered: Layered) -> Iterator[None]:
    """Within it the model has its first blocks only, with their weights: as many as it takes to have one of
    each kind."""
    config = layered.model.config
    kinds = list(getattr(config, "layer_types", None) or ())
    count = max([LEAST, *(kinds.index(kind) + 1 for kind in set(kinds))])
    every = list(layered.modules)
    if count >= len(every):
        count = len(every)
    size = layered.model.get_input_embeddings().weight.shape[0]
    rows = {i * step % size for i in range(_TRIED) for step in (1, probe.STRIDE)}
    with layered.beside_blocks(rows):
        for index in range(count):
            layered.load(index)
        del layered.modules[count:]
        config.num_hidden_layers = count
        try:
            yield
        finally:
            layered.modules.extend(every[count:])
            config.num_hidden_layers = len(every)
            for index in range(count):
                layered.drop(index)
