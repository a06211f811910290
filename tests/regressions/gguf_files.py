"""Tiny random models, and GGUF files of them as llama.cpp's converter (convert_hf_to_gguf.py) writes them.

The rearrangements here were written from the converter, in its own direction, and its own files of the same
models were read with the same logits: nothing is shared with the reader.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers as tf

from kick.model import load, resolve

SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
BASE = {
    **SPECIAL, "vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "initializer_range": 0.2,
}  # fmt: skip
Arrays = list[tuple[str, np.ndarray]]


def made(config: tf.PretrainedConfig):
    """A model with random weights, the same every time; norms and biases are not 1 and 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = tf.AutoModelForCausalLM.from_config(config)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and not name.endswith(("dt_proj.bias", ".D")):
                parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def logits(model, length: int = 48) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return model(torch.randint(3, 512, (1, length), generator=generator)).logits


def keys_of(config: tf.PretrainedConfig, **more: Any) -> dict[str, Any]:
    """The metadata that the converter's base class writes."""
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    found = {
        "block_count": config.num_hidden_layers,
        "context_length": getattr(config, "max_position_embeddings", 256),
        "embedding_length": config.hidden_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": kv_heads,
    }
    if isinstance(getattr(config, "intermediate_size", None), int):
        found["feed_forward_length"] = config.intermediate_size
    if getattr(config, "rms_norm_eps", None):
        found["attention.layer_norm_rms_epsilon"] = config.rms_norm_eps
    rope = getattr(config, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)
    if "rope_theta" in rope:
        found["rope.freq_base"] = float(rope["rope_theta"])
    return found | more


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Llama's halves of a head as neighbouring pairs."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
        .swapaxes(1, 2)
        .reshape(weight.shape)
    )


def as_llama(config: tf.PretrainedConfig) -> Callable[[str, np.ndarray], np.ndarray]:
    def change(name: str, array: np.ndarray) -> np.ndarray:
        if ".q_proj." in name:
            return permuted(array, config.num_attention_heads)
        return permuted(array, config.num_key_value_heads) if ".k_proj." in name else array

    return change


def plus_one(name: str, array: np.ndarray) -> np.ndarray:
    return array + 1 if name.endswith("norm.weight") else array


def transposed(name: str, array: np.ndarray) -> np.ndarray:
    return array.T if name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")) else array


def as_bloom(name: str, array: np.ndarray) -> np.ndarray:
    if "query_key_value" not in name:
        return array
    split = array.reshape(4, 3, array.shape[0] // 12, *array.shape[1:])
    return np.concatenate([split[:, part].reshape(-1, *array.shape[1:]) for part in range(3)])


def as_falcon(kv_heads: int) -> Callable[[str, np.ndarray], np.ndarray]:
    def change(name: str, array: np.ndarray) -> np.ndarray:
        if "query_key_value" not in name:
            return array
        groups = array.reshape(kv_heads, 4 // kv_heads + 2, 8, 32)
        parts = groups[:, :-2], groups[:, [-2]], groups[:, [-1]]
        return np.concatenate([part.reshape(-1, 32) for part in parts])

    return change


def as_mamba(name: str, array: np.ndarray) -> np.ndarray:
    if name.endswith(".A_log"):
        return -np.exp(array)
    return array.squeeze() if "conv" in name else array


def _named(names, name: str, array: np.ndarray) -> Arrays:
    """A weight under the file's name; experts as the three stacks that the file has."""
    if name.endswith(".experts.gate_up_proj"):
        block, middle = name.split(".")[2], array.shape[1] // 2
        parts = ("gate", array[:, :middle]), ("up", array[:, middle:])
        return [(f"blk.{block}.ffn_{part}_exps.weight", value) for part, value in parts]
    if name.endswith(".experts.down_proj"):
        return [(f"blk.{name.split('.')[2]}.ffn_down_exps.weight", array)]
    for spelling in (name, name.removeprefix("transformer.").removeprefix("model.")):
        found = names.get_name(spelling, try_suffixes=(".weight", ".bias"))
        if found:
            return [(found, array)]
    raise AssertionError(f"{name} has no name in GGUF")


def tensors_of(model, architecture: str, change=lambda _name, array: array) -> Arrays:
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[architecture], model.config.num_hidden_layers)
    found: Arrays = []
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            found += _named(names, name, change(name, tensor.float().numpy()))
    return found


def tokenizer_keys(**more: Any) -> dict[str, Any]:
    """The metadata of kick's smoke tokenizer, byte-level BPE."""
    tokenizer = load(resolve("smoke"))[1]
    stored = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {token["content"] for token in stored["added_tokens"]}
    tokens = [token for token, _ in sorted(stored["model"]["vocab"].items(), key=lambda item: item[1])]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in special else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in stored["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
    } | more


def write(
    file: Path,
    architecture: str,
    keys: Mapping[str, Any],
    tensors: Iterable[tuple[str, np.ndarray]],
    quantization: gguf.GGMLQuantizationType | None = None,
    packed: Callable[[np.ndarray, gguf.GGMLQuantizationType], np.ndarray] = gguf.quantize,
) -> Path:
    """Write a file. Keys without a prefix are the architecture's; a value of None leaves a key out.

    `packed` gives the bytes of a matrix in a type of quantization.
    """
    writer = gguf.GGUFWriter(str(file), architecture)
    for name, value in {**tokenizer_keys(), **keys}.items():
        known = name.startswith(("tokenizer.", "split.", "general.", "other."))
        if value is not None:
            _put(writer, name if known else f"{architecture}.{name}", value)
    for name, array in tensors:
        array = np.ascontiguousarray(array, dtype=np.float32)
        if quantization is not None and array.ndim > 1:
            writer.add_tensor(name, packed(array, quantization), raw_dtype=quantization)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _put(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    else:
        writer.add_array(name, value)
