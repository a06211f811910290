"""What lm-eval asks of a model that writes: its generation options as a Request, a conversation as a prompt.

Both sides read them here: the tasks, which ask, and the engine where lm-eval itself asks it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from kick.errors import KickError
from kick.records import Request

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

DEFAULT_MAX_TOKENS = 256  # lm-eval's
_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first given counts
_KNOWN = {"until", *_LIMITS, "do_sample", "temperature", "top_p", "seed", "guide"}
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
            f"unsupported generation options: {', '.join(sorted(unknown))}; "
            f"supported: {', '.join(sorted(_KNOWN))}"
        )
    guide = options.get("guide") or ""
    if guide and (guide != "python" or sample):
        raise KickError(
            f"guide: got {guide!r}{' with sampling' * sample}; expected: python, without sampling"
        )
    until = options.get("until") or ()
    return Request(
        "generate",
        context,
        until=(until,) if isinstance(until, str) else tuple(until),
        max_tokens=longest(options),
        temperature=float(1.0 if temperature is None else temperature) if sample else 0.0,
        top_p=float(options.get("top_p", 1.0)) if sample else 1.0,
        seed=int(options.get("seed", seed)) if sample else 0,
        guide=guide,
    )


def longest(options: Mapping[str, Any]) -> int:
    """Tokens that an answer has at most, by lm-eval's generation options."""
    limits = (options[name] for name in _LIMITS if options.get(name) is not None)
    return int(next(limits, DEFAULT_MAX_TOKENS))


def chat_renderer(
    tokenizer: PreTrainedTokenizerBase, asked_by: str = "", arguments: Mapping[str, Any] | None = None
) -> Callable[..., str]:
    """What turns a conversation into the prompt that the tokenizer's chat template makes of it.

    Without a generation prompt the last message stays open, for the model to go on with. Where the template
    has no place for a system message, its text goes into the first user turn, before what is there.

    Args:
        tokenizer: with a chat template.
        asked_by: says in an error's message who wanted one.
        arguments: the template's own, such as enable_thinking.

    Raises:
        KickError: the tokenizer has no chat template, or it refuses a plain question.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise KickError(f"{asked_by}a chat template was asked for, but the model's tokenizer has none")
    arguments = dict(arguments or {})
    merge = not takes_system(tokenizer, arguments)

    def render(history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return tokenizer.apply_chat_template(
            without_system(history) if merge else history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
            **arguments,
        )

    try:
        render([{"role": "user", "content": "a"}])
    except (TemplateError, ValueError, TypeError) as error:
        raise KickError(f"{asked_by}the model's chat template refuses a plain question: {error}") from error
    return render


_PROBE = "\u2042 system"


def takes_system(tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any] | None = None) -> bool:
    """Whether the chat template writes a system message: some raise at one, some leave it out silently."""
    history = [{"role": "system", "content": _PROBE}, {"role": "user", "content": "a"}]
    try:
        text = tokenizer.apply_chat_template(
            history, tokenize=False, add_generation_prompt=True, **(arguments or {})
        )
    except (TemplateError, ValueError, TypeError) as error:
        log.debug("the chat template takes no system message: %s", error)
        return False
    return _PROBE in text


def without_system(history: list[dict[str, str]]) -> list[dict[str, str]]:
    """The conversation with its system messages in front of the first user turn."""
    system = [m["content"].strip() for m in history if m["role"] == "system" and m["content"].strip()]
    turns = [dict(m) for m in history if m["role"] != "system"]
    if not system:
        return turns
    first = next((m for m in turns if m["role"] == "user"), None)
    if first is None:
        return [{"role": "user", "content": "\n\n".join(system)}, *turns]
    first["content"] = "\n\n".join([*system, first["content"]])
    return turns
