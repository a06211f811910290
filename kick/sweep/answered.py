"""The engine that answered a stored cell, for what asks it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kick.engine.backend import DEFAULT, LAYERED, named, of_cell
from kick.engine.layers import Passing
from kick.errors import KickError
from kick.records import Result
from kick.registry import UnknownName


def engine_of(result: Result) -> str:
    """The name of the backend that answered: of the cell's key, or of the record if equal ones share a key.

    Raises KickError for one that is not known here.
    """
    if result.cell.variant.endpoint:
        return DEFAULT  # a server answers; none of ours is asked
    recorded = result.provenance.get("engine")
    name = recorded.get("backend", DEFAULT) if isinstance(recorded, Mapping) else DEFAULT
    if result.cell.engine:
        name = of_cell(result.cell.engine)
    try:
        return named(str(name)).name
    except UnknownName as error:
        raise KickError(f"the cell {result.key} was answered by another engine: {error}") from None


def options_of(engine: str) -> dict[str, Any]:
    """What the engine takes to answer what it has answered before."""
    return {"how": Passing(generate=True)} if engine == LAYERED else {}
