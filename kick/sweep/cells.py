"""What a cell needs beside its model: dense's samples, kept answers, notes for its record, rates
learned, why it failed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kick.engine.backend import Backend
from kick.errors import CellFailed, KickError
from kick.matrix import rates
from kick.model import related
from kick.records import Cell, Result, Sample, Variant
from kick.store import Store
from kick.sweep.together import OpenCell
from kick.tasks import evaluate
from kick.tasks.generation import takes_system

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Loaded:
    """A job's model, compressed and ready to answer, with what that took and what was reported of it."""

    engine: Backend
    tokenizer: PreTrainedTokenizerBase
    store: Store
    seconds: Mapping[str, float]
    report: Mapping[str, Any]
    lacks: Mapping[str, str] = field(default_factory=dict)  # what a server does not answer, and why
    said: tuple[str, ...] = ()  # what readers must know of a checkpoint


def beside(variant: Variant, dense: Variant) -> tuple[str, ...]:
    """What a reader must know of a checkpoint beside the dense model: added tokens, another shape."""
    if not variant.checkpoint or dense.endpoint:
        return ()
    return related.notes(variant.model, dense.model)


def identical(cell: Cell, samples: Sequence[Sample], dense: Variant, store: Store) -> tuple[str, ...]:
    """That a checkpoint gave dense's own answer to every item, to the bit; nothing if it did not."""
    if not cell.variant.checkpoint or dense.endpoint or cell.variant.endpoint:
        return ()
    other = replace(cell, variant=dense, reference=None, task=replace(cell.task, stop=""))
    if not samples or not store.done(other.key):
        return ()
    theirs = {sample.item: sample.responses for sample in store.samples(other.key)}
    same = all(theirs.get(sample.item) == sample.responses for sample in samples)
    return (f"all {len(samples)} answers are identical to dense's",) if same else ()


def dense_samples(cell: Cell, store: Store) -> dict[str, Sample] | None:
    """The dense model's samples by item, where the cell compares with them.

    Raises CellFailed if they are not stored.
    """
    if cell.reference is None:
        return None
    if not store.done(cell.reference):
        raise CellFailed(
            f"the dense model's cell {cell.reference} is not done, and this one compares with it"
        )
    return {sample.item: sample for sample in store.samples(cell.reference)}


def chat_notes(cell: Cell, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What the record says of the chat template, where one was used."""
    if not cell.task.chat_template:
        return {}
    arguments = json.loads(cell.task.template or "{}")
    system = "its own message" if takes_system(tokenizer, arguments) else "in the first user turn"
    return {"arguments": arguments, "system": system, "reasoning_end": cell.task.reasoning_end}


def keeper(store: Store, cell: Cell, again: bool) -> evaluate.Keep | None:
    """Kept answers of the cell; None if the dense model's hidden states must be made again anyway."""
    if again:
        return None

    def keep(phase: str, total: int) -> AbstractContextManager[Any]:
        return store.partial(cell.key, total, phase)

    return keep


def learn(one: OpenCell, result: Result, beside: int = 0) -> None:
    """How long the items took that were asked now, for the next plan's estimate.

    beside: items' worth of tokens that the task reads beside them. A run-time method's say nothing of other
    variants.
    """
    if one.cell.variant.runtime is not None:
        return
    size = result.compression.get("footprint", {}).get("parameters", 0)
    counts, seconds = result.counts, result.seconds.get("answer", 0.0)
    items = round(counts.get("items", 0) * one.asked / max(1, counts.get("requests", 0)))
    items += beside if items else 0
    rates.save_rates(rates.learned(rates.load_rates(), one.cell.task.name, items, seconds, size))


def cause(error: BaseException) -> str:
    """Why a cell failed, in a line: our own errors say it themselves, others need their kind."""
    text = str(error).strip() or "no message"
    if isinstance(error, KickError):
        return text
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        return f"out of memory: {text.splitlines()[0]}"
    return f"{type(error).__name__}: {text.splitlines()[0]}"
