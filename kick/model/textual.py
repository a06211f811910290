"""Which text model a checkpoint holds: itself, or the decoder inside a model of text and images.

transformers loads some models of text and images (Gemma 3) as causal language models, with towers that no
text goes through and whose blocks could be taken for the decoder's. Their text model is loaded alone: its
logits are the wrapper's, and what is compressed, counted and saved is what is measured.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from kick.errors import KickError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger("kick.model")

# how a wrapper's file calls its decoder, in older and newer layouts -> how the decoder's own file does
_LAYOUTS = {
    r"^(model\.)?language_model\.lm_head": "lm_head",
    r"^(model\.)?language_model\.(model\.)?": "model.",
}


def text_config(config: PretrainedConfig) -> PretrainedConfig:
    """The configuration of the causal language model in a checkpoint of that configuration.

    Raises KickError if transformers knows none.
    """
    text = config.get_text_config(decoder=True)
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if getattr(config, "is_encoder_decoder", False) or text.model_type not in known:
        raise KickError(
            f"transformers has no causal language model of type {config.model_type!r}; "
            "expected: a decoder-only model of text, or a wrapper of one"
        )
    if text is not config and getattr(text, "quantization_config", None) is None:
        quantization = getattr(config, "quantization_config", None)
        if quantization is not None:
            text.quantization_config = quantization
    return text


def load_options(config: PretrainedConfig) -> dict[str, Any]:
    """What `from_pretrained` must be told so that the text model is loaded; nothing where it is the whole."""
    text = text_config(config)
    return {} if text is config else {"config": text, "key_mapping": _LAYOUTS}


def settled(model: nn.Module, options: dict[str, Any], unexpected: Iterable[str]) -> None:
    """Have the model saved under its own names, in place; say which tensors of the file it does not use."""
    if "key_mapping" in options:
        vars(model)["_weight_conversions"] = None
    if left := sorted(unexpected):
        towers = ", ".join(sorted({name.removeprefix("model.").split(".")[0] for name in left})[:5])
        log.warning("%d tensors of the checkpoint are not part of the text model: %s", len(left), towers)


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Raises KickError if the tokenizer has ids that an embedding of so many rows has not.

    A token of padding may lie beyond: nothing is ever padded with it.
    """
    beyond = {token: place for token, place in tokenizer.get_vocab().items() if place >= rows}
    beyond.pop(tokenizer.pad_token, None)
    if beyond:
        last = max(beyond, key=beyond.__getitem__)
        raise KickError(
            f"the tokenizer has ids up to {beyond[last]} ({last!r}), the model has {rows} rows of embedding: "
            f"{len(beyond)} tokens have none; expected: the tokenizer that the model was trained with, or a "
            "model whose embedding was resized and saved"
        )
