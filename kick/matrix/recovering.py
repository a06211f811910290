"""The text of steps that train or look at corpora: its digest in their options, so that it counts in keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from kick.catalog import retokenises, trains_on_text
from kick.errors import KickError
from kick.matrix.variants import Expanded
from kick.matrix.yaml_marks import Problem
from kick.records import Step


def with_texts(
    found: Sequence[Expanded], digest: Callable[[str], str]
) -> tuple[list[Expanded], list[Problem]]:
    """The variants with the digests of the texts of their steps, and what is wrong with their corpora."""
    known: dict[str, str | None] = {}  # a corpus's digest, None if it cannot be had: asked for once
    problems: list[Problem] = []
    made = []
    for one in found:
        steps = []
        for step in one.variant.recipe:
            names = _corpora(step)
            for name in names:
                if name not in known:
                    try:
                        known[name] = digest(name)
                    except KickError as error:
                        known[name] = None
                        problems.append(Problem(one.path, f"{one.variant.name}: {error}"))
            digests = [text for name in names if (text := known[name]) is not None]
            if names and len(digests) == len(names):
                step = replace(step, options={**step.options, "digest": "+".join(digests)})
            steps.append(step)
        made.append(replace(one, variant=replace(one.variant, recipe=tuple(steps))))
    return made, problems


def _corpora(step: Step) -> list[str]:
    """The corpora that a step names in its options."""
    if trains_on_text(step):
        return [str(step.options["corpus"])]
    return str(step.options["corpora"]).split("+") if retokenises(step) else []
