"""The engine as a model of lm-eval, under the name `kick`, and lm-eval's own command line with it.

    python -m kick.engine.lm_eval_model run --model kick --model_args pretrained=smollm2-135m --tasks ...

`pretrained` is what a matrix takes as `model`: an alias, a hub id, a folder, a .gguf file. lm-eval has no
plugin hook for models, so its command line has to be started from here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lm_eval.models.huggingface  # noqa: F401  (before the registry is asked: it registers its own names)
import torch
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from kick.engine.engine import Engine
from kick.errors import KickError
from kick.model import load, resolve
from kick.model.decoding import RULES
from kick.records import Request, Response
from kick.tasks.data import tasks_folder
from kick.tasks.generation import chat_renderer, generate_request

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@register_model("kick")
class KickLM(LM):
    """lm-eval's model contract, answered by an `Engine`.

    Args:
        pretrained: a model as in a matrix, or a model of transformers (then `tokenizer` must be given).
        tokenizer: the tokenizer of a model that was given as an object.
        revision, dtype, device: as in a matrix.
        batch_size: taken and left unused: batches are made by tokens.
        batch_tokens: tokens computed at once.
        max_length: the window in tokens, where it is not the model's own.
        seed: of the first sampled answer of a call; the next has seed + 1.
        generation_config: greedy (the default), or model: obey what the model's own says of logits.
    """

    def __init__(
        self,
        pretrained: str | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        revision: str | None = None,
        dtype: str = "float32",
        device: str | None = None,
        batch_size: int | str | None = None,
        **options: Any,
    ):
        super().__init__()
        known = {"batch_tokens", "max_length", "seed", "max_batch_size", "generation_config"}
        unknown = set(options) - known
        if unknown:
            raise KickError(
                f"unknown model_args {sorted(unknown)}; available: pretrained, revision, dtype, device, "
                "batch_tokens, max_length, seed, generation_config"
            )
        rule = options.get("generation_config", "greedy")
        if rule not in RULES:
            raise KickError(f"generation_config: got {rule!r}; expected: {' or '.join(RULES)}")
        if isinstance(pretrained, str):
            spec = resolve(pretrained, None if revision in (None, "main") else str(revision), dtype)
            if device is None or (device.startswith("cuda") and not torch.cuda.is_available()):
                device = "cpu"  # lm-eval's command line says cuda where nothing was asked for
            pretrained, tokenizer = load(spec, device)
        if tokenizer is None:
            raise KickError("a model was given without its tokenizer; expected: both, or the model's name")
        self.model, self.tokenizer = pretrained, tokenizer
        self._device = pretrained.device
        self.seed = int(options.get("seed") or 0)
        self.configured = rule == "model"
        self.engine = Engine(
            pretrained, tokenizer, batch_tokens=options.get("batch_tokens"), window=options.get("max_length")
        )

    # ------------------------------------------------------------------------------------ the contract

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-probability, greedy) of each (context, continuation).

        Raises KickError for a continuation that has no token of its own: lm-eval cannot count it as missing.
        """
        asked = [Request("loglikelihood", context=c, continuation=t) for c, t in (r.args for r in requests)]
        return self._answer("loglikelihood", requests, asked, _pair)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of each whole text."""
        asked = [Request("rolling", context=request.args[0]) for request in requests]
        return self._answer("loglikelihood_rolling", requests, asked, lambda r: r.logprob)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The text generated after each context, cut before its stop string."""
        asked = [
            replace(generate_request(context, options, self.seed + i), configured=self.configured)
            for i, (context, options) in enumerate(r.args for r in requests)
        ]
        return self._answer("generate_until", requests, asked, lambda r: r.text)

    def _answer(
        self, name: str, instances: Sequence[Instance], asked: list[Request], take: Callable[[Response], Any]
    ) -> list[Any]:
        def keep(index: int, response: Response) -> None:
            self.cache_hook.add_partial(name, instances[index].args, take(response))

        return [take(response) for response in self.engine.answer(asked, keep)]

    # ------------------------------------------------------------------------------------ chat templates

    @property
    def tokenizer_name(self) -> str:
        """Where the tokenizer came from: part of the name of lm-eval's request cache."""
        return self.tokenizer.name_or_path.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The tokenizer's template, or the one of that name; None if no template is to be applied."""
        if chat_template is False or chat_template is None:
            return None
        name = chat_template if isinstance(chat_template, str) else None
        known = self.tokenizer.chat_template
        if isinstance(known, dict):
            name = name or "default"
            if name not in known:
                raise KickError(f"unknown chat template {name!r}; available: {', '.join(sorted(known))}")
            return known[name]
        return known

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The history as the model wants it; without a generation prompt its last message stays open."""
        return chat_renderer(self.tokenizer)(chat_history, add_generation_prompt)


def _pair(response: Response) -> tuple[float, bool]:
    if not response.count or response.logprob is None or response.greedy is None:
        raise KickError("a continuation has no token of its own to score; expected: text after the context")
    return response.logprob, response.greedy


def main(arguments: Sequence[str] | None = None) -> None:
    """lm-eval's command line (`kick lm-eval ...`); `arguments` default to those of the process.

    It finds kick's own tasks beside its own, and beside those of `--include_path`.
    """
    from lm_eval import tasks
    from lm_eval.__main__ import cli_evaluate

    if arguments is not None:
        sys.argv = ["kick lm-eval", *arguments]
    theirs = tasks.TaskManager

    def with_ours(*args: Any, include_path: str | Path | list[str | Path] | None = None, **rest: Any) -> Any:
        more = [include_path] if isinstance(include_path, str | Path) else list(include_path or ())
        return theirs(*args, include_path=[tasks_folder(), *more], **rest)

    tasks.TaskManager = with_ours  # their command line takes one folder, and has no hook
    try:
        cli_evaluate()
    finally:
        tasks.TaskManager = theirs


if __name__ == "__main__":
    main()
