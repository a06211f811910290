"""Whether a checkpoint is of the model that it is compared with: its vocabulary, its shapes.

Another vocabulary is refused: prompts, windows and likelihoods would be of other tokens. Tokens that were
only added, and shapes that differ (a pruned, a distilled or another model), are said with its results.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kick.errors import KickError
from kick.model.source import locate, tokenizer_of
from kick.records import ModelSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# of a config, in words; vocab_size is left to the tokenizer, and embeddings are often padded
SHAPES = {
    "model_type": "type",
    "num_hidden_layers": "layers",
    "hidden_size": "hidden size",
    "intermediate_size": "intermediate size",
    "num_attention_heads": "attention heads",
    "num_key_value_heads": "key-value heads",
    "head_dim": "head size",
    "num_experts": "experts",
}
PROBE = "The 3 brown foxes can't jump over 12,345 dogs:\n\tdef f(x): return x ** 2  # é ü 中文 \U0001f98a"
NAMED = 3  # tokens that a message names


def check(spec: ModelSpec, dense: ModelSpec) -> None:
    """Raises KickError for a checkpoint with another tokenizer or vocabulary than the dense model's.

    Tokens that one of the two has added to the same vocabulary are not a reason; see `notes`.
    """
    if spec.tokenizer == dense.tokenizer:
        return
    own, other = tokenizer_of(spec), tokenizer_of(dense)
    unlike = [token for token in _unlike(own, other) if token not in _added(own) | _added(other)]
    if unlike:
        raise KickError(
            f"the tokenizer of {spec.name!r} is not that of {dense.name!r}: {len(unlike)} tokens have other "
            f"ids ({_named(unlike)}); they cannot be compared token by token: give it a matrix of its own"
        )
    if _ids(own) != _ids(other):
        raise KickError(
            f"the tokenizer of {spec.name!r} has the vocabulary of {dense.name!r} and cuts text otherwise; "
            "they cannot be compared token by token: give it a matrix of its own"
        )


def notes(spec: ModelSpec, dense: ModelSpec) -> tuple[str, ...]:
    """What a reader must know of a checkpoint beside the dense model: added tokens, other shapes."""
    found = []
    if spec.tokenizer != dense.tokenizer:
        unlike = _unlike(tokenizer_of(spec), tokenizer_of(dense))
        if unlike:
            found.append(
                f"its tokenizer differs from dense's by {len(unlike)} added tokens ({_named(unlike)})"
            )
    shapes = _shapes(spec, dense)
    if shapes:
        found.append(f"it has not the base model's shape ({shapes}): a pruned, a distilled or another model")
    return tuple(found)


def _unlike(own: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> list[str]:
    """Tokens that only one has, or that have another id."""
    pairs = set(own.get_vocab().items()) ^ set(other.get_vocab().items())
    return sorted({token for token, _ in pairs})


def _added(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    return set(tokenizer.get_added_vocab())


def _ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return list(tokenizer(PROBE, add_special_tokens=False)["input_ids"])


def _named(tokens: list[str]) -> str:
    more = f" and {len(tokens) - NAMED} more" if len(tokens) > NAMED else ""
    return ", ".join(repr(token) for token in tokens[:NAMED]) + more


def _shapes(spec: ModelSpec, dense: ModelSpec) -> str:
    own, other = (_config(locate(one.name, one.revision)) for one in (spec, dense))
    unlike = [
        f"{own[name]} for {other[name]} {word}" if name != "model_type" else f"{word} {own[name]!r}"
        for name, word in SHAPES.items()
        if name in own and name in other and own[name] != other[name]
    ]
    return ", ".join(unlike)


def _config(folder: Path) -> Mapping[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config
