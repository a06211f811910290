"""Tiny configurations of transformers' causal models, made by their own config classes.

SIZES are set wherever a class has the key, OWN after them for single types. LEFT_OUT are not built.
"""

from __future__ import annotations

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

WINDOW = 128
LARGEST = 6_000_000  # parameters; a tiny model of a type that the sizes below do not make small has more
_LAYERS, _HEADS = 2, 4
SIZES = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embedding_size"), 32),
    **dict.fromkeys(("input_embedding_size", "output_embedding_size", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "decoder_ffn_dim", "dff", "dim_ff"), 64),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers", "decoder_layers"), _LAYERS),
    **dict.fromkeys(("encoder_layers", "num_decoder_layers", "num_encoder_layers"), _LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), _HEADS),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), _HEADS),
    **dict.fromkeys(("num_decoder_attention_heads", "num_encoder_attention_heads"), _HEADS),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), WINDOW),
    "encoder_ffn_dim": 64,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "dim_head": 8,
    "sliding_window": 24,
    "attention_chunk_size": 24,
    "is_decoder": True,
    # experts
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("moe_shared_expert_intermediate_size", "expert_ffn_hidden_size"), 32),
    **dict.fromkeys(("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "n_shared_experts"), 1),
    **dict.fromkeys(("num_dense_layers", "num_shared_experts"), 1),
    # latent attention, indexers
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "o_lora_rank"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("index_head_dim", "index_topk", "indexer_head_dim"), 16),
    **dict.fromkeys(("index_n_heads", "indexer_n_heads"), 16),  # with few, scores tie at 0
    # states
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), 4),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 16),
    "mamba_d_ssm": 64,
    "mamba_n_groups": 1,
}
_IMAGES = "takes images or sound beside text; the text models of many have a row of their own"
LEFT_OUT = {
    **dict.fromkeys(("emu3", "fuyu", "gemma3", "gemma3n", "gemma4", "gemma4_unified", "git"), _IMAGES),
    **dict.fromkeys(("got_ocr2", "mllama", "musicgen", "musicgen_melody", "phi4_multimodal"), _IMAGES),
    **dict.fromkeys(("qwen3_5", "qwen3_5_moe", "qwen4_exp", "llama4", "moshi"), _IMAGES),
    **dict.fromkeys(("gemma4_assistant", "gemma4_unified_assistant"), "drafts for another model"),
    "blt": "reads bytes in patches that a second model cuts",
}
OWN = {
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1, "state_size": 8, "chunk_size": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 24},
    "zamba": {"num_hidden_layers": 3, "layers_block_type": ["mamba", "hybrid", "mamba"]},
    "zamba2": {
        "num_hidden_layers": 3, "layers_block_type": ["mamba", "hybrid", "mamba"], "hybrid_layer_ids": [1],
        "num_mem_blocks": 1, "mamba_ngroups": 1, "mamba_headdim": 16, "adapter_rank": 8, "chunk_size": 16,
    },
    "bamba": {"attn_layer_indices": [1], "mamba_chunk_size": 16},
    "falcon_h1": {"mamba_chunk_size": 16},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], "mamba_chunk_size": 16},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "gemma3n_text": {
        "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 0, "intermediate_size": [64] * 4, "activation_sparsity_pattern": [0.0] * 4,
        "vocab_size_per_layer_input": 512, "hidden_size_per_layer_input": 8, "laurel_rank": 8,
    },
    "gemma4_text": {
        "vocab_size_per_layer_input": 512, "hidden_size_per_layer_input": 8, "global_head_dim": 8
    },
    "plbart": {"encoder_attention_heads": 4},
    "nemotron_h": {"layers_block_type": ["mamba", "attention", "moe"], "n_groups": 1, "chunk_size": 16},
    "cohere2": {"layer_types": ["sliding_attention", "full_attention"]},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_5_moe_text": {"layer_types": ["linear_attention", "full_attention"]},
    "minimax": {
        "layer_types": ["linear_attention", "full_attention"], "block_size": 16,
        "sliding_window": None,  # no checkpoint has one; transformers' generate and forward then differ
    },
    "reformer": {
        "attn_layers": ["local", "local"], "axial_pos_embds": False, "attention_head_size": 8,
        "feed_forward_size": 64, "local_attn_chunk_length": 16,
    },
    "recurrent_gemma": {"num_hidden_layers": 3, "attention_window_size": 24, "lru_width": 32},
    "mpt": {"max_seq_len": WINDOW},
    "roc_bert": {
        "pronunciation_vocab_size": 64, "shape_vocab_size": 64, "pronunciation_embed_dim": 8,
        "shape_embed_dim": 8,
    },
    "xlm": {"causal": True},
    "qwen2": {"vocab_size": 520},  # its tokenizer class adds a token
    "codegen": {"rotary_dim": 8},
    "gptj": {"rotary_dim": 8},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4}
            for kind in ("sliding_attention", "full_attention")
        },
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 64, "hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "jamba": {
        "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
        "mamba_dt_rank": 8,
    },
    "big_bird": {"attention_type": "original_full"},
    "longcat_flash": {"num_layers": 1, "num_hidden_layers": 2, "ffn_hidden_size": 64, "zero_expert_num": 2},
}  # fmt: skip
REMARKS = {
    "minimax": "built without its key sliding_window: past such a window transformers' generate, which "
    "kick uses for this type, has other logits than its forward, and kick's probe is too short to see it",
}
CAREFUL = ("A_log", "dt_proj", "conv1d", "time_decay", "rg_lru", "position_bias")  # kept as they are drawn


def types() -> list[str]:
    """The model types that transformers has a causal class for, but for LEFT_OUT."""
    return [name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name not in LEFT_OUT]


def config_of(name: str, tokenizer):
    """The tiny configuration of a model type."""
    kind = CONFIG_MAPPING[name]
    known = set(getattr(kind, "__dataclass_fields__", {})) | set(kind.attribute_map)
    sizes = SIZES | {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if "kv_lora_rank" in known:  # every head has keys of its own
        sizes["num_key_value_heads"] = _HEADS
    own = OWN.get(name, {})
    return kind(**{key: value for key, value in sizes.items() if key in known and key not in own}, **own)


def build(name: str, tokenizer):
    """A tiny model, the same weights every time; large enough ones that its argmax is clear.

    Raises ValueError for one that is not tiny.
    """
    config = config_of(name, tokenizer)
    with torch.device("meta"):
        count = sum(one.numel() for one in AutoModelForCausalLM.from_config(config).parameters())
    if count > LARGEST:
        raise ValueError(f"{count} parameters; expected at most {LARGEST}")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if any(part in key for part in CAREFUL):
                continue
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.2, generator=random)
            else:
                parameter += 0.05 * torch.randn(parameter.shape, generator=random)
    model.tie_weights()
    return model.eval()
