"""What of a model's generation configuration changes a greedy answer, and what is obeyed of it.

By default nothing is, in any backend: the field's harnesses ask greedy, and an answer under a penalty is not
the model's likeliest one, so that a teacher-forced pass over it compares two different things. End tokens are
always obeyed. `generation_config: model` in a matrix obeys what changes logits; what makes another search of
decoding, such as beams, is obeyed by no backend.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kick.errors import KickError

if TYPE_CHECKING:
    from transformers import GenerationConfig

RULES = ("greedy", "model")

# Settings that change logits, each with the value at which it changes nothing (None never does).
PROCESSORS: Mapping[str, Any] = {
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "guidance_scale": 1.0,
    "bad_words_ids": [],
    "suppress_tokens": [],
    "begin_suppress_tokens": [],
    "sequence_bias": {},
    "forced_bos_token_id": None,  # 0 and 1 are tokens
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
}
# Settings that make decoding something else than greedy, likewise; no backend obeys them.
SEARCHES: Mapping[str, Any] = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "penalty_alpha": 0.0,
    "dola_layers": None,
    "constraints": None,
    "force_words_ids": None,
    "watermarking_config": None,
    "token_healing": False,
    "stop_strings": [],
    "max_time": None,
    "cache_implementation": None,
    "prompt_lookup_num_tokens": None,
    "assistant_early_exit": None,
    "use_mtp": False,
    "speculation_type": None,
}
# Caches that hold the same numbers as the usual one.
_EXACT_CACHES = ("dynamic", "hybrid", "static", "sliding_window", "offloaded", "offloaded_static")


def changes(config: GenerationConfig) -> dict[str, Any]:
    """The settings of a GenerationConfig that change logits, as JSON values."""
    return _set(config, PROCESSORS)


def searches(config: GenerationConfig) -> dict[str, Any]:
    """The settings that would make decoding something else than greedy, which no backend obeys."""
    found = _set(config, SEARCHES)
    if found.get("cache_implementation") in _EXACT_CACHES:
        del found["cache_implementation"]
    return found


def _set(config: GenerationConfig, neutral: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: getattr(config, name, None) for name in neutral}
    return {
        name: _plain(value) for name, value in found.items() if value is not None and value != neutral[name]
    }


def _plain(value: Any) -> Any:
    """As JSON values; a bias by token sequences becomes the list form that transformers takes too."""
    if isinstance(value, dict):
        return [[list(ids) if isinstance(ids, tuple) else ids, bias] for ids, bias in value.items()]
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str) else str(value)


def obeyed(config: GenerationConfig) -> dict[str, Any]:
    """What `generation_config: model` obeys of a GenerationConfig.

    Raises KickError for settings that no backend obeys.
    """
    if other := searches(config):
        raise KickError(
            f"generation_config: model: the model's own sets {', '.join(sorted(other))}, which no backend "
            "obeys; expected: settings that change logits only, or generation_config: greedy"
        )
    return changes(config)


def of_folder(folder: Path) -> Any:
    """The GenerationConfig that a model of that folder is loaded with."""
    from transformers import AutoConfig, GenerationConfig

    if (folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(folder)
    return GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder, trust_remote_code=False))
