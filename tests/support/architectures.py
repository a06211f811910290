"""Tiny random-weights models, one for each architecture that people compress."""

from __future__ import annotations

import copy
from functools import cache

import torch
import transformers as tf

ARCHITECTURES = ["llama", "qwen3", "opt", "gpt2", "gpt_neox", "mixtral", "mamba"]
WIDER = ["gemma2", "gemma3", "olmo2", "phi3", "qwen3_moe", "gpt_oss", "deepseek_v3", "qwen3_5", "mamba2"]
VOCABULARY = 96


def _config(name: str):
    common = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    llama = {
        **common,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "initializer_range": 0.15,
        "max_position_embeddings": 128,
    }
    if name == "llama":
        return tf.LlamaConfig(**llama, tie_word_embeddings=True)
    if name == "qwen3":
        return tf.Qwen3Config(**llama)
    if name == "mixtral":
        return tf.MixtralConfig(**llama, num_local_experts=16, num_experts_per_tok=2)
    if name == "opt":
        return tf.OPTConfig(
            **common, hidden_size=32, ffn_dim=64, num_hidden_layers=3, num_attention_heads=4,
            max_position_embeddings=128, word_embed_proj_dim=32, init_std=0.15, dropout=0.0,
        )  # fmt: skip
    if name == "gpt2":
        return tf.GPT2Config(
            **common, n_embd=32, n_inner=64, n_layer=3, n_head=4, n_positions=128, initializer_range=0.15
        )  # fmt: skip
    if name == "gpt_neox":
        return tf.GPTNeoXConfig(
            **common, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
            max_position_embeddings=128, initializer_range=0.15,
        )  # fmt: skip
    return tf.MambaConfig(
        **common, hidden_size=32, state_size=4, num_hidden_layers=3, time_step_rank=8, initializer_range=0.15
    )  # fmt: skip


def _wider(name: str):
    common = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    common |= {"hidden_size": 32, "num_hidden_layers": 3, "initializer_range": 0.15}
    if name == "mamba2":
        return tf.Mamba2Config(
            **common, num_heads=4, head_dim=16, state_size=8, n_groups=2, expand=2, chunk_size=8
        )
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
    common |= {**heads, "intermediate_size": 64}
    one_head = {"head_dim": 8}
    experts = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}
    if name == "deepseek_v3":
        latent = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8}
        routed = {"n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1}
        return tf.DeepseekV3Config(
            **common | {"num_key_value_heads": 4}, **latent, **routed, **experts, v_head_dim=8,
            first_k_dense_replace=1,
        )  # fmt: skip
    if name == "qwen3_5":
        linear = {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2}
        return tf.Qwen3_5TextConfig(
            **common, **one_head, **linear, linear_num_value_heads=4,
            layer_types=["linear_attention", "linear_attention", "full_attention"],
        )  # fmt: skip
    own = {
        "gemma2": {"query_pre_attn_scalar": 8, "sliding_window": 64},
        "gemma3": {"query_pre_attn_scalar": 8, "sliding_window": 64},
        "qwen3_moe": {**experts, "num_experts": 4},
        "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 64},
    }.get(name, {})
    kinds = {
        "gemma2": tf.Gemma2Config, "gemma3": tf.Gemma3TextConfig, "olmo2": tf.Olmo2Config,
        "phi3": tf.Phi3Config, "qwen3_moe": tf.Qwen3MoeConfig, "gpt_oss": tf.GptOssConfig,
    }  # fmt: skip
    return kinds[name](**common, **({} if name in ("olmo2", "phi3") else one_head), **own)


@cache
def _made(name: str):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = tf.AutoModelForCausalLM.from_config(_wider(name) if name in WIDER else _config(name))
        for key, parameter in model.named_parameters():  # biases and norms that are not 0 and 1
            if parameter.ndim == 1 and not key.endswith(("dt_proj.bias", ".D")):
                parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval().requires_grad_(False)


def tiny(name: str):
    """A fresh copy of the tiny model of an architecture, the same weights every time."""
    return copy.deepcopy(_made(name))


def sequences(count: int = 4, length: int = 24, seed: int = 0) -> list[torch.Tensor]:
    """Random calibration sequences, (1, length) each."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCABULARY, (1, length), generator=generator) for _ in range(count)]
