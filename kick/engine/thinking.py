"""The part of an answer that a model thinks before it answers: up to a mark such as `</think>`.

It is kept apart and not scored, and stop strings are not looked for in it; nor in the blanks after the mark.
A prompt may open the thinking itself, or open and close it (a template without thinking).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Thinking:
    """Where one answer is with its thinking.

    mark: what ends it. begun: whether the answer thinks, None while it has not shown it. after: how many
    tokens there are up to the mark and with it, None before.
    """

    begun: bool | None
    after: int | None
    rest: str

    def __init__(self, tokenizer: PreTrainedTokenizerBase, mark: str, prompt: str):
        self.tokenizer = tokenizer
        self.mark = mark
        self.opens = mark.replace("/", "", 1)
        self.look = len(tokenizer.encode(mark, add_special_tokens=False)) + 2
        self.first = self._at_start(prompt.rstrip())
        self.reset()

    def _at_start(self, prompt: str) -> bool | None:
        if self.opens == self.mark or prompt.endswith(self.opens):
            return True
        return False if prompt.endswith(self.mark) else None

    def reset(self) -> None:
        """As before the first token."""
        self.begun, self.after, self.rest = self.first, None, ""

    @property
    def open(self) -> bool:
        """Whether what comes now is, or may be, thinking."""
        return self.begun is not False and self.after is None

    def saw(self, tokens: Sequence[int]) -> None:
        """Take notice of the last of the answer's tokens."""
        if not self.open:
            return
        if self.begun is None:
            text = self.tokenizer.decode(tokens).lstrip()
            if not text.startswith(self.opens):
                self.begun = None if self.opens.startswith(text) else False
                return
            self.begun = True
        tail = self.tokenizer.decode(tokens[-self.look :])
        if self.mark in tail:
            self.after, self.rest = len(tokens), tail.split(self.mark, 1)[1]

    def split(self, tokens: Sequence[int]) -> tuple[str, str | None]:
        """The answer, without blanks before it, and the thinking before it; None for an answer without."""
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        if not self.begun:
            return text, None
        if self.after is None:  # it never came to an answer
            return "", text
        answer = self.rest + self.tokenizer.decode(tokens[self.after :], skip_special_tokens=True)
        before = self.tokenizer.decode(tokens[: self.after], skip_special_tokens=False)
        return answer.lstrip(), before.rsplit(self.mark, 1)[0]
