"""Whether the installed libraries can read how a checkpoint is quantized: tried before anything is loaded.

transformers' own check of a quantizer's packages comes first. compressed-tensors is then asked to unpack one
matrix of each kind and shape that the file has: what a newer version wrote may have another shape than what
an older one reads, and transformers would only find that in the middle of a forward. torchao is asked to
multiply with one matrix of each of its kinds: some are read on a CPU and have no product there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
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


# Quantizers whose kernels exist for GPUs alone: what they run on
_ON_GPUS = {
    "aqlm": "a CUDA GPU and the package aqlm (products of its kernel for CPUs were found wrong)",
    "eetq": "a CUDA GPU and the package kernels",
    "fbgemm_fp8": "a CUDA GPU and the package fbgemm-gpu-genai",
    "fp_quant": "a CUDA GPU and the packages fp-quant and qutlass",
    "higgs": "a CUDA GPU and the packages flute-kernel and fast-hadamard-transform",
    "spqr": "a CUDA GPU and the package spqr-quant",
    "vptq": "a CUDA GPU and the package vptq",
}
# Quantizers that transformers 5 has for quantizing as it loads, and that read no checkpoint
_NO_CHECKPOINTS = {"hqq", "quanto"}


# Packages whose absence transformers 5.17 does not notice
_PACKAGES = {"aqlm": ("aqlm",), "fouroversix": ("fouroversix",), "sinq": ("sinq",)}


def check(folder: Path, name: str) -> None:
    """Raises KickError if a checkpoint is quantized in a way that cannot be read here, with its format."""
    quantization = json.loads((folder / "config.json").read_text("utf-8")).get("quantization_config")
    if not isinstance(quantization, dict):
        if not (folder / "quanto_qmap.json").is_file():
            return
        quantization = {"quant_method": "quanto"}  # what optimum-quanto itself writes
    method = quantization.get("quant_method", "bitsandbytes")
    if method in _NO_CHECKPOINTS:
        raise KickError(
            f"{name!r} is quantized with {method}, and transformers reads no checkpoint of {method} (it "
            "quantizes with it as it loads); save it dequantized, or quantize it in another format"
        )
    if method in _ON_GPUS and not torch.cuda.is_available():
        raise KickError(
            f"{name!r} is quantized with {method}, which needs {_ON_GPUS[method]}; there is no GPU here"
        )
    for package in _PACKAGES.get(method, ()):
        if find_spec(package) is None:
            raise KickError(
                f"{name!r} is quantized with {method}, which needs the package {package}; it is not installed"
            )
    try:
        _check_packages(dict(quantization))
    except _UNREADABLE as error:
        raise KickError(
            f"{name!r} is quantized with {method}, which cannot be read here: {' '.join(str(error).split())}"
        ) from error
    if method == "compressed-tensors":
        _check_unpacked(folder, name, quantization)
    if method == "torchao":
        _check_multiplied(folder, name)


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


def _check_multiplied(folder: Path, name: str) -> None:
    """One matrix of each kind of tensor that torchao wrote, rebuilt and multiplied with."""
    from torchao.prototype.safetensors.safetensors_support import unflatten_tensor_state_dict

    seen: set[str] = set()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            said = stored.metadata() or {}
            for weight in sorted(stored_name for stored_name in said if stored_name.endswith(".weight")):
                kind = json.loads(said[weight]).get("_type", "Tensor")
                if kind == "Tensor" or kind in seen:
                    continue
                seen.add(kind)
                start = f"{weight.removesuffix('weight')}_weight_"
                tensors = {key: stored.get_tensor(key) for key in stored.keys() if key.startswith(start)}  # noqa: SIM118
                about = {key: value for key, value in said.items() if key == weight or "." not in key}
                about["tensor_names"] = json.dumps([weight])
                try:
                    rebuilt = unflatten_tensor_state_dict(tensors, about)[0][weight]
                    torch.nn.functional.linear(torch.zeros(1, rebuilt.shape[1], dtype=rebuilt.dtype), rebuilt)
                except _UNREADABLE as error:
                    raise KickError(
                        f"{name!r} has matrices that torchao stores as {kind}, with which this machine "
                        f"cannot compute: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
                    ) from error


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
