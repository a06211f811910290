"""How large the files are that one would ship: those a model was loaded from.

Weights alone are counted, with the headers of their files; a tokenizer and a license go along with every
variant of a model. What `kick compress` would write of a model is counted in `kick.compress.written`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import PretrainedConfig

from kick.model.textual import text_config

ORIGIN = "kick_origin"  # attribute of a model that was loaded from files: an `Origin`
_TYPES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}  # bytes of a floating-point value
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Origin:
    """The files that a model was loaded from.

    size: bytes of all of them; kind: "safetensors" or "gguf"; value: bytes of a value of the checkpoint's own
    type, in which `kick compress` writes what it changes; values: those of a tensor, by name, where the file
    says them.
    """

    size: int
    kind: str
    value: int
    values: Mapping[str, int] = field(default_factory=dict)


def note_origin(model: nn.Module, files: list[Path], folder: Path, config: PretrainedConfig) -> None:
    """Note on the model which files it comes from.

    Args:
        files: what one would ship: a .gguf file, or what is in the folder.
        folder: with the safetensors that were read. config: as it is in that folder.
    """
    kind = "gguf" if files[0].suffix == ".gguf" else "safetensors"
    value = torch.empty(0, dtype=getattr(torch, stored_dtype(config))).element_size()
    values: dict[str, int] = {}
    for file in weight_files(folder):
        with safe_open(file, framework="numpy") as stored:
            for name in stored.keys():  # noqa: SIM118
                found = _TYPES.get(stored.get_slice(name).get_dtype())
                if found is not None:
                    values[name] = found
    size = sum(file.stat().st_size for file in files)
    setattr(model, ORIGIN, Origin(size, kind, value, values))


def weight_files(folder: Path) -> list[Path]:
    """The safetensors that transformers reads of a folder: another copy of the weights beside is not."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if (folder / _INDEX).is_file():
        names = json.loads((folder / _INDEX).read_text("utf-8"))["weight_map"].values()
        return [folder / name for name in sorted(set(names))]
    return sorted(folder.glob("*.safetensors"))


def stored_dtype(config: PretrainedConfig) -> str:
    """The type that a checkpoint's config says it is in; float32 for one that kick does not load."""
    found = str(text_config(config).dtype or config.dtype).removeprefix("torch.")
    return found if found in ("float32", "bfloat16", "float16") else "float32"


def as_loaded(model: nn.Module) -> dict[str, Any]:
    """`shipped_bytes` and `shipped_as` of a model as its files are; nothing if it was not loaded from any."""
    origin: Origin | None = getattr(model, ORIGIN, None)
    return {} if origin is None else {"shipped_bytes": origin.size, "shipped_as": f"the {origin.kind} file"}
