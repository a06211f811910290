"""One answer while it is being generated: which token it takes next, and when it is at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kick.engine.thinking import Thinking
from kick.errors import CellFailed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from kick.engine.guide import Guide


@dataclass(frozen=True)
class Stops:
    """When to stop: end-of-text ids, and strings looked for in the decoded tail as lm-eval does.

    lm-eval decodes, for each string, as many of the last tokens as the string has, and two more.
    """

    ends: frozenset[int]
    strings: tuple[str, ...]
    looks: tuple[int, ...]
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, until: Sequence[str], ends: frozenset[int]) -> Stops:
        """The stops of a request; the tokenizer's end-of-text string is always one of them."""
        strings = list(until)
        if tokenizer.eos_token_id is not None:
            end = tokenizer.decode([tokenizer.eos_token_id], skip_special_tokens=False)
            strings += [end] if end not in strings else []
        looks = [len(tokenizer.encode(text, add_special_tokens=False)) + 2 for text in strings]
        return cls(ends, tuple(strings), tuple(looks), tokenizer)

    def reached(self, tokens: Sequence[int]) -> bool:
        """Whether the last token ends the answer."""
        if tokens[-1] in self.ends:
            return True
        tail = self.tokenizer.decode(tokens[-max(self.looks, default=1) :])
        return any(
            text in tail and text in self.tokenizer.decode(tokens[-look:])
            for text, look in zip(self.strings, self.looks, strict=True)
        )

    def told(self, tokens: Sequence[int]) -> tuple[str, bool]:
        """The answer so far, and whether the last token ends it."""
        return self.text(tokens), self.reached(tokens)

    def text(self, tokens: Sequence[int]) -> str:
        """The answer: decoded without special tokens, cut before the first stop string."""
        return self.cut(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def cut(self, text: str) -> str:
        """The text before its first stop string."""
        for stop in self.strings:
            if stop:
                text = text.split(stop)[0]
        return text


@dataclass(eq=False)
class Decoding:
    """An answer in progress: its prompt's token ids, its tokens so far, and how it is sampled and stopped.

    configured: under the model's generation configuration, which only its own `generate` obeys. thinking: for
    models that think first. guide: chooses the tokens of a guided answer.
    """

    prompt: tuple[int, ...]
    limit: int
    stops: Stops
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    configured: bool = False
    thinking: Thinking | None = None
    guide: Guide | None = None
    tokens: list[int] = field(default_factory=list)
    done: bool = False
    random: torch.Generator | None = None

    def __post_init__(self) -> None:
        self.done = self.limit <= 0

    def restart(self) -> None:
        """Forget all tokens."""
        self.tokens, self.done, self.random = [], self.limit <= 0, None
        if self.thinking is not None:
            self.thinking.reset()
        if self.guide is not None:
            self.guide.reset()

    def accept(self, token: int) -> None:
        """Append a token; the answer is done at a stop or at its limit."""
        self.tokens.append(token)
        self.done = len(self.tokens) >= self.limit or self._stopped()

    def _stopped(self) -> bool:
        if self.thinking is None:
            return self.stops.reached(self.tokens)
        self.thinking.saw(self.tokens)
        if self.tokens[-1] in self.stops.ends or self.thinking.begun is False:
            return self.stops.reached(self.tokens)
        if self.thinking.open:
            return False
        answer, _ = self.thinking.split(self.tokens)
        return self.stops.cut(answer) != answer

    def text(self) -> tuple[str, str | None]:
        """The answer, cut before the first stop string, and the thinking before it, None without any."""
        if self.thinking is None:
            return self.stops.text(self.tokens), None
        answer, thought = self.thinking.split(self.tokens)
        return self.stops.cut(answer), thought


def check_numbers(best: Tensor) -> None:
    """Raises CellFailed if a largest logit is not finite: no token can be chosen then."""
    if not best.isfinite().all():
        raise CellFailed("the model's logits are NaN or infinite: it generates no text")


def pick(logits: Tensor, row: Decoding) -> int:
    """The row's next token from its logits (V,): the largest, its guide's choice, or a sample from its own
    generator.

    The draw depends on the item's seed and position alone, never on the batch it is computed in.
    """
    if row.guide is not None:
        return row.guide.choose(row.tokens, logits)
    if row.temperature == 0.0:
        return int(logits.argmax())
    if row.random is None:
        row.random = torch.Generator().manual_seed(row.seed)
    chances = torch.softmax(logits.float().cpu() / row.temperature, dim=-1)
    ordered, order = chances.sort(descending=True)
    kept = ordered * (ordered.cumsum(0) - ordered < row.top_p)
    return int(order[torch.multinomial(kept, 1, generator=row.random)])
