"""Weights in memory of the model's own, instead of in the mapped files of its checkpoint.

transformers maps a checkpoint: a page that was read once stays with the process until the last tensor of the
file has gone, also where a method has long put another weight in its place. A weight of its own memory goes
when it is replaced. An embedding stays in the file: a job looks up the rows of its own tokens. Who reads all
of it, as the head of a model that ties the two or to compare it, lets the pages go again; so does each
look-up, since the system brings in 16 pages for each that is touched.
"""

from __future__ import annotations

from bisect import bisect
from functools import partial

import torch
from torch import Tensor, nn

from kick.model import mapped
from kick.model.heap import apart

FILE = ".safetensors"


@torch.no_grad()
def own(model: nn.Module) -> None:
    """Copy the weights that lie in mapped safetensors out of them, in place, and let go the pages read.

    Not those that are looked up by row: theirs go after each look-up.
    """
    there = mapped.spans(FILE)
    tables = [m for m in model.modules() if type(m) is nn.Embedding]
    looked_up = {id(m.weight) for m in tables}
    for tensor in [*model.parameters(), *model.buffers()]:
        if id(tensor) not in looked_up and _within(there, tensor):
            start, size = tensor.data_ptr(), tensor.nbytes
            with apart():
                tensor.data = tensor.data.clone()
            mapped.let_go(start, size)
    for table in tables:
        if _within(there, table.weight):
            table.register_forward_hook(partial(_after_look_up, table.weight.data_ptr()))


def let_go(tensor: Tensor) -> None:
    """Drop the pages of a tensor in a mapped file of safetensors; the next who reads it reads the file again.

    Nothing happens to a tensor that lies elsewhere, or that was written to: what was written is in this
    process's memory alone.
    """
    if _within(mapped.spans(FILE), tensor):
        mapped.let_go(tensor.data_ptr(), tensor.nbytes)


def _after_look_up(start: int, table: nn.Module, *_: object) -> None:
    """Let the rows go that were read, if the table still lies where it lay in its file."""
    weight = table.weight
    if isinstance(weight, Tensor) and weight.device.type == "cpu" and weight.data_ptr() == start:
        mapped.let_go(start, weight.nbytes)


def _within(spans: list[tuple[int, int]], tensor: Tensor) -> bool:
    """Whether a tensor lies in one of the spans as a whole, and nothing else between its ends."""
    if type(tensor.data) is not Tensor or tensor.device.type != "cpu" or not tensor.is_contiguous():
        return False
    start, size = tensor.data_ptr(), tensor.nbytes
    return any(first <= start and start + size <= last for first, last in _around(spans, start))


def _around(there: list[tuple[int, int]], address: int) -> list[tuple[int, int]]:
    place = bisect(there, (address + 1, 0))
    return there[max(0, place - 1) : place]
