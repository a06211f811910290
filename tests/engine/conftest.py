"""Tiny models with random weights and one small tokenizer: every architecture the engine is held to."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    Qwen3Config,
)

from kick.model import load, resolve

WINDOW = 96
_GQA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": WINDOW,
}
_MHA = {key: value for key, value in _GQA.items() if key != "num_key_value_heads"}
_OPT = {key: value for key, value in _MHA.items() if key != "intermediate_size"}
CONFIGS = {
    "llama": (LlamaConfig, _GQA),
    "gpt2": (GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": WINDOW}),
    "opt": (OPTConfig, {**_OPT, "ffn_dim": 64, "word_embed_proj_dim": 16}),
    "gpt_neox": (GPTNeoXConfig, _MHA),
    "mamba": (MambaConfig, {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    "mistral": (MistralConfig, _GQA | {"sliding_window": 24}),
    "mixtral": (MixtralConfig, _GQA | {"num_local_experts": 4}),
    "qwen3": (Qwen3Config, _GQA | {"head_dim": 8}),
    "bloom": (BloomConfig, {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
}


def build(name: str, tokenizer, attention: str | None = None):
    """A tiny model, the same weights every time; large enough ones that its argmax is clear."""
    kind, options = CONFIGS[name]
    special = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    model = AutoModelForCausalLM.from_config(kind(**options, **special), attn_implementation=attention)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.2, generator=random)
    model.tie_weights()
    return model.eval()


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer():
    """The smoke model's byte-level tokenizer: no text is foreign to it."""
    return load(resolve("smoke"))[1]


@pytest.fixture(scope="session")
def models(tokenizer):
    """Tiny models by name, each built once."""
    built = {}

    def get(name: str, attention: str | None = None):
        if (name, attention) not in built:
            built[name, attention] = build(name, tokenizer, attention)
        return built[name, attention]

    return get
