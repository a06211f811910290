"""Programs whose decoding was guided: of the likeliest tokens the first after which one can still parse.

A task file asks for it by `generation_kwargs: {guide: python}`. Its answers continue the prompt, which is
Python too: of chat models, whose answers are prose around a program, it is not asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kick.errors import KickError
from kick.records import Response, TaskSpec
from kick.tasks import prefix
from kick.tasks.code import Code
from kick.tasks.protocol import protocol
from kick.tasks.task import Item

VERSION = 1


@protocol("guided_code", title="programs, decoded under a parser and judged by their tests", tokens=1000)
class GuidedCode(Code):
    """A task of code whose answers the engine guides."""

    def check(self, spec: TaskSpec) -> None:
        """Raises KickError with a chat template, without the parser's package, and as `Code` does."""
        if spec.chat_template:
            raise KickError(
                f"task {self.name} continues a program, which an answer by chat template does not; "
                f"expected: chat_template: {{{self.name}: false}}"
            )
        try:
            prefix.available()
        except KickError as error:
            raise KickError(f"task {self.name}: {error}") from error
        super().check(spec)

    def _asked(self) -> dict[str, Any]:
        """As every task's, and the parser: another grammar may refuse other tokens."""
        return {**super()._asked(), prefix.PACKAGE: prefix.available()}

    def score(self, items: Sequence[Item], responses: Sequence[Sequence[Response]]) -> list[dict[str, float]]:
        """The scores of code; replaced, how many tokens were not the likeliest; strayed, whether none of the
        likeliest would do at some place, after which the answer was not guided. Both lack for answers from
        elsewhere."""
        found = super().score(items, responses)
        return [
            {**scores, **(answers[0].values or {})} for scores, answers in zip(found, responses, strict=True)
        ]
