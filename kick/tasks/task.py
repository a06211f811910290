"""The contract of a task: items with requests in, scores out. No model is seen here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from kick.records import Request, Response, Sample, TaskSpec, canonical

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# of metadata.kick: what results keep of a task for readers; `unshown`: why no page shows its answers
ABOUT = ("title", "family", "primary", "pair", "unshown")
PREVIEW = 400  # characters of the prompt's end that are kept with a sample, for people to read


@dataclass(frozen=True)
class Item:
    """One document with the requests it makes. `id` hashes the document: it pairs items between variants."""

    id: str
    requests: tuple[Request, ...]
    target: str = ""
    group: str = ""
    doc: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def prompt(self) -> str:
        """The hash of all that is asked."""
        parts = [
            [r.kind, r.context, r.continuation, list(r.tokens), list(r.until), *_compared(r)]
            for r in self.requests
        ]
        return digest(parts)

    @property
    def preview(self) -> str:
        """The end of the prompt, as text."""
        return self.requests[0].context[-PREVIEW:] if self.requests else ""

    def sample(self, responses: Sequence[Response], scores: Mapping[str, float]) -> Sample:
        """The Sample of this item's answers and scores."""
        return Sample(
            self.id, self.prompt, self.preview, self.target, tuple(responses), dict(scores), self.group
        )


def _compared(request: Request) -> list[list[Any]]:
    """What a request of similarity has beside the others; a ranked corpus, which many share, by its hash."""
    if request.kind != "similarity":
        return []
    others = [_whole(request.others), request.top] if request.top else list(request.others)
    return [others, list(request.pooled)]


@lru_cache(maxsize=1)
def _whole(texts: tuple[str, ...]) -> str:
    return digest(list(texts))


class FunctionName(str):
    """The text of a `!function` in a task file. Keys hold what the function means, not where it is."""


Aggregate = Callable[[Sequence[float]], float]


class AlsoRead(NamedTuple):
    """What a task reads beside its items' own tokens: how many items' worth of them, and how many texts whose
    vectors are held together."""

    items: int = 0
    texts: int = 0


class Task(Protocol):
    """A task of a matrix. `digest` covers what is asked, `scoring` how it is scored."""

    name: str
    digest: str
    scoring: str
    needs_reference: bool  # its requests are made of the dense model's answers
    generates: bool  # its answers are generated text
    longest: int  # tokens that a generated answer has at most, 0 if none is generated
    reads_text: bool  # its score is the likelihood of running text: perplexity
    reads_states: bool  # its requests are of hidden states inside the model
    guided: bool  # its answers are decoded under a guide
    at_once: bool  # all its items are asked and scored together, whatever rule there is to end early
    kind: str  # whose estimate of tokens its items have, if no task file says it; "" if one does
    note: str  # what a plan says of it, "" for nothing
    default_shots: int
    about: Mapping[str, str]  # ABOUT, as far as its file says it
    size: int | None  # items without a limit; None where only the tokenizer tells

    def beside(self, limit: int | None) -> AlsoRead:
        """What it reads beside its first `limit` items."""

    def check(self, spec: TaskSpec) -> None:
        """Raises KickError for a spec that this task cannot be asked by, such as too many shots."""

    def items(
        self,
        spec: TaskSpec,
        tokenizer: PreTrainedTokenizerBase,
        reference: Mapping[str, Sample] | None = None,
    ) -> list[Item]:
        """The items to ask, the first `spec.limit` of them.

        `reference`: the dense model's samples by item id, for tasks that need them; None when the dense
        model itself is asked.
        """

    def follow_up(self, items: Sequence[Item], responses: Sequence[Sequence[Response]]) -> list[Item] | None:
        """Items whose requests are made of the first answers; None if the first answers are all.

        Their responses are appended to the first ones' before scoring.
        """

    def texts(self) -> list[str]:
        """All text of each of its documents, whatever the limit: for what is trained on the same text."""

    def answered(self, spec: TaskSpec, samples: Sequence[Sample]) -> list[Item]:
        """The items as far as scoring needs them, made without a tokenizer."""

    def score(self, items: Sequence[Item], responses: Sequence[Sequence[Response]]) -> list[dict[str, float]]:
        """One dict of scores an item; NaN where a score could not be computed."""

    def unparsed(self, items: Sequence[Item]) -> list[str]:
        """The filters that found nothing in any answer of the last scoring, if there are filters."""

    def aggregates(self) -> dict[str, Aggregate]:
        """For metrics that are not a plain mean of one column: how lm-eval aggregates them."""

    def higher_is_better(self) -> dict[str, bool]:
        """Which direction is better, for the metrics whose direction the task knows."""


def digest(value: Any) -> str:
    """16 hex digits of the sha256 of a JSON value."""
    return hashlib.sha256(canonical(value).encode("utf-8", "surrogatepass")).hexdigest()[:16]
