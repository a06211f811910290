"""The engine of a matrix that names none: in memory where it fits, else block by block where that can be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kick.engine.backend import AUTO, DEFAULT, LAYERED, named
from kick.engine.layers import SHARE
from kick.matrix import costs
from kick.matrix.blockwise import whole
from kick.matrix.costs import Estimate, Layers
from kick.matrix.memory import gigabytes
from kick.matrix.schema import EngineKeys
from kick.matrix.shapes import Shape
from kick.records import Variant

if TYPE_CHECKING:
    from kick.tasks import Task


@dataclass(frozen=True)
class ChosenEngine:
    """The backend of a matrix by name, how it makes its passes if it is the layered one, and what has to be
    said about the choice, "" for nothing."""

    name: str
    layers: Layers | None = None
    why: str = ""


def choose(
    keys: EngineKeys,
    estimates: Iterable[Estimate],
    shapes: Sequence[tuple[Variant, Shape]],
    tasks: Iterable[Task],
) -> ChosenEngine:
    """The engine of a matrix.

    Args:
        estimates: of its jobs in memory.
        shapes: of the variants that have a model here.
    """
    if keys.name not in (AUTO, LAYERED):
        return ChosenEngine(named(keys.name).name)
    free = costs.free_memory()
    layers = Layers(keys.memory or free // SHARE, max(1, len(shapes) - 1))
    if keys.name == LAYERED:
        return ChosenEngine(LAYERED, layers)
    needed = max(one.memory for one in estimates)
    if needed <= free:
        return ChosenEngine(DEFAULT)
    short = f"a job needs about {gigabytes(needed)} in memory, and {gigabytes(free)} are available"
    if reason := never_layered(shapes, tasks, keys.generate):
        why = f"engine: {DEFAULT}, although {short}: {LAYERED} is out, because {reason}"
        return ChosenEngine(DEFAULT, None, why)
    return ChosenEngine(LAYERED, layers, f"engine: {LAYERED}, because {short}")


def never_layered(shapes: Sequence[tuple[Variant, Shape]], tasks: Iterable[Task], generate: bool) -> str:
    """Why these variants cannot be measured block by block on these tasks; "" if they can.

    generate: whether answers may be generated at a pass over all weights per token.
    """
    for task in tasks:
        if (task.generates or task.needs_reference) and not generate:
            return f"{task.name} has answers generated"
        if task.reads_states:
            return f"{task.name} reads hidden states"
    for one, size in shapes:
        if one.runtime is not None:
            return f"{one.name} has a run-time method"
        if size.quantized:
            return f"the checkpoint of {one.name} is quantized"
        if reason := unlayered(one):
            return reason
    return ""


def unlayered(variant: Variant) -> str:
    """Why a variant's recipe cannot be carried out block by block for the engine 'layered'; "" if it can."""
    if method := whole(variant):
        return f"{method} needs the whole model at once"
    if variant.recipe and variant.model.dtype != "float32":
        return f"it compresses in float32, and {variant.name} has dtype {variant.model.dtype}"
    return ""
