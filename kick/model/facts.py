"""What a plan has to know of a model beyond its digest, without its weights.

Whether transformers makes a causal language model of it, whether its tokenizer's ids fit its embedding, what
its chat template says and what its generation configuration changes. Reading that imports transformers, which
takes seconds, so what was found is remembered by the bytes of the files that it was read from.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from kick import __version__
from kick.errors import KickError
from kick.paths import cache_root
from kick.records import ModelFacts, ModelSpec, key

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


def facts(spec: ModelSpec, folder: Path) -> ModelFacts:
    """The facts of a model in a folder. Raises KickError if it is not a causal language model that fits."""
    own = folder / "generation_config.json"
    ends = hashlib.sha256(own.read_bytes() if own.is_file() else b"").hexdigest()
    memory = cache_root() / "facts" / key([spec.digest, spec.tokenizer, ends, __version__])
    if memory.is_file():
        return ModelFacts(**json.loads(memory.read_text()))
    found = _read(folder, spec)
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        beside = memory.with_name(f"{memory.name}.{os.getpid()}")
        beside.write_text(json.dumps(asdict(found)))
        os.replace(beside, memory)
    except OSError as error:
        log.info("%s cannot be written (%s): the next plan reads the model's files again", memory, error)
    return found


def _read(folder: Path, spec: ModelSpec) -> ModelFacts:
    from transformers import AutoConfig

    from kick.model import decoding, source, textual

    try:
        config = textual.text_config(AutoConfig.from_pretrained(folder, trust_remote_code=False))
        tokenizer = source.tokenizer_of(spec)
        generation = decoding.of_folder(folder)
    except (ValueError, OSError, ImportError, LookupError, AttributeError, TypeError) as error:
        raise KickError(f"transformers cannot read {spec.name!r}: {type(error).__name__}: {error}") from error
    textual.check_vocabulary(tokenizer, config.vocab_size)
    template, refused = tokenizer.chat_template or "", ""
    if template:
        template = template if isinstance(template, str) else json.dumps(template)
        refused = _refusal(tokenizer)
    return ModelFacts(template, refused, decoding.changes(generation), decoding.searches(generation))


def _refusal(tokenizer: PreTrainedTokenizerBase) -> str:
    from jinja2 import TemplateError

    try:
        tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)
    except (TemplateError, ValueError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""
