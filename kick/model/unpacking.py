"""Matrices in compressed-tensors' packed format, unpacked as they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import CompressedTensorsConfig

from kick.model.stored import StoredTensor

_ENDS = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx")


@dataclass(frozen=True)
class PackedTensor:
    """A matrix that lies packed in a file; it reads as its weights, float32."""

    parts: Mapping[str, StoredTensor]
    scheme: Any
    form: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes as they are stored."""
        return sum(part.nbytes for part in self.parts.values())

    def __getitem__(self, _: Any) -> Tensor:
        """The weights (out, in)."""
        from compressed_tensors.compressors import BaseCompressor

        tensors = {leaf: part.read() for leaf, part in self.parts.items()}
        tensors["weight_scale"] = tensors["weight_scale"].float()
        compressor = BaseCompressor.get_value_from_registry(self.form)
        return compressor.decompress(tensors, self.scheme)["weight"]

    def get_dtype(self) -> str:
        """The type of its scales, as files name it."""
        return self.parts["weight_scale"].get_dtype()


def unpacking(stored: Mapping[str, StoredTensor], quantization: Any) -> dict[str, Any]:
    """Stored tensors by name, where packed parts of a matrix have become the matrix.

    quantization: as the config gives it, of one scheme for all.
    """
    config = CompressedTensorsConfig(**quantization).quantization_config
    (scheme,) = config.config_groups.values()
    owners = {name.removesuffix(".weight_packed") for name in stored if name.endswith(".weight_packed")}
    found: dict[str, Any] = {}
    for name, one in stored.items():
        if name.rpartition(".")[0] not in owners or not name.endswith(_ENDS):
            found[name] = one
    for owner in owners:
        parts = {end: stored[f"{owner}.{end}"] for end in _ENDS if f"{owner}.{end}" in stored}
        shape = tuple(parts["weight_shape"].read().tolist())
        form = scheme.format or config.format
        found[f"{owner}.weight"] = PackedTensor(parts, scheme, form, shape, parts["weight_scale"].dtype)
    return found
