"""The training loop: AdamW without decay, warm-up and a line to zero, windows in the order given.

If a folder is given, a killed run goes on from its last checkpoint with equal weights. Only what is
trained is written; the rest of the model is made again by the steps before.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kick.compress.cost import stopwatch
from kick.errors import CellFailed
from kick.model import blocks
from kick.model.heap import apart, give_back
from kick.model.mapped import let_libraries_go
from kick.model.structure import device_of
from kick.recover.loss import SLICE, backward, loss_of
from kick.recover.remade import remade

WARM_UP = 0.1  # of the steps
EVERY = 60.0  # seconds between checkpoints
FILE = "training.safetensors"
Loss = Callable[[Any, Tensor], Tensor]  # of the model on a window (1, length)
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Trainable(Protocol):
    """Parameters that are trained, by name, what is around a step, and what is added to the loss."""

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """By name, in a fixed order."""

    @property
    def after_step(self) -> Callable[[], None]:
        """Called after each step."""

    @property
    def before_step(self) -> Callable[[int], None]:
        """Called with the number of each step, from 0."""

    @property
    def extra(self) -> Callable[[], Tensor | None]:
        """What is added to the loss of the last forward, None for nothing."""


@dataclass(frozen=True)
class TrainingSchedule:
    """Steps of the optimizer, windows per step, and the highest learning rate."""

    steps: int
    batch: int
    lr: float

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0: up in the first tenth, then down to zero in a line."""
        warm = math.ceil(WARM_UP * self.steps)
        if step < warm:
            return self.lr * (step + 1) / warm
        return self.lr * (self.steps - step) / (self.steps - warm)


def train(
    model: Any,
    trained: Trainable,
    schedule: TrainingSchedule,
    texts: tuple[Sequence[Tensor], Sequence[Tensor]],
    folder: Path | None = None,
    recompute: bool = False,
    loss: Loss | None = None,
) -> dict[str, Any]:
    """Train what is trainable on windows (1, length); what it took, as JSON values.

    Args:
        texts: `schedule.steps * schedule.batch` windows, and others held out.
        folder: where checkpoints go; an existing checkpoint is resumed.
        recompute: run each block again in the backward pass.
        loss: what is minimised; None: the language model's. The loss on held-out text is always that.

    Raises:
        CellFailed: the loss became NaN or infinity, or the folder has another run's checkpoint.
    """
    windows, heldout = texts
    took = stopwatch(model)
    before = mean_loss(model, heldout)
    run, first = fit(model, trained, schedule, windows, folder, recompute, loss)
    return {
        "tokens": sum(window.numel() for window in windows),
        "steps": schedule.steps,
        "resumed_at": first,
        **run.facts(model),
        "heldout_before": before,
        "heldout_after": mean_loss(model, heldout),
        **took(),
    }


def fit(
    model: Any,
    trained: Trainable,
    schedule: TrainingSchedule,
    windows: Sequence[Tensor],
    folder: Path | None = None,
    recompute: bool = False,
    loss: Loss | None = None,
) -> tuple[TrainingRun, int]:
    """The steps of `train`, and the step that they went on from: 0, or that of a checkpoint."""
    give_back()  # what came before, and the imports, have left
    let_libraries_go()
    run = TrainingRun(trained.parameters, schedule)
    if folder is not None:
        run.restore(folder / FILE)
    first = run.step
    saved = time.monotonic()
    keeping = recomputed(model) if recompute else remade(model)
    with torch.enable_grad(), keeping, apart(2 * SLICE):  # logits: their holes would be filled in part
        while run.step < schedule.steps:
            place = run.step * schedule.batch
            batch = windows[place : place + schedule.batch]
            trained.before_step(run.step)
            run.losses.append(_backward(model, batch, loss, trained.extra))
            run.advance()
            trained.after_step()
            if folder is not None and time.monotonic() - saved >= EVERY:
                run.save(folder / FILE)
                saved = time.monotonic()
    if folder is not None:
        run.save(folder / FILE, moments=False)
    return run, first


def _backward(
    model: Any, windows: Sequence[Tensor], loss: Loss | None, extra: Callable[[], Tensor | None]
) -> float:
    """Add up the gradients of the mean loss over some windows; that loss."""
    total = 0.0
    for ids in (window.to(device_of(model)) for window in windows):
        if loss is None:
            total += backward(model, ids, 1 / len(windows), extra)
            continue
        part = loss(model, ids) / len(windows)
        part.backward()
        total += float(part.detach())
    if not math.isfinite(total):
        raise CellFailed("the loss became NaN or infinity in training; use a smaller lr")
    return total


def mean_loss(model: Any, windows: Sequence[Tensor]) -> float | None:
    """The mean loss over windows of equal length, in nats per token; None without windows."""
    losses = [loss_of(model, ids.to(device_of(model))) for ids in windows]
    return sum(losses) / len(losses) if losses else None


@contextmanager
def recomputed(model: Any) -> Iterator[None]:
    """While open, a block keeps its input alone for the backward pass, and is run again there."""
    found = blocks(model)
    for block in found:
        vars(block)["forward"] = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block in found:
            del vars(block)["forward"]


class TrainingRun:
    """The parameters in float32, the optimizer, the number of steps done and their losses."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], schedule: TrainingSchedule):
        self.parameters, self.schedule = parameters, schedule
        self.masters = {
            name: one if one.dtype == torch.float32 else nn.Parameter(one.detach().float())
            for name, one in parameters.items()
        }
        self.optimizer = torch.optim.AdamW(self.masters.values(), lr=schedule.lr, weight_decay=0.0)
        self.step, self.losses = 0, list[float]()

    def advance(self) -> None:
        """A step of the optimizer."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(self.step)
        for name, parameter in self.parameters.items():
            master = self.masters[name]
            if master is not parameter and parameter.grad is not None:
                master.grad, parameter.grad = parameter.grad.float(), None
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._hand_down()
        self.step += 1

    @torch.no_grad()
    def _hand_down(self) -> None:
        """Round the float32 values to the model's own type."""
        for name, parameter in self.parameters.items():
            if self.masters[name] is not parameter:
                parameter.copy_(self.masters[name])

    def facts(self, model: nn.Module) -> dict[str, Any]:
        """How many parameters are trained, and the loss over the first and the last tenth of the steps."""
        count = sum(one.numel() for one in self.parameters.values())
        part = max(1, self.schedule.steps // 10)
        return {
            "trained": count,
            "share": count / sum(one.numel() for one in model.parameters()),
            "loss_first": sum(self.losses[:part]) / part,
            "loss_last": sum(self.losses[-part:]) / part,
        }

    def save(self, file: Path, moments: bool = True) -> None:
        """Write a checkpoint, whole or not at all; without the optimizer's moments once all is done."""
        tensors = {f"value.{name}": one.detach().contiguous() for name, one in self.masters.items()}
        for name, one in self.masters.items():
            state = self.optimizer.state.get(one, {})
            tensors |= {
                f"{kind}.{name}": state[kind].contiguous() for kind in MOMENTS if moments and kind in state
            }
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        save_file(tensors, part, {"steps": str(self.schedule.steps), "step": str(self.step)})
        part.replace(file)

    @torch.no_grad()
    def restore(self, file: Path) -> None:
        """Resume from a checkpoint, if it is there. Raises CellFailed for one of another run."""
        if not file.is_file():
            return
        with safe_open(file, "pt") as held:
            facts, names = held.metadata(), set(held.keys())
            known = {name.removeprefix("value.") for name in names if name.startswith("value.")}
            if known != set(self.masters) or facts["steps"] != str(self.schedule.steps):
                raise CellFailed(f"{file} is the checkpoint of another training; delete it and run again")
            for name, one in self.masters.items():
                one.copy_(held.get_tensor(f"value.{name}"))
                if f"{MOMENTS[0]}.{name}" in names:
                    state: dict[str, Any] = {
                        kind: held.get_tensor(f"{kind}.{name}").to(one.device) for kind in MOMENTS
                    }
                    state["step"] = state["step"].cpu()  # a late adapter has fewer steps than the rest
                    self.optimizer.state[one] = state
            self.losses = held.get_tensor("losses").tolist()
        self.step = int(facts["step"])
        self._hand_down()
