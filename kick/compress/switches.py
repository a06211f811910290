"""Units switched off for a while: what a model's loss is without some heads and channels, none yet cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kick.compress.coupled import Coupled
from kick.errors import CellFailed
from kick.model.packed import PackedLinears

BATCH_TOKENS = 1024  # of sequences of one length that are run together
On = Sequence[tuple[Tensor, Tensor]]  # of each block: what is on of its groups and of its channels


@contextmanager
def switched(found: Sequence[Coupled], on: On) -> Iterator[None]:
    """Within it, units of which `on` is 0 give nothing: of each block its groups (groups,) and channels."""
    handles = []
    try:
        for structure, (groups, channels) in zip(found, on, strict=True):
            width = structure.heads_a_group * structure.head
            masks = groups.repeat_interleave(width), channels
            for linear, mask in zip(structure.readers, masks, strict=False):
                factor = mask.to(linear.weight.device, linear.weight.dtype)
                handles.append(linear.module.register_forward_pre_hook(_times(factor)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _times(factor: Tensor) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    def hook(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0] * factor, *args[1:])

    return hook


@torch.no_grad()
def loss_of(model: nn.Module, batches: Sequence[Tensor]) -> float:
    """The mean over sequences of their mean loss in nats per token. Raises CellFailed at NaN or infinity."""
    total = sum(float(model(ids, labels=ids, use_cache=False).loss) * len(ids) for ids in batches)
    mean = total / sum(map(len, batches))
    if not mean < float("inf"):
        raise CellFailed("the loss is NaN or infinite with some heads and channels switched off")
    return mean


def losses_with(
    model: nn.Module, found: Sequence[Coupled], batches: Sequence[Tensor], masks: Iterable[On]
) -> list[float]:
    """The loss with each mask in turn, see `switched` and `loss_of`; weights stay as they are meanwhile."""
    losses = []
    with PackedLinears(model).on():
        for on in masks:
            with switched(found, on):
                losses.append(loss_of(model, batches))
    return losses


def batched(sequences: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Sequences (1, length) as batches (n, length) of one length each."""
    by_length: dict[int, list[Tensor]] = {}
    for ids in sequences:
        by_length.setdefault(ids.shape[1], []).append(ids.to(device))
    batches: list[Tensor] = []
    for length, same in by_length.items():
        batches += torch.cat(same).split(max(BATCH_TOKENS // length, 1))
    return batches
