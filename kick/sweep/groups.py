"""Jobs that are a group of variants: of a layered matrix those that share the reading of the model's blocks,
of others those that share the reading of prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain

from kick.matrix.blockwise import blockwise
from kick.matrix.running import weights_of
from kick.records import Job, ModelSpec, Variant


def one_pass(variant: Variant) -> bool:
    """Whether the variant can be compressed and measured in one pass over the blocks.

    That is one step of a blockwise method on the matrix's own model; another is compressed to a folder first.
    """
    if len(variant.recipe) != 1 or variant.replica not in (None, "order") or variant.checkpoint:
        return False
    return blockwise(variant) and variant.model.dtype == "float32"


def grouped(jobs: Iterable[Job], places: int) -> list[Job]:
    """The jobs, those merged whose variants can go through the blocks together, so many groups at once."""
    alike: dict[ModelSpec, list[Job]] = {}
    rest: list[Job] = []
    for job in jobs:
        (alike.setdefault(job.variant.model, []) if one_pass(job.variant) else rest).append(job)
    return rest + [
        _merged(part[start::places])
        for part in alike.values()
        for start in range(places)
        if part[start::places]
    ]


def sharing(jobs: Iterable[Job]) -> list[Job]:
    """The jobs, those merged whose variants differ in how they continue a prompt alone."""
    alike: dict[str, list[Job]] = {}
    rest: list[Job] = []
    for job in jobs:
        weights = weights_of(job.variant)
        (alike.setdefault(weights, []) if weights else rest).append(job)
    return rest + [_merged(part) for part in alike.values()]


def title(job: Job) -> str:
    """The job's variants in words."""
    more = len(job.variants) - 1
    return f"{job.variants[0].name} and {more} more" if more else job.variant.name


def split(job: Job) -> list[Job]:
    """A job per variant, for a group that failed as a whole."""
    share = job.cost / len(job.cells)
    parts = [tuple(cell for cell in job.cells if cell.variant == variant) for variant in job.variants]
    return [Job(part[0].variant, part, share * len(part)) for part in parts]


def _merged(jobs: Sequence[Job]) -> Job:
    cells = tuple(chain.from_iterable(job.cells for job in jobs))
    return replace(jobs[0], cells=cells, cost=sum(job.cost for job in jobs))
