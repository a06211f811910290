"""The engine of a matrix that names none: in memory where it fits, else block by block where that can be."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kick.engine.backend import AUTO, DEFAULT, LAYERED, named
from kick.engine.layers import SHARE
from kick.errors import KickError
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
    said about the choice, "" for nothing.

    generated: by task what generating its answers block by block takes, in words.
    """

    name: str
    layers: Layers | None = None
    why: str = ""
    generated: Mapping[str, str] = field(default_factory=dict)


def choose(
    keys: EngineKeys,
    estimates: Iterable[Estimate],
    shapes: Sequence[tuple[Variant, Shape]],
    tasks: Collection[Task],
) -> ChosenEngine:
    """The engine of a matrix.

    Args:
        estimates: of its jobs in memory.
        shapes: of the variants that have a model here.

    Raises KickError if 'layered' is named, and answers would have to be generated that it may not generate.
    """
    if keys.name not in (AUTO, LAYERED):
        return ChosenEngine(named(keys.name).name)
    free = costs.free_memory()
    layers = Layers(keys.memory or free // SHARE, max(1, len(shapes) - 1))
    size = max((one.stored for _, one in shapes), default=0)
    generated = {task.name: _passes(task, size) for task in tasks if task.longest}
    if keys.name == LAYERED:
        refuse_generation(tasks, generated, keys.generate)
        return ChosenEngine(LAYERED, layers, generated=generated)
    needed = max(one.memory for one in estimates)
    if needed <= free:
        return ChosenEngine(DEFAULT)
    short = f"a job needs about {gigabytes(needed)} in memory, and {gigabytes(free)} are available"
    if reason := never_layered(shapes, tasks, keys.generate):
        why = f"engine: {DEFAULT}, although {short}: {LAYERED} is out, because {reason}"
        return ChosenEngine(DEFAULT, None, why)
    return ChosenEngine(LAYERED, layers, f"engine: {LAYERED}, because {short}", generated)


def _passes(task: Task, size: int) -> str:
    """What generating a task's answers takes; size: bytes of all weights as they are stored."""
    whose = "dense's continuations are generated once" if task.needs_reference else "answers are generated"
    read = (
        f"at most {task.longest} passes over {gigabytes(size)} of weights, {gigabytes(task.longest * size)}"
    )
    return f"{task.name}: {whose}: {read} in all" + ("" if task.needs_reference else ", per variant")


def refuse_generation(tasks: Iterable[Task], generated: Mapping[str, str], allowed: bool) -> None:
    """Raises KickError for a task whose answers every variant generates, unless that is allowed."""
    for task in tasks:
        if task.generates and not task.needs_reference and not allowed:
            cost = generated.get(task.name, task.name)
            raise KickError(
                f"engine: {LAYERED} reads all weights for every token. {cost}. Leave the task out, set "
                f"`generate: true` beside the engine's name, or choose {DEFAULT} on a machine that holds the "
                "model"
            )


def never_layered(shapes: Sequence[tuple[Variant, Shape]], tasks: Iterable[Task], generate: bool) -> str:
    """Why these variants cannot be measured block by block on these tasks; "" if they can.

    generate: whether answers may be generated at a pass over all weights per token.
    """
    for task in tasks:
        if task.generates and not task.needs_reference and not generate:
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
