"""The learning rate by trial: each of a few trains for a while, and held-out text says which is best.

A trial is a training of its own, with its own warm-up and its own line to zero, on the first windows of the
text; afterwards what was trained is as it was. The same held-out windows tell the loss after training, which
is then slightly too good: the tasks of a matrix are other text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kick.errors import CellFailed
from kick.recover.train import Trainable, TrainingSchedule, fit, mean_loss

FILE = "rates.json"
PER_DECADE = 2  # rates

Trial = dict[str, Any]  # lr, and the loss on held-out text in nats per token, None if it diverged


def around(lr: float, count: int) -> list[float]:
    """`count` learning rates around one, neighbours a factor of sqrt(10) apart, three digits each."""
    return [float(f"{lr * 10 ** ((n - (count - 1) / 2) / PER_DECADE):.3g}") for n in range(count)]


def tried(
    model: Any,
    opened: Callable[[], AbstractContextManager[Trainable]],
    schedules: Sequence[TrainingSchedule],
    texts: tuple[Sequence[Tensor], Sequence[Tensor]],
    folder: Path | None,
) -> list[Trial]:
    """The loss on held-out text after training with each schedule; the model is as before.

    Args:
        opened: what is trained, made anew while it is open; nothing is merged.
        folder: where trials are kept for a run that was killed; those that are there are not tried again.
    """
    file = folder and folder / FILE
    if file and file.is_file():
        return json.loads(file.read_text("utf-8"))
    found = [_trial(model, opened, schedule, texts) for schedule in schedules]
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(found), "utf-8")
        part.replace(file)
    return found


def best(trials: Sequence[Trial]) -> float:
    """The learning rate of the least loss on held-out text. Raises CellFailed if all diverged."""
    there = [(one["heldout"], one["lr"]) for one in trials if one["heldout"] is not None]
    if not there:
        rates = ", ".join(f"{one['lr']:g}" for one in trials)
        raise CellFailed(f"training diverged with each learning rate that was tried ({rates}); use less")
    return min(there)[1]


def _trial(
    model: Any,
    opened: Callable[[], AbstractContextManager[Trainable]],
    schedule: TrainingSchedule,
    texts: tuple[Sequence[Tensor], Sequence[Tensor]],
) -> Trial:
    windows, heldout = texts
    with opened() as trained:
        before = {name: one.detach().clone() for name, one in trained.parameters.items()}
        try:
            fit(model, trained, schedule, windows[: schedule.steps * schedule.batch])
            loss = mean_loss(model, heldout)
        except CellFailed:
            loss = None  # told as a rate that diverged
        finally:
            with torch.no_grad():
                for name, one in trained.parameters.items():
                    one.copy_(before[name])
    finite = loss is not None and loss < float("inf")
    return {"lr": schedule.lr, "heldout": loss if finite else None}


def trials_of(schedule: TrainingSchedule, count: int, tokens: int, length: int) -> list[TrainingSchedule]:
    """The schedules of `count` trials of so many tokens each, in windows of `length`."""
    steps = min(schedule.steps, max(1, tokens // (length * schedule.batch)))
    return [replace(schedule, steps=steps, lr=lr) for lr in around(schedule.lr, count)]
