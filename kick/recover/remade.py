"""What autograd keeps of a forward for its backward pass, less what is cheap to make again from the rest.

Of a gated layer autograd keeps the gate, its activation, the other half and their product, and of a norm its
input and its output. Here an activation, a product and a norm's output are not kept but made again, by the
same operation of the same numbers, when the backward pass asks for them: all values are equal bit for bit. No
matrix is multiplied again. It is told by the graph alone what a tensor was made of, so that it serves every
architecture; what the graph does not tell is kept as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from kick.errors import CellFailed

LEAST = 2**16  # bytes of a tensor that is worth making again
VIEWS = ("ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0")
Made = Callable[..., Tensor]


class Kept:
    """A tensor that is kept, without its history, which may be the very one that keeps it."""

    __slots__ = ("tensor", "version")

    def __init__(self, tensor: Tensor):
        self.tensor, self.version = tensor.detach(), tensor._version

    def __call__(self) -> Tensor:
        """The tensor. Raises CellFailed if it was written to: its gradients would be wrong."""
        if self.tensor._version != self.version:
            raise CellFailed("a tensor that the backward pass needs was written to in the forward pass")
        return self.tensor


class Again:
    """A tensor that is made again of others; it stays until all who asked to have it kept have had it."""

    __slots__ = ("__weakref__", "asked", "made", "make", "node", "parts")

    def __init__(self, node: Any, make: Made, parts: tuple[Kept | Again, ...]):
        self.node, self.make, self.parts = node, make, parts
        self.asked = 0
        self.made: Tensor | None = None
        for part in parts:
            if isinstance(part, Again):
                part.asked += 1

    def __call__(self) -> Tensor:
        """The tensor, equal bit for bit to the one that was."""
        made = self.made
        if made is None:
            with torch.no_grad():
                made = self.make(*(part() for part in self.parts))
        self.asked -= 1
        self.made = made if self.asked > 0 else None
        return made


class Remaking:
    """What is kept of a forward, and how the rest is made again."""

    def __init__(self, epsilons: Mapping[int, float]):
        self.epsilons = epsilons  # of layer norms, by the address of their weights
        self.known: WeakValueDictionary[int, Again] = WeakValueDictionary()  # by the id of their nodes

    def pack(self, tensor: Tensor) -> Kept | Again:
        """What is kept in a tensor's place."""
        node = tensor.grad_fn
        if node is None or tensor.nbytes < LEAST:
            return Kept(tensor)
        again = self._view(node, tensor.shape) if node.name() in VIEWS else self._made(node)
        if again is None:
            return Kept(tensor)
        again.asked += 1
        return again

    def _view(self, node: Any, shape: torch.Size) -> Again | None:
        before = node.next_functions[0][0]
        whole = None if before is None else self._made(before)
        return None if whole is None else Again(node, partial(_viewed, shape), (whole,))

    def _made(self, node: Any) -> Again | None:
        """What makes the output of a node again, None if it cannot be made of what is kept."""
        again = self.known.get(id(node))
        if again is None:
            found = self._how(node)
            if found is not None:
                again = self.known[id(node)] = Again(node, *found)
        return again

    def _how(self, node: Any) -> tuple[Made, tuple[Kept | Again, ...]] | None:
        name, parts = node.name(), list[Kept | Again | None]()
        make: Made
        if name == "MulBackward0":
            make, parts = torch.mul, [self._part(node, 0, "self"), self._part(node, 1, "other")]
        elif name == "SiluBackward0":
            make, parts = functional.silu, [self._part(node, 0, "self")]
        elif name == "GeluBackward0":
            make = partial(functional.gelu, approximate=node._saved_approximate)
            parts = [self._part(node, 0, "self")]
        elif name == "NativeLayerNormBackward0" and node._saved_weight is not None:
            epsilon = self.epsilons.get(node._saved_weight.data_ptr())
            if epsilon is None:
                return None
            make = partial(_normed, tuple(node._saved_normalized_shape), epsilon)
            parts = [self._part(node, 0, "input"), Kept(node._saved_weight)]
            parts += [] if node._saved_bias is None else [Kept(node._saved_bias)]
        else:
            return None
        whole = tuple(part for part in parts if part is not None)
        return (make, whole) if len(whole) == len(parts) else None

    def _part(self, node: Any, place: int, name: str) -> Kept | Again | None:
        """An operand of a node: made again, or as the node keeps it."""
        before = node.next_functions[place][0]
        again = None if before is None else self._made(before)
        if again is not None:
            return again
        saved = getattr(node, f"_saved_{name}")
        return None if saved is None or not saved.ndim else Kept(saved)


def _unpack(kept: Kept | Again) -> Tensor:
    return kept()


def _viewed(shape: torch.Size, whole: Tensor) -> Tensor:
    return whole.view(shape)


def _normed(
    shape: tuple[int, ...], epsilon: float, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    return functional.layer_norm(x, shape, weight, bias, epsilon)


def epsilons(model: nn.Module) -> dict[int, float]:
    """What each layer norm adds to the variance, which autograd does not keep, by its weight's address."""
    return {
        module.weight.data_ptr(): module.eps
        for module in model.modules()
        if isinstance(module, nn.LayerNorm) and module.elementwise_affine
    }


@contextmanager
def remade(model: nn.Module) -> Iterator[None]:
    """While open, forwards keep less for their backward passes, each of which can be taken once."""
    with torch.autograd.graph.saved_tensors_hooks(Remaking(epsilons(model)).pack, _unpack):
        yield
