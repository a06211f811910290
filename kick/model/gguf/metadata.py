"""The metadata of a GGUF file -> a transformers config, every key of it read or refused by name."""

from __future__ import annotations

from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PretrainedConfig

from kick.errors import KickError
from kick.model.gguf import rope
from kick.model.gguf.architectures import ARCHITECTURES, COMMON, Architecture, architecture_of
from kick.model.gguf.file import GgufFile

# Keys with one value that every architecture here has: another would be another model
_FIXED: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "tensor_data_layout": ("jploski", "reference"),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "ssm.dt_b_c_rms": (False,),
    "attention.max_alibi_bias": (0.0,),
    "attention.clamp_kqv": (0.0,),
    "pooling_type": (0,),
}
# Keys that a file may leave out: llama.cpp or the tensors say what holds then
_OPTIONAL = {
    "attention.head_count_kv", "attention.sliding_window", "attn_logit_softcapping",
    "final_logit_softcapping",
    "expert_feed_forward_length", "expert_shared_feed_forward_length", "use_parallel_residual", "vocab_size",
}  # fmt: skip
_HEADS = ("attention.key_length", "attention.value_length", "rope.dimension_count")
_SPECIAL = {
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "eos_token_id": "tokenizer.ggml.eos_token_id",
    "pad_token_id": "tokenizer.ggml.padding_token_id",
}


def config_of(file: GgufFile) -> tuple[PretrainedConfig, Architecture]:
    """The config that describes the file's model, and how its tensors are stored.

    Raises:
        KickError: an architecture that is not read, a key that is not known, or a value that the config of
            transformers does not take.
    """
    architecture = architecture_of(file)
    if file.fields.get("general.type", "model") != "model":
        raise KickError(
            f"{file.path.name} is a {file.fields['general.type']!r} (general.type); expected a model"
        )
    if architecture is None:
        raise KickError(
            f"{file.path.name} has the architecture {file.architecture!r}, which kick cannot read from GGUF; "
            f"expected one of {', '.join(sorted(ARCHITECTURES))}. Give the model's safetensors instead"
        )
    values = _values(file, architecture)
    values |= architecture.implied
    values |= {"head_dim": head} if (head := _head(file, values)) else {}
    values |= _derived(file, architecture, values)
    if architecture.rope:
        values["rope_parameters"] = _rope(file, architecture, values)
    return _made(file, architecture, values), architecture


def _values(file: GgufFile, architecture: Architecture) -> dict[str, Any]:
    """Each key under the architecture's name, as the config calls it."""
    known = {**COMMON, **architecture.keys}
    values: dict[str, Any] = {
        name: file.fields[key] for name, key in _SPECIAL.items() if key in file.fields
    }  # fmt: skip
    values.setdefault("pad_token_id", values.get("eos_token_id"))
    for key, value in file.of_model().items():
        if key in known:
            if (name := known[key]) is not None:
                values[name] = value
        elif key in _FIXED:
            if value not in _FIXED[key]:
                raise KickError(
                    f"{file.path.name} has {file.architecture}.{key} = {value!r}, expected {_FIXED[key][0]!r}"
                )
        elif key not in _HEADS and not (architecture.rope and key in rope.KEYS):
            raise KickError(
                f"{file.path.name} has the metadata key {file.architecture}.{key} = {str(value)[:60]}, which "
                "kick does not know: the model would not be what the file says"
            )
    for key, name in known.items():
        if name is not None and name not in values and key not in _OPTIONAL:
            raise KickError(f"{file.path.name} has no metadata key {file.architecture}.{key} ({name})")
    if known["attention.head_count_kv"] == "num_key_value_heads" and "num_attention_heads" in values:
        values.setdefault("num_key_value_heads", values["num_attention_heads"])
    return values | _vocabulary(file, values) | {"tie_word_embeddings": not file.has("output.weight")}


def _vocabulary(file: GgufFile, values: dict[str, Any]) -> dict[str, int]:
    if not file.has("token_embd.weight"):
        raise KickError(f"{file.path.name} has no tensor token_embd.weight: part of the model is missing")
    rows = int(file.tensors["token_embd.weight"].shape[1])
    if values.get("vocab_size", rows) != rows:
        raise KickError(
            f"{file.path.name} says vocab_size {values['vocab_size']}, but token_embd.weight has {rows} rows"
        )
    return {"vocab_size": rows}


def _head(file: GgufFile, values: dict[str, Any]) -> int | None:
    """Channels of a head, where the file says them apart from the width."""
    keys = file.of_model()
    length = keys.get("attention.key_length")
    if keys.get("attention.value_length", length) != length:
        raise KickError(
            f"{file.path.name} has keys of {length} and values of {keys['attention.value_length']} channels "
            f"a head ({file.architecture}.attention.key_length, value_length); expected the same"
        )
    if length is None and isinstance(values.get("num_attention_heads"), int):
        heads = values["num_attention_heads"]
        return values["hidden_size"] // heads if heads else None
    return length


def _derived(file: GgufFile, architecture: Architecture, values: dict[str, Any]) -> dict[str, Any]:
    try:
        found = architecture.derive(file, values)
    except KeyError as error:
        raise KickError(f"{file.path.name} lacks metadata: {error.args[0]} is missing") from error
    for name, value in found.items():
        said = values.get(name, value)
        if said != value and name not in ("sliding_window", "num_key_value_heads"):
            raise KickError(f"{file.path.name} says {name} = {said!r}, but its tensors say {value!r}")
    return found


def _rope(file: GgufFile, architecture: Architecture, values: dict[str, Any]) -> dict[str, Any]:
    head = values["head_dim"]
    rotated = file.of_model().get("rope.dimension_count", head)
    found = rope.parameters(file, rotated, values.get("max_position_embeddings", 2048))
    if architecture.partial:
        found["partial_rotary_factor"] = rotated / head
    elif rotated != head:
        raise KickError(
            f"{file.path.name} rotates {rotated} of {head} channels of a head "
            f"({file.architecture}.rope.dimension_count), which {architecture.model_type} cannot"
        )
    if architecture.model_type != "gemma3_text":
        return found
    local = float(file.of_model().get("rope.freq_base_swa", 10000.0))
    return {"full_attention": found, "sliding_attention": {"rope_type": "default", "rope_theta": local}}


def _made(file: GgufFile, architecture: Architecture, values: dict[str, Any]) -> PretrainedConfig:
    """The config, after a look at whether it holds every value."""
    kind = type(AutoConfig.for_model(architecture.model_type))
    named = {kind.attribute_map.get(name, name): value for name, value in values.items()}
    if "head_dim" not in kind.__dataclass_fields__:
        head = named.pop("head_dim", None)
        if head and head * values["num_attention_heads"] != values["hidden_size"]:
            raise KickError(
                f"{file.path.name} has heads of {head} channels, which {kind.__name__} cannot describe"
            )
    if "intermediate_size" not in kind.__dataclass_fields__:  # of Mamba it follows from the rest
        given = {name: value for name, value in named.items() if name != "intermediate_size"}
    else:
        given = named
    try:
        config = kind(**given)
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise KickError(f"{file.path.name}: {kind.__name__} does not take its metadata: {error}") from error
    for name, value in named.items():
        got = getattr(config, name, None)
        if name != "rope_parameters" and got != value:
            raise KickError(f"{file.path.name} says {name} = {value!r}, but {kind.__name__} has {got!r}")
    return config
