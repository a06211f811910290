"""The names in a matrix, checked before methods, torch or lm-eval are imported: that takes seconds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path as File

from kick import catalog
from kick.errors import KickError
from kick.matrix.schema import Matrix, MethodKeys, RecipeKeys, StepKeys
from kick.matrix.yaml_marks import Path, Problem, refusal
from kick.registry import unknown


def check(matrix: Matrix, folders: Sequence[File] = (), methods: Collection[str] | None = None) -> None:
    """Refuse methods and tasks that do not exist, each with its line.

    Args:
        folders: of the user's own task files.
        methods: the names of all methods; those that kick and its plugins have, by default.
    """
    known = catalog.known() if methods is None else methods
    problems = [
        Problem((*path, "method"), unknown("method", name, known))
        for path, entry in _steps(matrix)
        for name in entry.method
        if name not in known
    ]
    problems += _tasks(matrix, folders)
    if problems:
        raise refusal(matrix.marks, problems)


def _steps(matrix: Matrix) -> list[tuple[Path, StepKeys]]:
    found: list[tuple[Path, StepKeys]] = []
    for place, entry in enumerate(matrix.variants):
        if isinstance(entry, MethodKeys):
            found.append((("variants", place), entry))
        elif isinstance(entry, RecipeKeys):
            found += [
                (("variants", place, "recipe", number), step) for number, step in enumerate(entry.recipe)
            ]
    return found


def _tasks(matrix: Matrix, folders: Sequence[File]) -> list[Problem]:
    from kick.tasks import index

    problems = []
    for place, name in enumerate(matrix.tasks):
        try:
            index.check_names([name], folders)
        except KickError as error:
            problems.append(Problem(("tasks", place), str(error)))
    return problems
