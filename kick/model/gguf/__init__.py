"""A GGUF file -> a folder of float32 safetensors with its tokenizer: read whole and right, or refused.

transformers' own reader drops tensors and metadata that it does not map; here every tensor, every metadata
key and every part of a split file is read or refused by name (docs/decisions.md).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from kick.errors import KickError

if TYPE_CHECKING:
    from kick.model.gguf.file import GgufFile

SIZES = "gguf_sizes.json"  # in the folder: bits of a value in the file, by the weight's name


def convert(file: Path, folder: Path, sizes: bool = True) -> None:
    """Write `folder` with config, float32 safetensors and tokenizer. Says on stderr what it does.

    Args:
        sizes: whether the model is as large as the file says; else its weights count as dense values.

    Raises:
        KickError: the `gguf` package is missing, the file is damaged or a part of it is missing, or it says
            something that kick does not read.
    """
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise KickError(
            f"reading {file.name} needs the package gguf ({error}); run: pip install gguf"
        ) from error
    import torch
    from transformers import GenerationConfig

    from kick.model.gguf.file import read
    from kick.model.gguf.metadata import config_of
    from kick.model.gguf.vocabulary import tokenizer_of
    from kick.model.gguf.weights import fill
    from kick.model.structure import skeleton

    sys.stderr.write(f"kick: converting {file.name} to safetensors, once (about half a minute) ...\n")
    start = time.monotonic()
    found = read(file)
    config, architecture = config_of(found)
    tokenizer = tokenizer_of(found, getattr(config, "max_position_embeddings", None))
    model = skeleton(config, torch.float32)
    used = fill(model, found, architecture)
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=_ends(found), pad_token_id=config.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / SIZES).write_text(json.dumps(_sizes(found, used) if sizes else {}, indent=0) + "\n")
    sys.stderr.write(f"kick: converted in {time.monotonic() - start:.0f} s\n")


def _ends(file: GgufFile) -> int | list[int] | None:
    """Tokens that end an answer: the end of a text, of a turn, of a message."""
    keys = [f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom")]
    found = list(dict.fromkeys(file.fields[key] for key in keys if key in file.fields))
    return found[0] if len(found) == 1 else found or None


def _sizes(file: GgufFile, used: Mapping[str, tuple[str, ...]]) -> dict[str, float]:
    """Bits of a value in the file, by the name of the weight that it became."""
    return {
        name: 8 * sum(int(file.tensors[s].n_bytes) for s in sources)
        / sum(int(file.tensors[s].n_elements) for s in sources)
        for name, sources in used.items()
    }  # fmt: skip
