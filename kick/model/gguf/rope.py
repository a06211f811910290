"""Rotary positions of a GGUF file -> what transformers calls rope_parameters.

llama.cpp says scaling in metadata (linear, yarn, longrope) or in tensors of factors: `rope_freqs.weight` of
Llama 3.1 and later, `rope_factors_short.weight` and `rope_factors_long.weight` of Phi-3.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from kick.errors import KickError
from kick.model.gguf.file import GgufFile

KEYS = frozenset(
    f"rope.{name}"
    for name in (
        "freq_base", "freq_base_swa", "scale_linear", "scaling.type", "scaling.factor",
        "scaling.original_context_length", "scaling.finetuned", "scaling.attn_factor",
        "scaling.yarn_ext_factor", "scaling.yarn_attn_factor", "scaling.yarn_beta_fast",
        "scaling.yarn_beta_slow", "scaling.yarn_log_multiplier",
    )
)  # fmt: skip
TENSORS = frozenset({"rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"})
_BASE = 10000.0  # llama.cpp's, where a file names none
# What changes the result in a way that transformers cannot express: key -> values that change nothing
_NEUTRAL = {
    "rope.scaling.yarn_ext_factor": (1.0, -1.0),
    "rope.scaling.yarn_attn_factor": (1.0,),
    "rope.scaling.yarn_log_multiplier": (0.0,),
}


def parameters(file: GgufFile, head: int, context: int) -> dict[str, Any]:
    """rope_parameters of a model whose heads rotate `head` channels, for `context` positions.

    Raises:
        KickError: a scaling that transformers cannot express, by its key.
    """
    keys = file.of_model()
    theta = float(keys.get("rope.freq_base", _BASE))
    for name, neutral in _NEUTRAL.items():
        if keys.get(name, neutral[0]) not in neutral:
            raise _refused(file, name, keys[name], neutral[0])
    if file.has("rope_factors_long.weight") or file.has("rope_factors_short.weight"):
        found = _longrope(file, keys, context)
    elif file.has("rope_freqs.weight"):
        found = _factors(file, theta, head, context)
    else:
        found = _scaling(file, keys, context)
    if keys.get("rope.scaling.attn_factor", 1.0) != found.get("attention_factor", 1.0):
        raise _refused(file, "rope.scaling.attn_factor", keys["rope.scaling.attn_factor"], 1.0)
    return {**found, "rope_theta": theta}


def _scaling(file: GgufFile, keys: dict[str, Any], context: int) -> dict[str, Any]:
    """What metadata alone say. A factor without a type is linear, as llama.cpp has it."""
    factor = keys.get("rope.scaling.factor", keys.get("rope.scale_linear", 1.0))
    kind = keys.get("rope.scaling.type", "linear")
    if kind == "none" or (kind in ("linear", "yarn") and factor in (0.0, 1.0)):
        return {"rope_type": "default"}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        raise _refused(file, "rope.scaling.type", kind, "none, linear, yarn, or the tensors of longrope")
    found = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": keys.get("rope.scaling.original_context_length", context),
    }
    for name in ("beta_fast", "beta_slow"):
        if f"rope.scaling.yarn_{name}" in keys:
            found[name] = keys[f"rope.scaling.yarn_{name}"]
    return found


def _factors(file: GgufFile, theta: float, head: int, context: int) -> dict[str, Any]:
    """`rope_freqs.weight` (head / 2,): what each frequency is divided by.

    Llama 3's settings where they give exactly these factors, else the factors themselves.
    """
    factors = file.array("rope_freqs.weight")
    if factors.shape != (head // 2,):
        raise KickError(
            f"{file.path.name} has rope_freqs.weight of shape {factors.shape}, expected ({head // 2},)"
        )
    if (factors == 1).all():
        return {"rope_type": "default"}
    for power in range(4, 21):
        found = {
            "rope_type": "llama3",
            "factor": float(str(factors.max())),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 2**power,
        }
        if np.allclose(llama3(found, theta, head), factors, rtol=1e-5, atol=0):
            return found
    every = [float(factor) for factor in factors]
    return {
        "rope_type": "longrope",
        "short_factor": every,
        "long_factor": every,
        "factor": 1.0,
        "attention_factor": 1.0,
        "original_max_position_embeddings": context,
    }


def llama3(found: dict[str, Any], theta: float, head: int) -> np.ndarray:
    """(head / 2,): the factors that Llama 3's rope settings stand for."""
    wavelengths = 2 * math.pi * theta ** (np.arange(0, head, 2) / head)
    original, factor = found["original_max_position_embeddings"], found["factor"]
    low, high = found["low_freq_factor"], found["high_freq_factor"]
    smooth = (original / wavelengths - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    ends = np.where(wavelengths > original / low, factor, between)
    return np.where(wavelengths < original / high, 1.0, ends)


def _longrope(file: GgufFile, keys: dict[str, Any], context: int) -> dict[str, Any]:
    names = ("rope_factors_short.weight", "rope_factors_long.weight")
    if missing := [name for name in names if not file.has(name)]:
        raise KickError(f"{file.path.name} has no tensor {missing[0]}, but the other factors of longrope")
    short, long = ([float(x) for x in file.array(name)] for name in names)
    original = keys.get("rope.scaling.original_context_length", context)
    return {
        "rope_type": "longrope",
        "short_factor": short,
        "long_factor": long,
        "factor": context / original,
        "attention_factor": float(keys.get("rope.scaling.attn_factor", 1.0)),
        "original_max_position_embeddings": original,
    }


def _refused(file: GgufFile, key: str, got: Any, expected: Any) -> KickError:
    return KickError(
        f"{file.path.name} has {file.architecture}.{key} = {got!r}, which transformers cannot express; "
        f"expected {expected}"
    )
