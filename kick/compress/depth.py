"""Dropping whole blocks: what the layer-dropping methods share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kick.compress.context import Calibration, tokens
from kick.compress.twin import Form
from kick.errors import KickError
from kick.model import block_list
from kick.model.structure import device_of, hidden_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Settings that say of each block what it is ("layer_types") have one of these in their name: a list of end
# tokens can be as long
_OF_EACH = ("layer", "block")


@dataclass(frozen=True, eq=False)
class Stack:
    """The blocks of a model in order, with what its config says of each: lists by name (`layer_types`)."""

    blocks: tuple[nn.Module, ...]
    each: Mapping[str, tuple[Any, ...]]

    @classmethod
    def of(cls, model: nn.Module) -> Stack:
        """The model's blocks as they are. Properties are left out: they follow from the rest."""
        modules = tuple(block_list(model)[1])
        lists = {name: value for name, value in vars(model.config).items() if isinstance(value, list | tuple)}
        lists = {name: value for name, value in lists.items() if any(part in name for part in _OF_EACH)}
        each = {name: tuple(value) for name, value in lists.items() if len(value) == len(modules)}
        return cls(modules, each)

    def without(self, gone: Collection[int]) -> Stack:
        """The blocks that are not gone."""
        kept = [index for index in range(len(self.blocks)) if index not in gone]
        each = {name: tuple(value[index] for index in kept) for name, value in self.each.items()}
        return Stack(tuple(self.blocks[index] for index in kept), each)

    def place(self, model: PreTrainedModel) -> None:
        """Make these the model's blocks: its config says so, and the key/value cache numbers them anew."""
        modules = block_list(model)[1]
        del modules[:]
        modules.extend(self.blocks)
        model.config.num_hidden_layers = len(self.blocks)
        for name, value in self.each.items():
            setattr(model.config, name, list(value))
        for index, block in enumerate(self.blocks):
            for module in block.modules():
                if hasattr(module, "layer_idx"):
                    vars(module)["layer_idx"] = index


def check_depth(model: nn.Module, layers: int) -> None:
    """Raises KickError if so many blocks cannot be dropped."""
    count = len(block_list(model)[1])
    if layers >= count:
        raise KickError(f"cannot drop {layers} of {count} layers; at most {count - 1} can go")


def forms(model: nn.Module, layers: int) -> list[Form]:
    """What dropping any so many blocks may make of a model, as far as its form is concerned.

    The place of a kept block is its own less the number of blocks that went before it. These forms have
    each block at each such place, so that no other choice of blocks has a block where none of these has it.
    """
    count = len(block_list(model)[1])
    gone = [{*range(first), *range(count - layers + first, count)} for first in range(layers + 1)]
    return [partial(_without, gone=blocks) for blocks in gone]


def last(model: nn.Module, layers: int) -> list[Form]:
    """What dropping the last blocks makes of a model."""
    count = len(block_list(model)[1])
    return [partial(_without, gone=set(range(count - layers, count)))]


def _without(model: nn.Module, gone: Collection[int]) -> None:
    Stack.of(model).without(gone).place(model)


def drop(model: nn.Module, gone: Collection[int], calibration: Calibration) -> None:
    """Take blocks out of the model and of its config, and note which."""
    calibration.note("dropped layers", layers=sorted(gone))
    _without(model, gone)


@contextmanager
def outputs_of(modules: list[nn.Module], see: Callable[[int, Tensor, Tensor], None]) -> Iterator[None]:
    """While open, `see(index, input, output)` is called as each of the blocks has run."""
    handles = []
    try:
        for index, module in enumerate(modules):

            def hook(_module: nn.Module, args: Any, kwargs: Any, output: Any, index: int = index) -> None:
                see(index, args[0] if args else kwargs["hidden_states"], hidden_of(output))

            handles.append(module.register_forward_hook(hook, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def run(model: nn.Module, calibration: Calibration, most: int | None = None) -> int:
    """Run the model on its first `most` sequences, for what hooks see; the number of tokens."""
    count = 0
    for ids in list(tokens(calibration, device_of(model)))[:most]:
        model(ids, use_cache=False, logits_to_keep=1)
        calibration.passes.forward += 1
        count += ids.numel()
    return count


def last_states(model: nn.Module, calibration: Calibration, most: int) -> list[Tensor]:
    """The last block's output on the first `most` sequences, (tokens, hidden) each."""
    found: list[Tensor] = []
    last = list(block_list(model)[1])[-1:]
    with outputs_of(last, lambda _index, _before, after: found.append(after.flatten(0, 1))):
        run(model, calibration, most)
    return found
