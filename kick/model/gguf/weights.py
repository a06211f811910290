"""The tensors of a GGUF file -> the weights of a transformers model, all of them on both sides.

A tensor of the file without a place, and a weight of the model without a tensor, are refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from kick.errors import KickError
from kick.model.gguf.architectures import Architecture
from kick.model.gguf.file import GgufFile
from kick.model.gguf.rope import TENSORS

if TYPE_CHECKING:
    from gguf import TensorNameMap

_EXPERTS = re.compile(r"(?P<block>.*layers\.(?P<number>\d+)\.)(?P<owner>.*)\.gate_up_proj")
_HEAD_NORM = re.compile(r"(?P<name>.*_layernorm)\.norms\.(?P<head>\d+)\.weight")


def places(model: PreTrainedModel, file: GgufFile) -> dict[str, tuple[str, ...]]:
    """Name in the model's state -> the file's tensors that it is made of, for all that the file has.

    Raises:
        KickError: a tensor of the file has no place in the model.
    """
    import gguf

    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[file.architecture], model.config.num_hidden_layers)
    found: dict[str, tuple[str, ...]] = {}
    for name in model.state_dict():
        sources = _sources(name, names)
        if sources and all(map(file.has, sources)):
            found[name] = sources
    used = {source for sources in found.values() for source in sources}
    if lost := sorted(set(file.tensors) - used - TENSORS):
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise KickError(
            f"{file.path.name} has the tensor {lost[0]}{more}, which has no place in {type(model).__name__}: "
            "the model would not be what the file says"
        )
    return found


def fill(model: PreTrainedModel, file: GgufFile, architecture: Architecture) -> dict[str, tuple[str, ...]]:
    """Give a model on the meta device the file's weights, in float32; what `places` says.

    Raises:
        KickError: a weight of the model is not in the file, or has another shape there.
    """
    found = places(model, file)
    expected = model.state_dict()
    state: dict[str, Tensor] = {}
    for name, sources in found.items():
        value = _value(name, sources, file, architecture, model.config)
        if value.ndim + 1 == expected[name].ndim:  # a row alone, or taps of a convolution (channels, 1, taps)
            value = value[None] if expected[name].shape[0] == 1 else value[:, None]
        if value.shape != expected[name].shape:
            raise KickError(
                f"{file.path.name} has {sources[0]} of shape {tuple(value.shape)}, but {name} of "
                f"{type(model).__name__} has {tuple(expected[name].shape)}"
            )
        state[name] = value
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    missing = [name for name, value in model.state_dict().items() if value.is_meta]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise KickError(
            f"{file.path.name} has no tensor for {missing[0]}{more} of {type(model).__name__}: "
            "part of the model is missing"
        )
    return found


def _sources(name: str, names: TensorNameMap) -> tuple[str, ...]:
    """The tensors of a file that a weight of transformers' model is made of; empty if none is known."""
    if match := _EXPERTS.fullmatch(name):
        return tuple(f"blk.{match['number']}.ffn_{part}_exps.weight" for part in ("gate", "up"))
    if match := _HEAD_NORM.fullmatch(name):
        name = f"{match['name']}.weight"
    base, dot, suffix = name.rpartition(".")
    if suffix not in ("weight", "bias"):
        base, dot, suffix = name, "", ""
    for candidate in _spellings(base):
        known = names.get_name(candidate)
        if known is not None:
            return (known + (".weight" if known.endswith("_exps") else dot + suffix),)
    return ()


def _spellings(base: str) -> Iterator[str]:
    """A name as causal models have it, and as converters of headless models wrote it."""
    yield base
    yield base.removeprefix("transformer.").removeprefix("model.")


def _value(
    name: str, sources: tuple[str, ...], file: GgufFile, architecture: Architecture, config: PretrainedConfig
) -> Tensor:
    arrays = [file.array(source) for source in sources]
    if len(arrays) > 1:  # experts (E, I, H): the gate's rows, then the up projection's
        return torch.from_numpy(np.concatenate(arrays, axis=1))
    array = arrays[0]
    if match := _HEAD_NORM.fullmatch(name):
        array = array[int(match["head"])]
    array = _rearranged(array, sources[0], architecture.stored, config)
    return torch.from_numpy(np.ascontiguousarray(array))


def _rearranged(array: np.ndarray, source: str, stored: str, config: PretrainedConfig) -> np.ndarray:
    """Undo what llama.cpp's converter does to a tensor of an architecture."""
    if stored == "permuted" and ".attn_q." in source:
        return _halves(array, config.num_attention_heads)
    if stored == "permuted" and ".attn_k." in source:
        return _halves(array, config.num_key_value_heads)
    if stored == "norm_plus_one" and source.endswith("norm.weight"):
        return array - 1
    if stored == "conv1d" and source.endswith(".weight") and source.startswith("blk.") and array.ndim == 2:
        return array.T
    if stored == "bloom" and "attn_qkv" in source:
        heads = config.n_head
        split = array.reshape(3, heads, array.shape[0] // 3 // heads, *array.shape[1:])
        return split.swapaxes(0, 1).reshape(array.shape)
    if stored == "falcon" and "attn_qkv" in source:
        return _grouped(array, config.num_attention_heads, config.num_kv_heads)
    if stored == "mamba" and source.endswith("ssm_a"):
        return np.log(-array)
    return array


def _halves(array: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a head as transformers rotates them (two halves), from neighbouring pairs."""
    width = array.shape[0] // heads // 2
    pairs = array.reshape(heads, width, 2, *array.shape[1:])
    return pairs.swapaxes(1, 2).reshape(array.shape)


def _grouped(array: np.ndarray, heads: int, kv_heads: int) -> np.ndarray:
    """Falcon's rows in groups (queries, key, value of a key/value head), from all queries, keys, values."""
    size = array.shape[0] // (heads + 2 * kv_heads)
    rows = array.reshape(heads + 2 * kv_heads, size, *array.shape[1:])
    q = rows[:heads].reshape(kv_heads, heads // kv_heads, *rows.shape[1:])
    k, v = rows[heads : heads + kv_heads, None], rows[heads + kv_heads :, None]
    return np.concatenate([q, k, v], axis=1).reshape(array.shape)
