"""A tiny Llama that the other libraries quantize."""

import os

os.environ.setdefault(
    "GPTQMODEL_CPU_WORKERS", "2"
)  # its own default fails on two cores: one worker, it asks for two

import pytest
import torch
import transformers as tf

from kick.model import load, resolve

CONFIG = {
    "vocab_size": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "hidden_size": 128,
    "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 32, "initializer_range": 0.15,
}  # fmt: skip


@pytest.fixture
def base(tmp_path):
    torch.manual_seed(1)
    folder = tmp_path / "base"
    tf.LlamaForCausalLM(tf.LlamaConfig(**CONFIG)).save_pretrained(folder)
    load(resolve("smoke"))[1].save_pretrained(folder)
    return folder
