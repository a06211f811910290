"""The tokenizer of a checkpoint that has none: its base model's, where both have the same vocabulary.

Libraries that compress often save weights and config alone. Ids mean the same only in the same vocabulary, so
its size and the ids of beginning and end are compared before the files of the base are taken.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kick.errors import KickError

# Padding is left out: nothing is ever padded with it, and quantizers like to set it.
_IDS = ("bos_token_id", "eos_token_id")


def check_same_vocabulary(folder: Path, name: str, base_folder: Path, base: str) -> None:
    """Raises KickError if the configs of a checkpoint and its base do not have the same vocabulary.

    An id that one of the two does not give makes no difference.
    """
    own, other = _vocabulary(folder, name), _vocabulary(base_folder, base)
    unlike = [
        f"{word}: expected {other[word]} (of {base}), got {own[word]}"
        for word in own
        if own[word] != other[word] and (word == "vocab_size" or (own[word] and other[word]))
    ]
    if unlike:
        raise KickError(
            f"{name!r} has no tokenizer ({folder}), and that of {base!r} is for another vocabulary: "
            f"{'; '.join(unlike)}; copy the files of the tokenizer that it was trained with into the folder"
        )


def _vocabulary(folder: Path, name: str) -> dict[str, Any]:
    """The size of the vocabulary and the sorted ids of beginning and end, by their words in a config."""
    from transformers import AutoConfig

    from kick.model.textual import text_config

    try:
        config = text_config(AutoConfig.from_pretrained(folder, trust_remote_code=False))
    except (ValueError, OSError, ImportError, LookupError, AttributeError, TypeError) as error:
        raise KickError(f"transformers cannot read {name!r}: {type(error).__name__}: {error}") from error
    found: dict[str, Any] = {"vocab_size": config.vocab_size}
    for word in _IDS:
        ids = getattr(config, word, None)
        found[word] = sorted(ids) if isinstance(ids, list) else [] if ids is None else [ids]
    return found
