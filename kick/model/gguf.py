"""A GGUF file -> a folder of safetensors with its tokenizer.

transformers reads the file; what it leaves wrong is mended here: the quantizer that keeps the dequantized
model from being saved, and a tokenizer whose end-of-text token is not the one that the model ends with.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from kick.errors import KickError


def convert(file: Path, folder: Path) -> None:
    """Write `folder` with config, float32 safetensors and tokenizer. Says on stderr what it does.

    Raises:
        KickError: the `gguf` package is missing, or transformers cannot read the file.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    sys.stderr.write(f"kick: converting {file.name} to safetensors, once (about half a minute) ...\n")
    start = time.monotonic()
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype="float32")
    except ImportError as error:
        raise KickError(
            f"reading {file.name} needs the package gguf ({error}); run: pip install gguf"
        ) from error
    except (ValueError, OSError) as error:
        raise KickError(f"transformers cannot read {file}: {error}") from error
    _mend_model(model)
    _mend_tokenizer(tokenizer, model.config.eos_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    sys.stderr.write(f"kick: converted in {time.monotonic() - start:.0f} s\n")


def _mend_model(model) -> None:
    """Let the dequantized model be saved as what it is, with the stop token of its config."""
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.generation_config.eos_token_id = model.config.eos_token_id
    model.generation_config.pad_token_id = model.config.pad_token_id


def _mend_tokenizer(tokenizer, eos: int) -> None:
    """End and padding token as the model's config has them; decoding must not join blanks."""
    token = tokenizer.convert_ids_to_tokens(eos)
    tokenizer.eos_token = token
    tokenizer.pad_token = token
    tokenizer.clean_up_tokenization_spaces = False
