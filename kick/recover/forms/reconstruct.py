"""Block-wise reconstruction: each block is trained to give what its dense weights give on the same inputs.

Max Zimmer, Megi Andoni, Christoph Spiegel, Sebastian Pokutta: PERP: Rethinking the Prune-Retrain Paradigm in
the Era of LLMs. 2023, arXiv 2312.15230. Blocks in order: the mean squared error between the block's output
and the dense block's, both on what the compressed and trained blocks before give; norms or MaskLoRA are
trained. Memory and time are those of one block, and no head is run.

Deviations: windows of `corpus` in place of 128 sequences of C4; each block has the whole schedule of
`tokens`. It needs the dense weights in place: not after structured pruning. A killed run starts again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kick.compress.calibrate.walk import Block, walk
from kick.compress.context import Calibration, calibration_of
from kick.compress.cost import peak
from kick.compress.method import method, methods, option
from kick.errors import CellFailed, KickError
from kick.model.structure import hidden_of
from kick.records import Step
from kick.recover.adapters import adapted_each, check_adapted, merge
from kick.recover.form import Recovery, Trained, texts_of
from kick.recover.forms.masklora import MaskLora
from kick.recover.parameters import freed, norms
from kick.recover.train import TrainingRun, mean_loss

SHOWN = 8  # windows that the error is said of


@method(
    "recover-reconstruct",
    title="Block-wise reconstruction",
    paper="Zimmer et al., 2023, arXiv 2312.15230",
    kind="recover",
    trains=True,
    place=60,
    serves="all but mixtures of experts and Mamba",
)
@dataclass(frozen=True, kw_only=True)
class Reconstruct(Recovery):
    """Each block is trained to give its dense output on the compressed model's inputs; zeros stay."""

    tokens: int = option("how many tokens each block is trained on", 32_768, low=1)
    parts: str = option("what is trained in a block", "masklora", choices=("norms", "masklora"))
    rank: int = option("of MaskLoRA's adapters", 8, low=1)
    alpha: float = option("of MaskLoRA's adapters", 16.0, low=1e-6)

    dense = True  # the dense weights are kept for it

    def follows(self, earlier: Sequence[Step]) -> None:
        """Raises KickError if there is nothing to make up for, or blocks have other shapes."""
        super().follows(earlier)
        if not earlier:
            raise KickError(f"{self.name} makes up for earlier steps: put it after one that prunes")
        for step in earlier:
            if methods[step.method].structured:
                raise KickError(f"{self.name} needs the dense weights in place; not after {step.method}")

    def check(self, model: nn.Module) -> None:
        """Raises KickError if a matrix is used without a call."""
        check_adapted(model, self.name)

    def __call__(self, model: Any, calibration: Sequence[Tensor]) -> None:
        """Train block after block in place, and leave what it took in `calibration.training`."""
        calibration = calibration_of(calibration)
        if calibration.dense is None:
            raise RuntimeError("the dense weights were not kept for recover-reconstruct")
        start, cpu = time.monotonic(), time.process_time()
        windows, heldout, selection = texts_of(calibration, self, model)
        before, errors = mean_loss(model, heldout), list[tuple[float, float]]()
        generator, trained = torch.Generator().manual_seed(self.seed), 0
        feed = Calibration(windows, offload=calibration.offload)
        for block in walk(model, feed, runs=True):
            known = calibration.dense.of(block.index)
            count, *error = self._block(block, known, calibration.masks, generator)
            trained += count
            errors.append((error[0], error[1]))
        calibration.training = {
            "form": "reconstruct",
            "corpus": self.corpus,
            "seed": self.seed,
            "lr": self.lr,
            **selection,
            "tokens": sum(window.numel() for window in windows),
            "steps": self.schedule.steps,
            "trained": trained,
            "share": trained / sum(one.numel() for one in model.parameters()),
            "block_errors": errors,
            "heldout_before": before,
            "heldout_after": mean_loss(model, heldout),
            "seconds": round(time.monotonic() - start, 3),
            "cpu_seconds": round(time.process_time() - cpu, 3),
            "peak_memory": peak(model),
        }

    def _block(
        self,
        block: Block,
        dense: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        generator: torch.Generator,
    ) -> tuple[int, float, float]:
        """Train a block: how many parameters, and its mean squared error on the first windows before and
        after."""
        feed = block.feed
        feed.reach(block.index)
        targets = _outputs(block, dense)
        before = _error(block, targets)
        with self._parts(block, masks, generator) as trained, torch.enable_grad():
            run = TrainingRun(trained.parameters, self.schedule)
            while run.step < self.schedule.steps:
                total = 0.0
                for place in range(run.step * self.batch, (run.step + 1) * self.batch):
                    found = _output(block, place)
                    error = nn.functional.mse_loss(found.float(), targets[place].float()) / self.batch
                    error.backward()
                    total += float(error.detach())
                if not total < float("inf"):
                    raise CellFailed(f"block {block.index}: the error became NaN or infinity in training")
                run.losses.append(total)
                run.advance()
            trained.merge()
        return run.facts(block.module)["trained"], before, _error(block, targets)

    @contextmanager
    def _parts(
        self, block: Block, masks: Mapping[str, Tensor], generator: torch.Generator
    ) -> Iterator[Trained]:
        """While open, the block's norms or adapters of its matrices are trained."""
        if self.parts == "norms":
            own = norms(block.module)
            with freed(own):
                yield Trained(own)
            return
        form = MaskLora(rank=self.rank, alpha=self.alpha)
        named = [(block.full(linear), linear) for linear in block.linears]
        with adapted_each(named, form, masks, generator) as adapters:
            beside = {f"{one.name}.{i}": part for one in adapters for i, part in enumerate(one.parts)}
            yield Trained(beside, lambda: merge(form, adapters))


@torch.no_grad()
def _outputs(block: Block, dense: Mapping[str, Tensor]) -> list[Tensor]:
    """What the block gives on each window with its dense weights; it has its own again afterwards."""
    own = {linear.name: linear.weight.clone() for linear in block.linears}
    for linear in block.linears:
        linear.put(dense[linear.name].to(linear.weight.device))
    found = [_output(block, place) for place in range(len(block.feed.calibration))]
    for linear in block.linears:
        linear.put(own[linear.name])
    return found


@torch.no_grad()
def _error(block: Block, targets: Sequence[Tensor]) -> float:
    """The mean squared error over the first windows."""
    some = targets[:SHOWN]
    errors = [float((_output(block, n).float() - one.float()).square().mean()) for n, one in enumerate(some)]
    return sum(errors) / len(errors)


def _output(block: Block, place: int) -> Tensor:
    args, kwargs = block.feed.calls[place][block.index]
    return hidden_of(block.module(block.feed.states.get(block.index, place), *args, **kwargs))
