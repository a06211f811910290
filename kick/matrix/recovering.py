"""The text of steps that train: its digest in their options, so that it counts in keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from kick.catalog import trains_on_text
from kick.errors import KickError
from kick.matrix.variants import Expanded
from kick.matrix.yaml_marks import Problem


def with_texts(
    found: Sequence[Expanded], digest: Callable[[str], str]
) -> tuple[list[Expanded], list[Problem]]:
    """The variants with the digests of the texts that they train on, and what is wrong with their corpora."""
    known: dict[str, str | None] = {}  # a corpus's digest, None if it cannot be had: asked for once
    problems: list[Problem] = []
    made = []
    for one in found:
        steps = []
        for step in one.variant.recipe:
            if trains_on_text(step):
                name = str(step.options["corpus"])
                if name not in known:
                    try:
                        known[name] = digest(name)
                    except KickError as error:
                        known[name] = None
                        problems.append(Problem(one.path, f"{one.variant.name}: {error}"))
                if known[name] is not None:
                    step = replace(step, options={**step.options, "digest": known[name]})
            steps.append(step)
        made.append(replace(one, variant=replace(one.variant, recipe=tuple(steps))))
    return made, problems
