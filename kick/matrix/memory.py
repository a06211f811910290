"""Peak memory from shapes: of a worker that holds the model, of one that reads it block by block, and of
`kick compress`. No weights are loaded and torch is not needed.

With P parameters, B of the largest block, L of the largest matrix, E = vocabulary x hidden size, T tokens of
calibration data, values of b bytes in memory and s in the file, a peak is LIBRARIES plus, in bytes,

    in memory    the largest of  loading P b, and P s too if the type changes, else L b
                                 compressing  P b + states + solving, or + gradients
                                              (`kick.matrix.backward`), or + training
                                              (`kick.matrix.training`)
                                 answering    P b + 4 E + forwards + keys and values of what is generated,
                                              and what is freed before it goes back, vectors of texts that
                                              are compared; E counts once if the file has the model's type:
                                              the embedding stays there
    layered      the larger of   a block: B (2 x 4 + 1) + L s, states, solving, evaluation states
                                 the head: 4 E and a slice of it, what is read of the last block
                                 and with either keys and values of what dense generates
    compress     CHECKING and a block: B (2 x 4 + 1 + s), states, solving, the slice of the head that is read

A block is there in float32, laid out for the processor, and as a mask; of large experts there is one matrix.
States are a block's inputs and outputs on the calibration data. On a GPU there are no packed copies: the
formula stays an upper bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kick.engine import limits
from kick.engine.layers import COPIES
from kick.matrix.backward import Backward
from kick.matrix.shapes import Shape
from kick.matrix.training import Training
from kick.tasks.protocol import TOKENS as OTHER_TOKENS
from kick.tasks.protocol import protocols

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# of an item of lm-eval's kinds, before any was measured; a protocol says its own
TOKENS = {"multiple_choice": 100, "generate_until": 150}
READ_ONLY = ("multiple_choice", "loglikelihood", "loglikelihood_rolling", "perplexity")  # kinds
CHECKING = 50_000_000  # bytes of what `kick compress` has to check and to copy
# bytes that Python, torch, transformers, tokenizer and tasks take by themselves once libraries have let their
# pages go: between 0.48 GB with torch for the CPU and 0.66 with torch for CUDA
LIBRARIES = 550_000_000
LOGITS = 3 * 2**24  # bytes of the logits held at once, and what is made of them
HEAP = 2**25  # bytes of freed heap among what is generated; then `kick.model.heap.Ebb` gives it back
COMPARED, POOLINGS = "similarity", 8  # the kind that compares vectors of texts, and how many of each at most
HELD = 2  # copies of a block's calibration inputs: they and its outputs
SLICE = 4096  # rows of the head that are read at once


@dataclass(frozen=True)
class JobWork:
    """Work of a job: items by task, and tokens of the calibration set with how many steps see them."""

    items: Mapping[str, int]
    kinds: Mapping[str, str]  # task -> how it asks, as `kick.tasks.describe` says
    calibrated: int = 0  # steps
    simple: int = 0
    sequences: int = 0
    length: int = 0
    batch_tokens: int | None = None
    solves: bool = False  # a step factorises a Hessian of its inputs
    offload: bool = False  # calibration states are kept on disk
    blockwise: bool = False  # there are steps, and all go block by block
    gradients: tuple[Backward, ...] = ()  # of steps that take some of the calibration loss
    training: tuple[Training, ...] = ()  # of steps that train on text
    texts: int = 0  # whose vectors are compared at once

    @property
    def tokens(self) -> int:
        """Tokens of calibration."""
        return self.sequences * self.length if self.calibrated else 0

    @property
    def compresses(self) -> bool:
        """Whether any step changes weights."""
        return bool(self.calibrated or self.simple)

    @property
    def asked(self) -> int:
        """Tokens that all items have."""
        return sum(count * tokens_of(self.kinds.get(task, "")) for task, count in self.items.items())


def tokens_of(kind: str) -> int:
    """Tokens read per item, of a protocol's task, or of one with an lm-eval output type."""
    facts = protocols.facts().get(kind)
    return facts.tokens if facts else TOKENS.get(kind, OTHER_TOKENS)


def states(size: Shape, work: JobWork) -> int:
    """Bytes of a block's inputs and outputs on the calibration data, wherever they are kept."""
    return HELD * work.tokens * size.hidden * 4


def in_memory(size: Shape, dtype: str, work: JobWork) -> int:
    """Bytes of a worker that holds the model."""
    value = BYTES[dtype]
    weights = size.parameters * value
    loading = size.stored if size.stored and round(size.per_value) != value else size.largest * value
    walking = _held(size, work) + _solving(size, work) + 4 * size.block if work.compresses else 0
    steps = [one.memory(size, work.length, walking, work.offload) for one in work.gradients]
    steps += [_held(size, work) + one.memory(size) for one in work.training]
    compressing = max([walking, *steps])
    mapped = size.stored and round(size.per_value) == value  # the embedding: its rows stay in the file
    head = 4 * size.head if dtype == "float32" and not mapped else 0  # laid out for the processor beside it
    answering = head + _forwards(size, work) + _cache(size, work) + _vectors(size, work)
    return LIBRARIES + weights + max(loading, compressing, answering)


def layered(size: Shape, dtype: str, work: JobWork, budget: int | None = None, variants: int = 1) -> int:
    """Bytes of a worker that reads the model block by block, for so many variants at once.

    budget: bytes that evaluation states and calibration states may take; None leaves them as they are.
    """
    value = BYTES[dtype]
    states = work.asked * size.hidden * value
    evaluated = COPIES * states  # as the engine counts them; one variant at a time has more than one copy
    passing = variants * (states + _held(size, work)) + evaluated - states
    if budget is not None:
        passing = min(passing, max(budget, _held(size, work)))
    block = _block(size, value, work.compresses) + _solving(size, work) + _forwards(size, work) - LOGITS
    together = variants * evaluated if budget is None else min(variants * evaluated, budget)
    read = together // COPIES  # of the variants of one pass
    head = size.head * value + _slice(size) + LOGITS + read
    generated = 0 if work.compresses else _generated(size, work)
    if budget is not None:
        generated = min(generated, budget)
    return LIBRARIES + max(block + max(passing, generated), head + generated)


def compressing(size: Shape, work: JobWork) -> int:
    """Bytes of `kick compress` block by block."""
    stored = round(size.at_once * size.per_value)
    block = _block(size, 4, True) + stored + _held(size, work) + _solving(size, work)
    return LIBRARIES + CHECKING + max(block, _slice(size))


def gigabytes(size: int) -> str:
    """Bytes as people read them."""
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _block(size: Shape, value: int, masked: bool) -> int:
    """A block as it is used: its weights, laid out for the processor, a mask, one matrix as it is stored."""
    packed = 4 * size.at_once if value == 4 else 0
    masks = masked * (size.at_once if size.at_once == size.block else size.block // 8)  # as bits then
    return value * size.at_once + packed + masks + round(size.largest * size.per_value)


def _slice(size: Shape) -> int:
    """Rows of the head that are read at once, as stored and as they are computed with."""
    return round(min(SLICE, size.vocabulary) * size.hidden * (4 + size.per_value))


def _held(size: Shape, work: JobWork) -> int:
    return 0 if work.offload else states(size, work)


def _solving(size: Shape, work: JobWork) -> int:
    """A Hessian, its factor and what is made of it, and the weights of a matrix in two forms; else saliencies
    of one matrix."""
    if not work.compresses:
        return 0
    return (3 * 4 * size.widest**2 if work.solves else 0) + 2 * 4 * size.largest


def _forwards(size: Shape, work: JobWork) -> int:
    """Activations of a forward, and the logits held at once."""
    return (work.batch_tokens or limits.TOKENS) * 4 * (8 * size.hidden + 2 * size.widest) + LOGITS


def _cache(size: Shape, work: JobWork) -> int:
    """Keys and values of what is generated at once and of a forward's prompts, and the heap freed among them,
    an allowance."""
    most, allowed = _generated(size, work), limits.cache(4 * size.parameters)
    read = (work.batch_tokens or limits.TOKENS) * size.blocks * size.cached * 4
    return min(allowed, most) + read + HEAP if most else 0


def _vectors(size: Shape, work: JobWork) -> int:
    """Vectors of the texts that are compared at once, as they are made and together."""
    return HELD * work.texts * POOLINGS * size.hidden * 4


def _generated(size: Shape, work: JobWork) -> int:
    """Keys and values of the rows that are generated at once, in bytes."""
    kinds = [(work.kinds.get(task, ""), count) for task, count in work.items.items()]
    rows = [min(limits.ROWS, count) * tokens_of(kind) for kind, count in kinds if kind not in READ_ONLY]
    return max(rows, default=0) * size.blocks * size.cached * 4
