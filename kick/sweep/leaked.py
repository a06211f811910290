"""Whether a variant was trained on text that is in a task's documents: a mark on its cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from kick.catalog import trains_on_text
from kick.compress.calibrate import corpus
from kick.records import Variant
from kick.recover.leaks import GRAM, KnownText
from kick.tasks.task import Task


@dataclass
class LeakCheck:
    """Compares the documents of tasks with the corpora that variants are trained on, each pair once."""

    data_root: str | None = None
    _corpora: dict[str, KnownText] = field(default_factory=dict, repr=False)
    _found: dict[tuple[str, str], int] = field(default_factory=dict, repr=False)

    def documents(self, variant: Variant, task: Task) -> dict[str, int]:
        """How many of the task's documents share text with each corpus of the variant, if any do."""
        names = {str(step.options["corpus"]) for step in variant.recipe if trains_on_text(step)}
        found = {name: self._count(name, task) for name in sorted(names)}
        return {name: count for name, count in found.items() if count}

    def _count(self, name: str, task: Task) -> int:
        if (name, task.name) not in self._found:
            if name not in self._corpora:
                self._corpora[name] = KnownText(corpus.texts(name, self.data_root))
            self._found[name, task.name] = len(self._corpora[name].leaks(task.texts()))
        return self._found[name, task.name]


def said(found: dict[str, int], task: Task) -> Iterator[str]:
    """A sentence per corpus that shares text with the task's documents."""
    for name, count in found.items():
        yield (
            f"{count} of {len(task.texts())} documents share {GRAM} words in a row, or their whole text, "
            f"with the corpus {name}, on which the variant was trained"
        )
