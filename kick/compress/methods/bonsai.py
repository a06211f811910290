"""Bonsai: heads and channels are removed by what the loss is without them, from forward passes alone.

Lucio Dery, Steven Kolawole, Jean-François Kagy, Virginia Smith, Graham Neubig, Ameet Talwalkar: Everybody
Prune Now: Structured Pruning of LLMs with only Forward Passes. 2024, arXiv 2402.05406. In a round each unit
has a prior: the mean absolute weight that reads it times the root mean square of its input. The units with
the highest priors stay on; of the others some are switched off in all modules at once, drawn by how far their
prior is below the highest, and then their complement. The loss is regressed on what was on: a unit's
coefficient is its importance, and the least important go. The next round starts from the smaller model.

Deviations: minimum-norm least squares, or ridge regression, in place of a linear model that Adam fits with an
L1 penalty chosen by cross-validation (it ranks alike and is reproducible); the loss is regressed, not the
perplexity, which one bad mask dominates (`regress: perplexity` is the published form); a round's part is of
the dense blocks, units are fixed by their part of what is left, and units that do not fit into a round's
budget are passed over, so that the share is met; heads go in groups that share a key/value head; no
fine-tuning.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kick.compress import uneven
from kick.compress.calibrate.statistics import InputNorm
from kick.compress.calibrate.walk import walk
from kick.compress.context import Calibration, calibration_of
from kick.compress.coupled import Coupled, coupled, structures
from kick.compress.method import method, option
from kick.compress.switches import On, batched, losses_with
from kick.compress.widths import KeptWidths, narrow
from kick.model import blocks
from kick.model.structure import device_of

LARGEST = 1e8  # perplexities above it count as it in the regression


@dataclass(frozen=True, eq=False)
class Candidates:
    """Units of one module, (n,): which may be switched off, how likely each is, how many are at a time."""

    places: Tensor
    chance: Tensor
    off: int

    def draw(self) -> Tensor:
        """Which of the candidates stay on, (candidates,) bool: `off` of them do not."""
        noise = -torch.log(-torch.log(torch.rand(len(self.places), dtype=torch.float64)))
        keys = self.chance[self.places].log() + noise  # the largest are a draw without replacement
        on = torch.ones(len(self.places), dtype=torch.bool)
        on[keys.argsort(descending=True, stable=True)[: self.off]] = False
        return on


@method(
    "bonsai",
    title="Bonsai",
    version=2,  # losses are computed with matrices laid out for the processor
    paper="Dery et al., 2024, arXiv 2402.05406",
    kind="structure",
    needs=("calibration", "structure"),
    feeds_forward=True,
    place=24,
    serves="Llama, Qwen3, Gemma 2, Gemma 3, OPT, GPT-2, GPT-NeoX, Phi-3",
)
@dataclass(frozen=True)
class Bonsai(uneven.UnevenWidths):
    """Heads and channels are removed by what the loss is without them; forward passes alone."""

    share: float = option("of the weights of all blocks that is removed", low=0, high=0.9)
    part: float = option("of the dense blocks' weights that goes in a round", 0.05, low=0.001, high=0.2)
    pairs: int = option("of masks in a round: a draw and its complement", 100, low=1)
    sequences: int = option(
        "that each mask is measured on, others in each round if there are more", 32, low=1
    )
    regress: str = option("on what is on", "loss", choices=("loss", "perplexity"))
    ridge: float = option("penalty of the regression; 0 is minimum-norm least squares", 0.0, low=0)

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        whole = _weights(model)
        rounds = math.ceil(self.share / self.part - 1e-9)
        for number in range(1, rounds + 1):
            left = _weights(model)
            budget = int(self.share * whole * number / rounds + 1e-6) - (whole - left)
            self._round(model, calibration, budget, min(budget / left, 0.5))
            calibration.memory = None  # later rounds do not measure the dense model

    def _round(self, model: nn.Module, calibration: Calibration, budget: int, part: float) -> None:
        """Remove units of so many weights."""
        found, modules = structures(model), []
        for one in _priors(model, calibration):
            modules += [candidates(prior, part) for prior in one]
        chosen = torch.randperm(len(calibration))[: self.sequences].tolist()
        batches = batched([calibration[place] for place in chosen], device_of(model))
        drawn = []
        for _ in range(self.pairs):
            first = [module.draw() for module in modules]
            drawn += [first, [~mask for mask in first]]
        losses = losses_with(model, found, batches, (_pairs(modules, masks) for masks in drawn))
        calibration.passes.forward += len(chosen) * len(drawn)
        values = [
            -loss if self.regress == "loss" else -min(math.exp(min(loss, 700)), LARGEST) for loss in losses
        ]
        goal = torch.tensor(values, dtype=torch.float64)
        scores = regression(torch.stack([torch.cat(masks) for masks in drawn]), goal, self.ridge)
        _remove(model, found, modules, scores, budget)


def _weights(model: nn.Module) -> int:
    return sum(one.size.weights for one in structures(model))


def _priors(model: nn.Module, calibration: Calibration) -> Iterator[tuple[Tensor, Tensor]]:
    """The priors of each block's groups and channels."""
    for block in walk(model, calibration, looks=True):
        structure = coupled(block.module, model)
        found = block.measure(InputNorm, structure.readers)
        yield _scores(structure, found)


def _scores(structure: Coupled, found: Mapping[str, InputNorm]) -> tuple[Tensor, Tensor]:
    return structure.scores(lambda linear: prior(linear.weight, found[linear.name]))


def prior(weight: Tensor, found: InputNorm) -> Tensor:
    """(in,): the mean over outputs of the absolute weights times the input's root mean square."""
    return weight.float().abs().mean(dim=0) * (found.tensors["squares"] / found.tokens).sqrt()


def candidates(priors: Tensor, part: float) -> Candidates:
    """Which units of a module (n,) may be switched off: all but the highest 1 - 2 part, at least one."""
    count = len(priors)
    fixed = min(max(int(count * (1 - 2 * part)), 1), count)
    places = priors.argsort(descending=True, stable=True)[fixed:].cpu()
    chance = (priors.max() - priors).double().cpu()
    inside = torch.zeros_like(chance)
    inside[places] = chance[places]
    total = inside.sum()
    inside = inside / total if total > 0 else inside
    return Candidates(places, inside, min(int(count * part) + 1, len(places)))


def _pairs(modules: Sequence[Candidates], masks: Sequence[Tensor]) -> On:
    """What is on of each block's groups and channels, of the candidates that are."""
    whole = []
    for module, mask in zip(modules, masks, strict=True):
        on = torch.ones(len(module.chance))
        on[module.places] = mask.float()
        whole.append(on)
    return list(zip(whole[::2], whole[1::2], strict=True))


def regression(masks: Tensor, values: Tensor, ridge: float = 0.0) -> Tensor:
    """(units,): the coefficients of what is on, (masks, units), in the values (masks,), with a constant.

    Least squares of the smallest norm, or with a penalty on the squares.
    """
    centred = masks.double() - masks.double().mean(dim=0)
    goal = (values - values.mean())[:, None]
    if ridge:
        gram = centred @ centred.t()
        gram.diagonal().add_(ridge)
        return (centred.t() @ torch.linalg.solve(gram, goal))[:, 0]
    return torch.linalg.lstsq(centred, goal, driver="gelsd").solution[:, 0]


def within(scores: Tensor, weights: Sequence[int], budget: int, fill: bool = True) -> list[int]:
    """The places of the units to remove: the lowest scores whose weights fit into the budget.

    fill: pass over those that do not fit; else the first that does not fit ends it, as published.
    """
    gone, left = [], budget
    for place in scores.argsort(stable=True).tolist():
        if weights[place] <= left:
            gone.append(place)
            left -= weights[place]
        elif not fill:
            break
    return gone


def _remove(
    model: nn.Module, found: Sequence[Coupled], modules: Sequence[Candidates], scores: Tensor, budget: int
) -> None:
    """Cut the least important candidates out of each block."""
    sizes = [one.size for one in found]
    each = [weights for size in sizes for weights in (size.group_weights, size.channel_weights)]
    units = [(number, int(place)) for number, module in enumerate(modules) for place in module.places]
    stays = [torch.ones(len(module.chance), dtype=torch.bool) for module in modules]
    for place in within(scores, [each[number] for number, _ in units], budget):
        number, unit = units[place]
        stays[number][unit] = False
    device = device_of(model)
    for block, structure, groups, channels in zip(blocks(model), found, stays[::2], stays[1::2], strict=True):
        if not (groups.all() and channels.all()):
            narrow(block, structure, KeptWidths.where(groups, channels, device))
