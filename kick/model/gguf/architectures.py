"""The kinds of model that can be read from GGUF, and what transformers calls each of their metadata keys.

A key that is in no table here is refused by name: nothing that a file says of its model is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kick.model.gguf.file import GgufFile

# Metadata key -> name in the config; None: says nothing that a config holds
COMMON: dict[str, str | None] = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "vocab_size": "vocab_size",
}
_RMS: dict[str, str | None] = {"attention.layer_norm_rms_epsilon": "rms_norm_eps"}
_EXPERTS: dict[str, str | None] = {
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}

Derive = Callable[[GgufFile, dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Architecture:
    """How one of llama.cpp's architectures is read.

    Attributes:
        model_type: transformers' name of it.
        keys: metadata keys beyond COMMON, or in place of one there.
        implied: config values that llama.cpp's own code has for the architecture.
        derive: more config values, from the file and the values so far.
        rope: whether positions are rotary; partial: whether only a part of a head's channels may rotate.
        stored: what the converter does to tensors: "permuted" (Llama's q and k), "norm_plus_one", "bloom",
            "falcon", "mamba", "conv1d" (GPT-2's matrices).
    """

    model_type: str
    keys: Mapping[str, str | None] = field(default_factory=dict)
    implied: Mapping[str, Any] = field(default_factory=dict)
    derive: Derive = lambda _file, _values: {}
    rope: bool = True
    partial: bool = False
    stored: str = ""


def _llama(file: GgufFile, _values: dict[str, Any]) -> dict[str, Any]:
    bias = file.has("blk.*.attn_q.bias")
    return {"attention_bias": bias, "mlp_bias": file.has("blk.*.ffn_up.bias")}


def _mixture(file: GgufFile, values: dict[str, Any]) -> dict[str, Any]:
    """Widths of experts, which older files say by their tensors alone."""
    found = {}
    if file.has("blk.0.ffn_up_exps.weight"):
        found["moe_intermediate_size"] = int(file.tensors["blk.0.ffn_up_exps.weight"].shape[1])
    if file.has("blk.0.ffn_up_shexp.weight"):
        found["shared_expert_intermediate_size"] = int(file.tensors["blk.0.ffn_up_shexp.weight"].shape[1])
    return {name: value for name, value in found.items() if name not in values}


def _phi3(_file: GgufFile, values: dict[str, Any]) -> dict[str, Any]:
    original = _file.of_model().get("rope.scaling.original_context_length")
    window = values.get("sliding_window")
    return {
        "original_max_position_embeddings": original or values.get("max_position_embeddings"),
        "sliding_window": window or None,  # 0 stands for none
    }


def _stablelm(file: GgufFile, _values: dict[str, Any]) -> dict[str, Any]:
    return {
        "use_qkv_bias": file.has("blk.*.attn_q.bias"),
        "qk_layernorm": file.has("blk.*.attn_q_norm.weight"),
        "use_parallel_residual": not file.has("blk.*.ffn_norm.weight"),
    }


def _falcon(file: GgufFile, values: dict[str, Any]) -> dict[str, Any]:
    new = file.has("blk.*.attn_norm_2.weight")
    several = values.get("num_kv_heads", 1) != 1
    return {
        "new_decoder_architecture": new or several,
        "multi_query": not several and not new,
        "num_ln_in_parallel_attn": 2 if new else (1 if several else None),
        "bias": file.has("blk.*.attn_qkv.bias"),
    }


def _gemma_scale(file: GgufFile, values: dict[str, Any], largest: int) -> int:
    """What attention scores are scaled by: llama.cpp knows the 27B models by their number of blocks."""
    heads = values["num_attention_heads"]
    return values["hidden_size"] // heads if values["num_hidden_layers"] == largest else values["head_dim"]


def _gemma2(file: GgufFile, values: dict[str, Any]) -> dict[str, Any]:
    return {"query_pre_attn_scalar": _gemma_scale(file, values, 46)}


def _gemma3(file: GgufFile, values: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"query_pre_attn_scalar": _gemma_scale(file, values, 62)}
    pattern = 6 if "sliding_window" in values else 1
    types = ["sliding_attention"] * (pattern - 1) + ["full_attention"]
    return found | {"layer_types": [types[i % pattern] for i in range(values["num_hidden_layers"])]}


def _lfm2(_file: GgufFile, values: dict[str, Any]) -> dict[str, Any]:
    """Blocks without key/value heads are convolutions."""
    heads = values["num_key_value_heads"]
    if not isinstance(heads, list):
        return {}
    return {
        "num_key_value_heads": max(heads),
        "layer_types": ["full_attention" if each else "conv" for each in heads],
    }


def _mamba(_file: GgufFile, values: dict[str, Any]) -> dict[str, Any]:
    return {"expand": values["intermediate_size"] // values["hidden_size"]}


_MIXTRAL = Architecture(
    "mixtral",
    _RMS | {"expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok"}
    | {"expert_feed_forward_length": None},
    stored="permuted",
)  # fmt: skip
ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("llama", _RMS, derive=_llama, stored="permuted"),
    "qwen2": Architecture("qwen2", _RMS),
    "qwen3": Architecture("qwen3", _RMS),
    "qwen2moe": Architecture(
        "qwen2_moe",
        _RMS | _EXPERTS | {"expert_shared_feed_forward_length": "shared_expert_intermediate_size"},
        {"norm_topk_prob": False, "decoder_sparse_step": 1, "mlp_only_layers": []},
        _mixture,
    ),
    "qwen3moe": Architecture(
        "qwen3_moe",
        _RMS | _EXPERTS,
        {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []},
        _mixture,
    ),
    "phi3": Architecture(
        "phi3", _RMS | {"attention.sliding_window": "sliding_window"}, derive=_phi3, partial=True
    ),
    "stablelm": Architecture(
        "stablelm",
        {"attention.layer_norm_epsilon": "layer_norm_eps", "use_parallel_residual": "use_parallel_residual"},
        derive=_stablelm,
        partial=True,
    ),
    "starcoder2": Architecture(
        "starcoder2",
        {"attention.layer_norm_epsilon": "norm_epsilon"},
        derive=lambda file, _values: {"use_bias": file.has("blk.*.attn_q.bias")},
    ),
    "nemotron": Architecture(
        "nemotron",
        {"attention.layer_norm_epsilon": "norm_eps", "attention.layer_norm_rms_epsilon": "norm_eps"},
        derive=lambda file, _values: {
            "attention_bias": file.has("blk.*.attn_q.bias"),
            "mlp_bias": file.has("blk.*.ffn_up.bias"),
        },
        partial=True,
        stored="norm_plus_one",
    ),
    "gemma": Architecture("gemma", _RMS, stored="norm_plus_one"),
    "gemma2": Architecture(
        "gemma2",
        _RMS
        | {
            "attention.sliding_window": "sliding_window",
            "attn_logit_softcapping": "attn_logit_softcapping",
            "final_logit_softcapping": "final_logit_softcapping",
        },
        derive=_gemma2,
        stored="norm_plus_one",
    ),
    "gemma3": Architecture(
        "gemma3_text",
        _RMS
        | {
            "attention.sliding_window": "sliding_window",
            "final_logit_softcapping": "final_logit_softcapping",
        },
        derive=_gemma3,
        stored="norm_plus_one",
    ),
    "gpt2": Architecture(
        "gpt2",
        {"attention.layer_norm_epsilon": "layer_norm_epsilon", "feed_forward_length": "n_inner"},
        rope=False,
        stored="conv1d",
    ),
    "bloom": Architecture(
        "bloom",
        {
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
            "context_length": None,  # ALiBi: positions have no end
            "feed_forward_length": None,  # four times the width, as the tensors' shapes show
            "attention.head_count_kv": None,
        },
        rope=False,
        stored="bloom",
    ),
    "falcon": Architecture(
        "falcon",
        {
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
            "attention.head_count_kv": "num_kv_heads",
            "feed_forward_length": "ffn_hidden_size",
        },
        {"alibi": False, "parallel_attn": True},
        _falcon,
        stored="falcon",
    ),
    "mamba": Architecture(
        "mamba",
        {
            "attention.layer_norm_rms_epsilon": "layer_norm_epsilon",
            "context_length": None,
            "feed_forward_length": None,
            "attention.head_count": None,
            "ssm.conv_kernel": "conv_kernel",
            "ssm.inner_size": "intermediate_size",
            "ssm.state_size": "state_size",
            "ssm.time_step_rank": "time_step_rank",
        },
        derive=_mamba,
        rope=False,
        stored="mamba",
    ),
    "lfm2": Architecture(
        "lfm2",
        {"attention.layer_norm_rms_epsilon": "norm_eps", "shortconv.l_cache": "conv_L_cache"},
        {"block_auto_adjust_ff_dim": False},
        _lfm2,
    ),
}


def architecture_of(file: GgufFile) -> Architecture | None:
    """How the file is read, or None: Mixtral is stored as a Llama with experts."""
    if file.architecture == "llama" and file.of_model().get("expert_count"):
        return _MIXTRAL
    return ARCHITECTURES.get(file.architecture)
