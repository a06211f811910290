"""Random checkpoints of Llama's form for the memory benchmark, written block by block."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig

from kick.compress.streamed import travel
from kick.compress.streamed.shards import Shards, finish
from kick.model import skeleton
from kick.model.source import locate
from kick.model.stored import header_room

TOKENIZER = "smollm2-135m"
SPREAD = 0.7  # of a matrix's outputs for inputs of size one: deep models neither vanish nor explode


@dataclass(frozen=True)
class Shape:
    """How large a checkpoint is: blocks, width, MLP channels, heads, key/value heads, rows of embedding."""

    blocks: int
    width: int
    channels: int
    heads: int
    groups: int
    rows: int = 49152


SHAPES = {"0.8b": Shape(16, 2048, 4608, 16, 16), "7b": Shape(32, 4096, 11008, 32, 32)}


def make(shape: Shape, folder: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Write a checkpoint of random weights, with the tokenizer of the demo's model; its folder."""
    if (folder / "config.json").exists():
        return folder
    config = LlamaConfig(
        vocab_size=shape.rows, hidden_size=shape.width, intermediate_size=shape.channels,
        num_hidden_layers=shape.blocks, num_attention_heads=shape.heads, num_key_value_heads=shape.groups,
        max_position_embeddings=2048, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = skeleton(config, dtype)
    tensors = {n: t for n, t in model.state_dict().items() if n != "lm_head.weight"}
    generator = torch.Generator().manual_seed(0)
    shards = Shards(folder, header_room(tensors))
    for name, tensor in tensors.items():
        scale = SPREAD / math.sqrt(tensor.shape[-1]) if tensor.ndim > 1 else 0.0
        values = torch.empty(tensor.shape).normal_(generator=generator).mul_(scale)
        shards.add(name, (values if tensor.ndim > 1 else values + 1).to(dtype))
    shards.close()
    finish(folder, shards.room, shards.entries(), sum(t.numel() for t in tensors.values()))
    travel.copy(locate(TOKENIZER), folder)
    config.dtype = str(dtype).removeprefix("torch.")
    facts = config.to_dict() | {"architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(facts, indent=1) + "\n")
    return folder
