"""What lm-eval asks of a model that writes: its generation options as a Request, a conversation as a prompt.

Both sides read them here: the tasks, which ask, and the engine where lm-eval itself asks it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kick.errors import KickError
from kick.records import Request

DEFAULT_MAX_TOKENS = 256  # lm-eval's
_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first given counts
_KNOWN = {"until", *_LIMITS, "do_sample", "temperature", "top_p", "seed"}
# What shapes a sample only: without sampling the likeliest token is taken whatever these say.
_OF_SAMPLING = {"top_k", "min_p", "typical_p"}


def generate_request(context: str, options: Mapping[str, Any], seed: int = 0) -> Request:
    """lm-eval's generation options as a Request; `seed` is that of a sampled answer, unless one is named.

    Raises:
        KickError: an option that the engine does not have and that would change the answer.
    """
    temperature = options.get("temperature")
    sample = options.get("do_sample", bool(temperature)) and temperature != 0
    unknown = set(options) - _KNOWN - (set() if sample else _OF_SAMPLING)
    if options.get("num_beams") == 1:
        unknown.discard("num_beams")
    if unknown:
        raise KickError(
            f"generation options {', '.join(sorted(unknown))}: the engine does not have them; "
            f"there is {', '.join(sorted(_KNOWN))}"
        )
    until = options.get("until") or ()
    limits = (options[name] for name in _LIMITS if options.get(name) is not None)
    return Request(
        "generate",
        context,
        until=(until,) if isinstance(until, str) else tuple(until),
        max_tokens=int(next(limits, DEFAULT_MAX_TOKENS)),
        temperature=float(1.0 if temperature is None else temperature) if sample else 0.0,
        top_p=float(options.get("top_p", 1.0)) if sample else 1.0,
        seed=int(options.get("seed", seed)) if sample else 0,
    )


def chat_renderer(tokenizer: Any, asked_by: str = "") -> Callable[..., str]:
    """What turns a conversation into the prompt that the tokenizer's chat template makes of it.

    Without a generation prompt the last message stays open, for the model to go on with.

    Raises:
        KickError: the tokenizer has no chat template; `asked_by` says in the message who wanted one.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise KickError(f"{asked_by}a chat template was asked for, but the model's tokenizer has none")

    def render(history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return tokenizer.apply_chat_template(
            history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    return render
