"""Whether the installed libraries can read how a checkpoint is quantized: tried before anything is loaded.

transformers' own check of a quantizer's packages comes first. compressed-tensors is then asked to unpack one
matrix of each kind and shape that the file has: what a newer version wrote may have another shape than what
an older one reads, and transformers would only find that in the middle of a forward.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from kick.errors import KickError

# What the libraries raise at a format that they do not know or that does not fit
_UNREADABLE = (
    ImportError,
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
)


def check(folder: Path, name: str) -> None:
    """Raises KickError if a checkpoint is quantized in a way that cannot be read here, with its format."""
    quantization = json.loads((folder / "config.json").read_text("utf-8")).get("quantization_config")
    if not isinstance(quantization, dict):
        return
    method = quantization.get("quant_method", "bitsandbytes")
    try:
        _check_packages(dict(quantization))
    except _UNREADABLE as error:
        raise KickError(
            f"{name!r} is quantized with {method}, which cannot be read here: {' '.join(str(error).split())}"
        ) from error
    if method == "compressed-tensors":
        _check_unpacked(folder, name, quantization)


def _check_packages(quantization: dict[str, Any]) -> None:
    from transformers.quantizers.auto import AutoHfQuantizer

    if not AutoHfQuantizer.supports_quant_method(quantization):
        raise ValueError("transformers does not know this method")
    quantizer = AutoHfQuantizer.from_config(quantization, pre_quantized=True)
    place = 0 if torch.cuda.is_available() else "cpu"
    quantizer.validate_environment(device_map={"": place}, dtype=torch.float32, weights_only=True)


def _check_unpacked(folder: Path, name: str, quantization: dict[str, Any]) -> None:
    import compressed_tensors
    from transformers import CompressedTensorsConfig

    config = CompressedTensorsConfig(**quantization).quantization_config
    schemes = list(config.config_groups.values())
    for owner, tensors in _one_of_each(folder):
        failures = [_failure(scheme, config.format, tensors) for scheme in schemes]
        if all(failures):
            scheme = schemes[0].weights
            raise KickError(
                f"{name!r} is stored as {schemes[0].format or config.format} ({scheme.num_bits} bits, "
                f"{scheme.type}, strategy {getattr(scheme.strategy, 'value', scheme.strategy)}) by "
                f"compressed-tensors {quantization.get('version', 'of an unknown version')}, and the "
                f"installed {compressed_tensors.__version__} cannot unpack {owner}: {failures[0]}"
            )


def _failure(scheme: Any, default: str, tensors: dict[str, Tensor]) -> str | None:
    """Why a matrix cannot be unpacked by a scheme, or None."""
    from compressed_tensors.compressors import BaseCompressor

    expected = _shape(tensors)
    try:
        compressor = BaseCompressor.get_value_from_registry(scheme.format or default)
        weight = compressor.decompress(dict(tensors), scheme)["weight"]
    except _UNREADABLE as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if tuple(weight.shape) != expected:
        return f"it comes out as {tuple(weight.shape)}, expected {expected}"
    return None


def _shape(tensors: dict[str, Tensor]) -> tuple[int, ...]:
    """(out, in) of a packed matrix, by what is stored with it."""
    if "weight_shape" in tensors:
        return tuple(tensors["weight_shape"].tolist())
    if "weight_packed" in tensors:  # two codes of four bits in a byte
        rows, columns = tensors["weight_packed"].shape
        return rows, 2 * columns
    return tuple(tensors["weight"].shape)


def _one_of_each(folder: Path) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """A quantized matrix of each kind: the same leaves, of the same types and shapes."""
    seen: set[tuple] = set()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            owners: dict[str, list[str]] = {}
            for key in stored.keys():  # noqa: SIM118
                owner, _, leaf = key.rpartition(".")
                owners.setdefault(owner, []).append(leaf)
            for owner, leaves in owners.items():
                if "weight_scale" not in leaves or not {"weight", "weight_packed"} & set(leaves):
                    continue
                pieces = {leaf: stored.get_slice(f"{owner}.{leaf}") for leaf in sorted(leaves)}
                kind = tuple((leaf, one.get_dtype(), *one.get_shape()) for leaf, one in pieces.items())
                if kind not in seen:
                    seen.add(kind)
                    wanted = [leaf for leaf in leaves if leaf != "bias"]
                    yield owner, {leaf: stored.get_tensor(f"{owner}.{leaf}") for leaf in wanted}
