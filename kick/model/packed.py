"""Linear layers with their weights laid out for oneDNN once, instead of in every call.

On a CPU, in float32, this makes the head and small batches up to twice as fast and long forwards about a
sixth; the sums are the same up to their order. It holds a second copy of the weights while it lives (an
engine's of the model, a calibration pass's of one block), so it is left out where memory is short.

Of a model that was settled, whose weights change no more, the packed copy takes the weight's place: the
layer then holds no values of its own, and computes with the packed ones for good. `used_up` does so for a
block that is let go next.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import psutil
import torch
from torch import Tensor, nn

from kick.model import owned
from kick.model.heap import apart, give_back

ROWS = 512  # the batch that the layout is made for; others work too
SHARE = 3  # the copy may take one part in so many of the free memory
FREED = 2**26  # bytes of values that are let go before the heap is given back
SAMPLES = 2048  # values per weight that are looked at to see whether it has changed
SETTLED = "_kick_settled"  # the attribute of a model whose weights change no more


def settle(model: nn.Module) -> None:
    """Note that nothing changes or reads a model's matrices any more but its forward.

    `PackedLinears` then keeps a matrix once. What reads such a weight all the same finds NaN in every place.
    """
    setattr(model, SETTLED, True)


class PackedLinears:
    """The linear layers of a model or a part of one with a packed copy of their weights, used in `on()`."""

    def __init__(self, model: nn.Module, settled: bool = False):
        self.layers = [m for m in model.modules() if type(m) is nn.Linear and _suits(m)]
        size = sum(m.weight.numel() * m.weight.element_size() for m in self.layers)
        if not torch.backends.mkldnn.is_available() or size * SHARE > psutil.virtual_memory().available:
            self.layers = []
        self.alone = _alone(model) if settled or getattr(model, SETTLED, False) else set()  # ids of weights
        self.packed: list[Tensor | None] = []  # None: not called since its weight was changed
        self.seen: list[Tensor | None] = []  # None: the layer has its packed weight alone
        self.freed = 0  # bytes of values let go since the heap was given back
        self.version = 0  # grows whenever the weights have been found changed

    @contextmanager
    def on(self) -> Iterator[int]:
        """Within it the layers use packed weights, packed anew if they have changed; gives `version`."""
        if not self.packed or self._changed():
            packed = self.packed or [None] * len(self.layers)
            gone = [_is_gone(m.weight) for m in self.layers]
            self.packed = [one if away else None for one, away in zip(packed, gone, strict=True)]
            self.seen = [None if _is_gone(m.weight) else self._sample(m) for m in self.layers]
            self.version += 1
        changed = []
        try:
            for index, layer in enumerate(self.layers):
                if "forward" not in vars(layer):
                    vars(layer)["forward"] = partial(self._linear, index, layer.bias)
                    changed.append(layer)
            yield self.version
        finally:
            for layer in changed:
                if not _is_gone(layer.weight):
                    del layer.forward

    def _changed(self) -> bool:
        pairs = zip(self.layers, self.seen, strict=True)
        return any(seen is not None and not torch.equal(self._sample(layer), seen) for layer, seen in pairs)

    def _sample(self, layer: nn.Linear) -> Tensor:
        """Some of a layer's values. The system brings in 16 pages for each: nearly all of a mapped weight."""
        found = _sample(layer.weight)
        if self.alone and id(layer.weight) not in self.alone:  # of a settled model, the head's
            owned.let_go(layer.weight)
        return found

    def _linear(self, index: int, bias: Tensor | None, given: Tensor) -> Tensor:
        packed = self.packed[index]
        if packed is None:
            layer = self.layers[index]
            with apart() if self.alone else nullcontext():  # of a settled model it lives long
                packed = laid_out(layer.weight.data)
            self.packed[index] = packed
            if id(layer.weight) in self.alone:
                self.seen[index] = None
                self._let_go(layer)
                vars(layer)["forward"] = partial(_multiply, packed, bias)  # no way back to here: no cycle
            elif self.alone:  # embeddings are looked up in it
                owned.let_go(layer.weight)
        return _multiply(packed, bias, given)

    def _let_go(self, layer: nn.Linear) -> None:
        """Leave the layer without values; what a method has put into the heap goes back now and then."""
        self.freed += layer.weight.nbytes
        layer.weight.data = _gone(layer.weight)
        if self.freed >= FREED:
            self.freed = 0
            give_back()


@contextmanager
def used_up(block: nn.Module) -> Iterator[None]:
    """Within it the linear layers compute with packed weights that take the place of their own.

    Afterwards the layers hold no values: their weights have to be put in place again, or let go.
    """
    packed = PackedLinears(block, settled=True)
    try:
        with packed.on():
            yield
    finally:
        for layer in packed.layers:
            vars(layer).pop("forward", None)


def product(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """The function from (..., in) to (..., out) that multiplies with a weight (out, in). Where weights are
    packed it holds a packed copy, and not the weight."""
    if not _packable(weight) or not torch.backends.mkldnn.is_available():
        return partial(nn.functional.linear, weight=weight)
    return partial(_multiply, laid_out(weight), None)


def laid_out(weight: Tensor) -> Tensor:
    """A packed copy of a weight (out, in), for `_multiply` alone."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)


def _multiply(packed: Tensor, bias: Tensor | None, given: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(given, packed, bias, "none", [], "")


def _alone(model: nn.Module) -> set[int]:
    """The ids of the weights that one module has, and that are not the head's: other places read that."""
    owners = Counter(id(p) for m in model.modules() for p in m._parameters.values() if p is not None)
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return {one for one, count in owners.items() if count == 1} - {id(getattr(head, "weight", None))}


@torch.inference_mode(False)
def _gone(weight: Tensor) -> Tensor:
    """A tensor of a weight's shape and type that takes the memory of one value."""
    return torch.full((), math.nan, dtype=weight.dtype).expand(weight.shape)


def _is_gone(weight: Tensor) -> bool:
    return weight.numel() > 1 and not any(weight.stride())


def _suits(layer: nn.Linear) -> bool:
    weight = layer.weight
    if _is_gone(weight):
        return False  # another's packed copy computes
    return _packable(weight)


def _packable(weight: Tensor) -> bool:
    return is_plain(weight) and weight.device.type == "cpu" and weight.dtype == torch.float32


def is_plain(weight: Tensor) -> bool:
    """Whether a weight is a tensor of values, not one of a library that says it is (torchao's: codes)."""
    return type(weight.data) is Tensor


def _sample(weight: Tensor) -> Tensor:
    flat = weight.data.reshape(-1)
    return flat[:: max(1, len(flat) // SAMPLES)].clone()
