"""What the tests of LLM-KICK share: where the mirror of real data is, and the small model."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from kick import tasks
from kick.model import load, resolve
from kick.records import TaskSpec

MIRROR = Path(__file__).parents[2] / ".." / "shared" / "data"
FOLDER = Path(__file__).parents[2] / "tasks"


def mirror() -> str:
    """The mirror's folder; the test is skipped, loudly, where it is absent."""
    if not MIRROR.is_dir():
        pytest.skip(f"LOUD: {MIRROR} is absent: LLM-KICK's tasks on real data are not tested")
    return str(MIRROR.resolve())


@cache
def smoke():
    """(model, tokenizer) of the tiny model with random weights."""
    return load(resolve("smoke"))


@cache
def task(name: str):
    """A task on the mirror's data."""
    return tasks.load([name], mirror())[name]


def spec(name: str, limit: int | None = None, shots: int | None = None, chat: bool = False) -> TaskSpec:
    """How a task is asked."""
    return TaskSpec(name, limit=limit, shots=shots, chat_template=chat)
