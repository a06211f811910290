"""Whether what is here is still what a job was planned with."""

from __future__ import annotations

from kick.compress.method import methods
from kick.engine.backend import identity, of_cell
from kick.errors import CellFailed
from kick.records import Job, Variant
from kick.runtime import method as runtime


def check(job: Job) -> None:
    """Raises CellFailed for a method that was edited since, or another version of an engine's package."""
    for variant in job.variants:
        check_code(variant)
    for cell in job.cells:
        here = identity(of_cell(cell.engine))
        if cell.engine != here:
            raise CellFailed(f"the cell is of the engine {cell.engine!r}, here it is {here!r}; run it again")


def check_code(variant: Variant) -> None:
    """Raises CellFailed for a method that was edited since the variant was planned."""
    for step in variant.recipe:
        if step.digest and step.digest != methods[step.method].digest:
            raise CellFailed(f"the code of {step.method} changed after this run was planned; run it again")
    run = variant.runtime
    if run is not None and run.digest != runtime.digest(run.method):
        raise CellFailed(f"the code of {run.method} changed after this run was planned; run it again")
