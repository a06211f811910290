"""Guided decoding: of the likeliest tokens the first after which an answer can still become a program.

Repilot (Wei, Xia, Zhang, ESEC/FSE 2023, arXiv 2309.00608) asks a completion engine for Java whether a token
can be completed; here a parser of prefixes is asked (`kick.tasks.prefix`), with the prompt before the answer.
A token that ends the answer is taken only if what was written makes a program, and the first line that is
written is in the block in which the prompt ends: a stub is not left as it is. If none of the likeliest will
do, guiding ends and the rest of the answer is decoded plainly.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from torch import Tensor

from kick.tasks.prefix import Program

MOST = 20  # tokens that are tried
_LEFT = re.compile(r"\s*\n\S")  # a first line without indentation
Told = Callable[[Sequence[int]], tuple[str, bool]]  # of tokens: the answer so far, and whether it has ended


class Guide:
    """Guides one answer.

    Args:
        prompt: the text before the answer.
        told: what the answer's tokens say.

    Raises KickError if the parser's package is not installed.
    """

    def __init__(self, prompt: str, told: Told):
        self.prompt, self.told = prompt, told
        self.end = len(prompt.rstrip())
        self.inside = prompt.rstrip().rpartition("\n")[2][:1].isspace()
        self.reset()

    def reset(self) -> None:
        """As before the first token."""
        self.program = Program()
        self.replaced = 0
        self.over = not self.program.can_continue(self.prompt)

    @property
    def values(self) -> dict[str, float]:
        """replaced: tokens that were not the likeliest; strayed: 1 if guiding has ended early."""
        return {"replaced": float(self.replaced), "strayed": float(self.over)}

    def choose(self, tokens: Sequence[int], logits: Tensor) -> int:
        """The token that follows the answer's tokens, from its logits (V,)."""
        likeliest = int(logits.argmax())
        if self.over or self._takes([*tokens, likeliest]):
            return likeliest
        for token in logits.topk(min(MOST, len(logits))).indices.tolist():
            if token != likeliest and self._takes([*tokens, token]):
                self.replaced += 1
                return int(token)
        self.over = True
        return likeliest

    def _takes(self, tokens: Sequence[int]) -> bool:
        answer, ended = self.told(tokens)
        text = self.prompt + answer
        if self.inside and _LEFT.match(text, self.end):
            return False
        if ended:
            return bool(answer.strip()) and self.program.is_whole(text)
        return self.program.can_continue(text)
