"""What a run-time method decides, and how its options are checked.

The engine keeps one session per sequence. In each layer it shows the method its queries and keys (`Sight`)
and hides from the attention what the method does not read. A method keeps what it must remember of a
sequence in `Sight.memory`, never in itself.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar

from torch import Tensor

from kick import meaning
from kick.compress.method import option, options_of, shown_options
from kick.errors import KickError
from kick.records import Step
from kick.runtime.entry import RunTimeFacts, ordered, runtimes

__all__ = ["Cache", "RunTime", "Sight", "build", "canonical", "describe_all", "option"]


@dataclass(frozen=True)
class Sight:
    """What a method is shown in a layer: the last n of S tokens ask.

    query (Hq, n, D); keys (Hk, S, D), Hq a multiple of Hk, both with rotary embedding; `scale` multiplies
    their products. `prompt`: tokens of the prompt; `decoding`: whether it has been read. `memory` is the
    method's own, one for each sequence.
    """

    layer: int
    layers: int
    query: Tensor
    keys: Tensor
    scale: float
    prompt: int
    decoding: bool
    memory: dict[Any, Any] = field(default_factory=dict)

    @property
    def groups(self) -> int:
        """How many query heads share a head of keys."""
        return self.query.shape[0] // self.keys.shape[0]


@dataclass(frozen=True)
class Cache:
    """The cache of one layer and sequence: `length` tokens, `heads` of `width` numbers, `size` bytes each.

    hidden: numbers of a hidden state, if those of tokens that were left out are kept; else 0.
    """

    layer: int
    length: int
    heads: int
    width: int
    size: int
    memory: Mapping[Any, Any] = field(default_factory=dict)
    hidden: int = 0

    def bytes(self, tokens: int) -> int:
        """Bytes of keys and values of that many tokens, as they are."""
        return 2 * tokens * self.heads * self.width * self.size


class RunTime:
    """A run-time method that changes nothing: each method is a frozen dataclass that overrides some of this.

    `prompts`: whether the reading of a prompt changes too; if not, prompts are read densely and shared.
    """

    prompts: ClassVar[bool] = False

    def look(self, sight: Sight) -> Tensor | None:
        """Which keys are read: True in (Hq or 1, n or 1, S); None for all. Causality is the engine's."""
        return None

    def after(self, sight: Sight) -> None:
        """Called in each layer when the prompt has been read, with its last token's query alone (n = 1)."""

    def chooses(self) -> bool:
        """Whether generated tokens choose anew which tokens of the prompt are read, by `again`."""
        return False

    def again(self, sight: Sight) -> None:
        """Called in each layer with a generated token's query (n = 1), if the method `chooses`."""

    def kept(self, layer: int, memory: Mapping[Any, Any]) -> Tensor | None:
        """The prompt's tokens that the layer has to have computed by now, (prompt,); None for all.

        Asked for before the layer is run, and only of a method that `chooses`.
        """
        return None

    def settle(self, keys: Tensor, values: Tensor, done: tuple[int, int]) -> tuple[int, int]:
        """Round what is stored of keys and values (Hk, S, D), in place; `done` of each are rounded already.

        Returns how many are now.
        """
        return done

    def computed(self, sight: Sight) -> int:
        """How many of the prompt's tokens this layer computes."""
        return sight.prompt

    def bytes(self, cache: Cache) -> int:
        """Bytes that the method has to keep of a layer's cache."""
        return cache.bytes(cache.length)

    def check(self) -> None:
        """Raises KickError for options that do not fit each other."""


def canonical(name: str, options: Mapping[str, Any]) -> Step:
    """The run-time method with every option written out, as a step of its own.

    Raises UnknownName, WrongOption or ValueError as `kick.compress.method.canonical` does.
    """
    cls = runtimes[name]
    written = options_of(name, cls, options)
    try:
        cls(**written).check()
    except KickError as error:
        raise ValueError(f"{name}: {error}") from None
    return Step(name, written, runtimes.facts()[name].version, digest(name))


@cache
def digest(name: str) -> str:
    """16 hex digits of what the method's code means; part of every key."""
    return meaning.digest(runtimes[name])


def build(step: Step) -> RunTime:
    """The run-time method of a canonical step."""
    method: RunTime = runtimes[step.method](**step.options)
    return method


def describe_all() -> list[dict[str, Any]]:
    """The rows of all run-time methods as JSON values, in the order of tables: facts, doc, options."""
    return [_describe(facts) for facts in ordered()]


def _describe(facts: RunTimeFacts) -> dict[str, Any]:
    cls = runtimes[facts.name]
    head = {one.name: getattr(facts, one.name) for one in dataclasses.fields(facts)}
    doc = (inspect.getdoc(cls) or "").partition("\n")[0]
    options = shown_options(cls, typing.get_type_hints(cls))
    return head | {"kind": "runtime", "affects": list(facts.affects), "doc": doc, "options": options}
