"""Tokens of a prompt that a layer left out and a later step asks for: computed on from where they were left.

While sessions run, the input of each block is seen: of a prompt, what goes into a layer that has fewer tokens
than the one before is kept; in a later step the tokens that a layer needs and has not had go through the
block before the step's own token does, and leave their keys and values in the session's cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kick.engine.session import Session, masked
from kick.model.structure import hidden_of


class Revived:
    """The layout of a block's forward over tokens that come back, those of each session side by side."""

    def __init__(self, parts: Sequence[tuple[Session, Tensor, Tensor]]):
        self.parts = parts  # session, places (n,), the tokens that are alive (prompt,)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """(1, Hq, n, D) from queries (1, Hq, n, D), keys and values (1, Hk, n, D)."""
        found, start = [], 0
        for session, places, alive in self.parts:
            rows = slice(start, start + len(places))
            start = rows.stop
            keys, values = session.keys[layer], session.values[layer]
            keys[:, places], values[:, places] = key[0, :, rows], value[0, :, rows]
            shown = alive[None] & (torch.arange(len(alive), device=alive.device)[None] <= places[:, None])
            prompt = slice(0, len(alive))
            found.append(masked(query[0, :, rows], keys[:, prompt], values[:, prompt], scale, shown[None]))
            session.tally.computed += len(places)
        return torch.cat(found, dim=1)[None]


@contextmanager
def reviving(
    blocks: Sequence[nn.Module], sessions: Sequence[Session], counts: Sequence[int]
) -> Iterator[None]:
    """In it a forward with `counts` new tokens of each session keeps what is left out and brings it back."""
    with ExitStack() as stack:
        for layer, block in enumerate(blocks):
            see = partial(_before, layer, sessions, counts)
            stack.callback(block.register_forward_pre_hook(see, with_kwargs=True).remove)
        yield


def _before(
    layer: int,
    sessions: Sequence[Session],
    counts: Sequence[int],
    block: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    """See what goes into a block."""
    hidden = args[0] if args else kwargs["hidden_states"]
    back: list[tuple[Session, Tensor, Tensor, Tensor]] = []
    start = 0
    for session, count in zip(sessions, counts, strict=True):
        rows = slice(start, start + count)
        start = rows.stop
        kept = session.method.kept(layer, session.memory)
        if session.filled.get(layer, 0) < session.prompt:
            session.left.see(layer, kept, hidden[0, rows], _at(kwargs, hidden.shape[1], rows))
        elif kept is not None and (found := session.left.missing(layer, kept)):
            back.append((session, *found, kept))
    if not back:
        return
    given = _joined([_at(one.left.given[layer], one.prompt, places) for one, places, *_ in back])
    layout = Revived([(session, places, alive) for session, places, _, alive in back])
    states = torch.cat([state for _, _, state, _ in back])[None]
    out = hidden_of(block.forward(states, **{**given, "layout": layout}))[0]
    for (session, places, *_), part in zip(back, out.split([len(one[1]) for one in back]), strict=True):
        session.left.carry(layer + 1, places, part)


def _at(given: Mapping[str, Any], length: int, rows: slice | Tensor) -> dict[str, Any]:
    """A block's arguments for some of its `length` tokens: positions, their embeddings, (1, length, ...)."""

    def part(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(part, value))
        cut = isinstance(value, Tensor) and value.dim() > 1 and value.shape[:2] == (1, length)
        return value[:, rows] if cut else value

    return {name: part(value) for name, value in given.items() if name not in ("hidden_states", "layout")}


def _joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The arguments of several sessions' tokens side by side."""

    def join(values: Sequence[Any]) -> Any:
        if isinstance(values[0], tuple):
            return tuple(join(one) for one in zip(*values, strict=True))
        joins = isinstance(values[0], Tensor) and values[0].dim() > 1
        return torch.cat(list(values), dim=1) if joins else values[0]

    return {name: join([part[name] for part in parts]) for name in parts[0]}
