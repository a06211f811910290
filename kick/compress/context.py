"""What a method is called with beside the model: the calibration data and what the recipe did so far.

A `Calibration` is the sequence of token sequences that a method is called with, and carries through a recipe
the masks that later steps keep, the grids that weights are on, and notes for run.json.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor

from kick.compress.calibrate.ranking import Choose, Ranker
from kick.compress.dense import DenseWeights
from kick.compress.grid import Grid, Scale
from kick.compress.scope import Scope
from kick.compress.sparsity import Sparsity

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Propagate = Literal["compressed", "dense"]


@dataclass(frozen=True, eq=False)
class Quantized:
    """How a weight is stored: on an integer grid with its scales, or in a named format of so many bits.

    `bits` is of a weight's own code, `shared` its share of scales and zeros. `name` is the format's ("int",
    "nf4", ...). `zero`: whether it is among the values that a code can say.
    """

    name: str
    bits: float
    shared: float = 0.0
    grid: Grid | None = None
    scale: Scale | None = None
    activation_bits: int | None = None
    zero: bool = True

    def on_grid(self) -> tuple[Grid, Scale]:
        """The grid and its scales. Raises RuntimeError for a format that is not an integer grid."""
        if self.grid is None or self.scale is None:
            raise RuntimeError(f"{self.name} is not stored on an integer grid")
        return self.grid, self.scale


class Supply(Protocol):
    """Gives a walk the blocks of a model that memory does not hold, one at a time."""

    device: torch.device
    feed: Any  # the walk's `Feed` if it goes on with an earlier walk's states, else None

    def outside(self) -> AbstractContextManager[Any]:
        """Within it what is outside the blocks has its weights."""

    def begin(self, feed: Any, looks: bool) -> range:
        """The numbers of the blocks that a walk has: not the first ones if it was cut off before."""

    def open(self, index: int) -> None:
        """Put a block's weights in their place."""

    def close(self, index: int, feed: Any, looks: bool) -> None:
        """Take a block, which nobody needs again in this walk: keep what was made of it, unless the walk only
        looks."""


@dataclass(frozen=True)
class TextSpec:
    """Windows of a corpus that a step trains on: how many, of how many tokens; `digest` of its text, if that
    is known; `pool`: how many are drawn for each, if they are chosen."""

    corpus: str
    windows: int
    length: int
    seed: int = 0
    digest: str = ""
    pool: int = 1


class Texts(Protocol):
    """Gives text to steps that train."""

    def __call__(self, spec: TextSpec, choose: Choose | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Windows (1, length) to train on, and others held out; `choose` keeps some of those drawn."""

    def text(self, window: Tensor) -> str:
        """The text of a window."""

    def dense(self) -> Any:
        """The dense model, loaded anew. Raises KickError if it is not known where it is."""

    @property
    def ranker(self) -> Ranker:
        """What ranks windows by the dense model's scores."""


class Corpora(Protocol):
    """Corpora as ids of the model's tokenizer."""

    tokenizer: PreTrainedTokenizerBase

    def ids(self, name: str, digest: str = "") -> list[int]:
        """The ids of a corpus. Raises KickError, CellFailed if its text has another digest."""

    def cut(self, name: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """The ids of a corpus by another tokenizer; raises as `ids` does."""


@dataclass(eq=False)
class Passes:
    """How many sequences a step ran through the model and back, and through single blocks."""

    forward: int = 0
    backward: int = 0
    blocks: int = 0

    def facts(self, blocks: int) -> dict[str, float]:
        """As JSON values: of the model's so many blocks, each that was run is a part of a forward pass."""
        return {"forward": round(self.forward + self.blocks / blocks, 3), "backward": self.backward}


@dataclass(eq=False)
class Calibration(Sequence[Tensor]):
    """Token sequences (1, length), and the state of a recipe.

    Attributes:
        propagate: what a block is fed: what the compressed blocks before it give, or the dense ones.
        offload: a folder for hidden states and sums of gradients; None keeps them in memory.
        memory: a folder for statistics of the dense model, shared between methods; with propagate "dense"
            only.
        progress: called with how many blocks a walk is done with, and how many there are.
        masks: full name of a linear -> weights that pruning kept, (out, in), True = kept.
        patterns: full name of a linear -> (n, m), where pruning was n of each m.
        formats: full name of a linear -> how it is stored.
        scope: which matrices the step at hand is about, and shares of their own.
        dense: the dense weights, where a step of the recipe asks for them.
        notes: what has to be said about the result, for run.json.
        supply: where blocks come from, if the model is not in memory.
        passes: what the step at hand ran.
        texts: gives text to steps that train; None where there is none.
        work: a folder for checkpoints of training, which a killed run goes on from; None for none.
        training: what the step at hand trained, and what it took, as JSON values.
        corpora: give corpora to steps that look at them, with the model's tokenizer; None where there are
            none.
        tokenizer: what a step put in the place of the model's own; None if none did.
    """

    sequences: Sequence[Tensor] = ()
    propagate: Propagate = "compressed"
    offload: Path | None = None
    memory: Path | None = None
    progress: Callable[[int, int], None] | None = None
    masks: dict[str, Tensor] = field(default_factory=dict)
    patterns: dict[str, tuple[int, int]] = field(default_factory=dict)
    formats: dict[str, Quantized] = field(default_factory=dict)
    scope: Scope = field(default_factory=Scope)
    dense: DenseWeights | None = None
    notes: list[dict[str, Any]] = field(default_factory=list)
    supply: Supply | None = None
    passes: Passes = field(default_factory=Passes)
    texts: Texts | None = None
    work: Path | None = None
    training: dict[str, Any] | None = None
    corpora: Corpora | None = None
    tokenizer: PreTrainedTokenizerBase | None = None

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, index: Any) -> Any:
        return self.sequences[index]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.sequences)

    def note(self, kind: str, **facts: Any) -> None:
        """Say something about the result; equal notes are kept once."""
        entry = {"kind": kind, **facts}
        if entry not in self.notes:
            self.notes.append(entry)

    def keep(self, name: str, kept: Tensor, sparsity: Sparsity | None = None) -> None:
        """A step pruned a linear: later steps leave those weights at zero."""
        before = self.masks.get(name)
        self.masks[name] = kept if before is None else kept & before
        if sparsity and sparsity.m:
            self.patterns[name] = (sparsity.n, sparsity.m)

    def trained(self) -> dict[str, Any]:
        """What the step at hand trained, under "training", and nothing if it did not; said once."""
        done, self.training = self.training, None
        return {} if done is None else {"training": done}

    def kept(self, name: str, weight: Tensor) -> Tensor | None:
        """The mask that earlier steps set for a linear of this shape, or None."""
        mask = self.masks.get(name)
        return mask.to(weight.device) if mask is not None and mask.shape == weight.shape else None


def calibration_of(calibration: Sequence[Tensor]) -> Calibration:
    """`calibration` itself, or plain sequences with the default context."""
    return calibration if isinstance(calibration, Calibration) else Calibration(tuple(calibration))


def tokens(calibration: Calibration, device: torch.device) -> Iterator[Tensor]:
    """The sequences on the model's device."""
    for sequence in calibration:
        yield sequence.to(device)
