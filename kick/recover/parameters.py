"""Which of a model's own parameters are trained, by full name; pruned weights stay zero meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kick.model import block_list, named_linears

Parameters = dict[str, nn.Parameter]


@contextmanager
def freed(parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """While open, these parameters get gradients."""
    try:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in parameters.values():
            parameter.requires_grad_(False)
            parameter.grad = None


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def norms(model: nn.Module) -> Parameters:
    """The weights of all norms."""
    found: Parameters = {}
    for path, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if _is_norm(module) and isinstance(weight, nn.Parameter) and weight.ndim == 1:
            found[f"{path}.weight"] = weight
    return found


def biases(model: nn.Module) -> Parameters:
    """All biases, those of norms among them."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.rpartition(".")[2] == "bias" and parameter.ndim == 1
    }


def named_blocks(model: Any, count: int) -> Parameters:
    """All parameters of the last `count` blocks."""
    path, modules = block_list(model)
    first = len(modules) - count
    return {
        f"{path}.{index}.{name}": parameter
        for index in range(first, len(modules))
        for name, parameter in modules[index].named_parameters()
    }


def final_norm(model: Any) -> Parameters:
    """The weight and bias of the norm after the blocks: the last norm that is not in one."""
    path, _ = block_list(model)
    outside = [
        (name, module)
        for name, module in model.named_modules()
        if _is_norm(module) and not name.startswith(f"{path}.")
    ]
    if not outside:
        return {}
    name, module = outside[-1]
    return {f"{name}.{leaf}": parameter for leaf, parameter in module.named_parameters(recurse=False)}


def tied(model: Any) -> bool:
    """Whether the head's weight is the input embedding's."""
    if getattr(model.config, "tie_word_embeddings", False):
        return True
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and head.weight is embedding.weight


def head_of(model: Any) -> Parameters:
    """The parameters of the head, which must not be tied."""
    head = model.get_output_embeddings()
    return {f"lm_head.{name}": parameter for name, parameter in head.named_parameters()}


def cleared(model: Any, masks: Mapping[str, Tensor], own: Mapping[str, nn.Parameter]) -> Callable[[], None]:
    """What sets weights among `own` that pruning set to zero to zero again, after a step."""
    trained = {id(parameter) for parameter in own.values()}
    pruned = [
        (linear, masks[name].to(linear.weight.device, linear.weight.dtype))
        for name, _, linear in named_linears(model)
        if name in masks and id(getattr(linear.module, linear.parameter)) in trained
    ]

    @torch.no_grad()
    def clear() -> None:
        for linear, kept in pruned:
            linear.weight.mul_(kept).add_(0.0)

    return clear
