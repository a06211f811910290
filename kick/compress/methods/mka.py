"""MKA: neighbouring blocks whose states lie alike on a manifold are merged into one.

Deyuan Liu, Zhanyue Qin, Hairu Wang, Zhao Yang, Zecheng Wang, Fangying Rong, Qingbin Liu, Yanchao Hao, Xi
Chen, Cunhang Fan, Zhao Lv, Zhiying Tu, Dianhui Chu, Bo Li, Dianbo Sui: Pruning via Merging: Compressing LLMs
via Manifold Alignment Based Layer Merging. 2024, arXiv 2406.16330. A block's output at the last token of each
sample is embedded in a plane by a diffusion map and replaced by its ranks. Two blocks are as alike as the
mutual information of their planes over the geometric mean of both entropies says (NPIB). The most similar
neighbours become one, w = a w_l + (1 - a) w_m, until `layers` blocks are gone; all is measured anew after
each merge.

Deviations from the published code, which is not what the paper says: it merges into a dictionary that never
reaches the model, and so drops layers; takes the last two blocks whatever the similarities are; looks at the
tokens of the first sample instead of all samples; and calibrates on the questions of MMLU's test set. Its
weight, `weight: published`, is the logistic of the pair's share of the mean similarities, 0.62 always; the
paper's, `similarity`, is the NPIB itself, here limited to 0 to 1. Norms are merged as all other weights are,
and the noise that breaks ties is seeded. As the mutual information needs more samples than most calibrations
have sequences, `length` cuts these into shorter ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial import KDTree
from scipy.spatial.distance import pdist, squareform
from scipy.special import digamma
from torch import Tensor, nn

from kick.compress.context import Calibration, calibration_of
from kick.compress.depth import Stack, check_depth, forms, outputs_of, run
from kick.compress.method import method, option
from kick.compress.twin import Form
from kick.errors import CellFailed, KickError
from kick.model import blocks

SIGMA = 8.0  # of the kernel
TIES = 1e-10  # size of the noise that breaks ties, of a column's scale


@method(
    "mka",
    title="MKA",
    paper="Liu et al., 2024, arXiv 2406.16330",
    kind="structure",
    needs=("calibration", "structure"),
    place=60,
)
@dataclass(frozen=True)
class Mka:
    """Neighbouring blocks with the most similar states are merged; the model is smaller."""

    layers: int = option("how many blocks are merged into their neighbours", low=1)
    weight: str = option(
        "of the lower block in a merge", "similarity", choices=("similarity", "published", "fixed")
    )
    ratio: float = option("the lower block's weight with `weight: fixed`", 0.5, low=0, high=1)
    length: int = option("tokens per sample: sequences are cut; 0: whole sequences", 0, low=0)
    neighbours: int = option("of a sample, for the mutual information", 5, low=1)
    entropy_neighbours: int = option("of a sample, for the entropy; fewer than samples", 50, low=1)

    def check(self, model: nn.Module) -> None:
        """Raises KickError if so many blocks cannot be merged into neighbours of the same kind."""
        check_depth(model, self.layers)
        stack = Stack.of(model)
        alike = sum(mergeable(stack, lower) for lower in range(len(stack.blocks) - 1))
        if alike < self.layers:
            raise KickError(
                f"only {alike} blocks of {type(model).__name__} are followed by one of the same kind; mka "
                f"cannot merge {self.layers}; choose shortgpt or last-n, which drop whole layers"
            )

    def forms(self, model: nn.Module) -> list[Form]:
        """What the model may become."""
        return forms(model, self.layers)

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        samples = self._samples(calibration)
        names = list(range(len(blocks(model))))  # where each block stood in the dense model
        for _ in range(self.layers):
            stack = Stack.of(model)
            alike = self._similarities(last_token_states(model, samples))
            able = [i for i in range(len(names) - 1) if mergeable(stack, i)]
            lower = max(able, key=lambda i: alike[i, i + 1])
            ratio = self._ratio(alike, lower)
            merge(stack.blocks[lower], stack.blocks[lower + 1], ratio)
            stack.without({lower + 1}).place(model)
            facts = {"similarity": round(float(alike[lower, lower + 1]), 6), "weight": round(ratio, 6)}
            calibration.note("merged layers", into=names[lower], taken=[names[lower + 1]], **facts)
            del names[lower + 1]

    def _samples(self, calibration: Calibration) -> Calibration:
        """The sequences, cut to samples. Raises CellFailed if those are too few."""
        parts = [part for whole in calibration for part in whole.split(self.length or whole.shape[1], dim=1)]
        parts = [part for part in parts if part.shape[1] >= self.length]
        least = max(self.entropy_neighbours, self.neighbours) + 1
        if len(parts) < least:
            raise CellFailed(
                f"mka has {len(parts)} samples, and its estimates need {least}: more than "
                "`entropy_neighbours`; use more sequences, or `length` to cut them into shorter ones"
            )
        return replace(calibration, sequences=tuple(parts))

    def _similarities(self, states: list[np.ndarray]) -> np.ndarray:
        """(blocks, blocks): the NPIB of each pair that the choice and the weight look at, else 0."""
        ranked = [ranks(embedding(one)) for one in states]
        entropies = [entropy(one, self.entropy_neighbours) for one in ranked]
        count = len(ranked)
        found = np.zeros((count, count))
        for i in range(count):
            for j in range(i, count) if self.weight == "published" else range(i + 1, min(i + 2, count)):
                found[i, j] = found[j, i] = npib(
                    ranked[i], ranked[j], entropies[i], entropies[j], self.neighbours
                )
        return found

    def _ratio(self, alike: np.ndarray, lower: int) -> float:
        if self.weight == "fixed":
            return self.ratio
        if self.weight == "published":
            return published_ratio(alike, lower, lower + 1)
        return float(np.clip(alike[lower, lower + 1], 0, 1))


def mergeable(stack: Stack, lower: int) -> bool:
    """Whether a block and the next are of the same kind: settings and the shapes of all weights."""
    if any(one[lower] != one[lower + 1] for one in stack.each.values()):
        return False
    first, second = (
        {name: value.shape for name, value in stack.blocks[i].state_dict().items()}
        for i in (lower, lower + 1)
    )
    return first == second


@torch.no_grad()
def merge(lower: nn.Module, upper: nn.Module, ratio: float) -> None:
    """Make the lower block's weights `ratio` times its own plus (1 - ratio) times the upper's, in place."""
    others = upper.state_dict()
    for name, value in lower.state_dict().items():
        if value.is_floating_point():
            value.copy_(ratio * value.double() + (1 - ratio) * others[name].double())


def last_token_states(model: nn.Module, samples: Calibration) -> list[np.ndarray]:
    """Each block's output at the last token of each sample, (samples, hidden), float64."""
    modules = blocks(model)
    found: list[list[Tensor]] = [[] for _ in modules]
    with outputs_of(modules, lambda index, _before, after: found[index].append(after[:, -1].double())):
        run(model, samples)
    states = [torch.cat(one).cpu().numpy() for one in found]
    for index, one in enumerate(states):
        if not np.isfinite(one).all():
            raise CellFailed(f"block {index} gives NaN or infinity on the calibration data")
    return states


def embedding(states: np.ndarray) -> np.ndarray:
    """(samples, 2): the diffusion map of states (samples, hidden); the sign of a column is arbitrary."""
    kernel = np.exp(-np.sqrt(squareform(pdist(states)) / SIGMA))
    for _ in range(2):
        root = np.sqrt(kernel.sum(axis=0))
        kernel = kernel / np.outer(root, root)
    vectors = np.linalg.svd(kernel)[0]
    return vectors[:, 1:3] / vectors[:, :1]


def ranks(plane: np.ndarray) -> np.ndarray:
    """Each column's ranks, from 0, over their number."""
    return plane.argsort(axis=0, kind="stable").argsort(axis=0) / len(plane)


def entropy(plane: np.ndarray, neighbours: int) -> float:
    """Minus the mean log density (samples, 2), up to a constant, from the distance to the k-th neighbour."""
    distance = _to_neighbour(plane, neighbours, 2)
    return float(np.mean(np.log(distance**2 * len(plane) / neighbours)))


def npib(first: np.ndarray, second: np.ndarray, entropy1: float, entropy2: float, neighbours: int) -> float:
    """The mean mutual information of two planes' coordinates over the geometric mean of their entropies.

    Raises CellFailed where their product is not positive: there is no such mean.
    """
    if not entropy1 * entropy2 > 0:
        raise CellFailed(f"mka has no similarity of blocks with entropies {entropy1:.3g} and {entropy2:.3g}")
    pairs = [(first[:, i], second[:, j]) for i in range(2) for j in range(2)]
    information = [mutual_information(x, y, neighbours) for x, y in pairs]
    return float(np.mean(information)) / math.sqrt(entropy1 * entropy2)


def mutual_information(x: np.ndarray, y: np.ndarray, neighbours: int) -> float:
    """In nats, of two columns (samples,), by the distance to the k-th neighbour (Kraskov et al. 2004)."""
    noise = np.random.default_rng(0)
    columns = [one / one.std() for one in (x, y)]
    columns = [(one + TIES * noise.standard_normal(len(one)))[:, None] for one in columns]
    radius = _to_neighbour(np.hstack(columns), neighbours, math.inf)
    inside = np.nextafter(radius, 0)
    near = [KDTree(one).query_ball_point(one, inside, p=np.inf, return_length=True) for one in columns]
    gained = digamma(len(x)) + digamma(neighbours) - sum(float(np.mean(digamma(count))) for count in near)
    return max(0.0, float(gained))


def _to_neighbour(points: np.ndarray, number: int, p: float) -> np.ndarray:
    """(samples,): each point's distance to its neighbour of that number, in the p-norm."""
    distances = np.asarray(KDTree(points).query(points, number + 1, p=p)[0])
    return distances[:, -1]


def published_ratio(alike: np.ndarray, lower: int, upper: int) -> float:
    """The lower block's weight of the published code: the logistic of its share of the mean similarities."""
    means = alike.mean(axis=1)
    return 1 / (1 + math.exp(-means[lower] / (means[lower] + means[upper])))
