"""PASER: text to train on by what pruning took.

Bowei He, Lihao Yin, Hui-Ling Zhen, Xiaokun Zhang, Mingxuan Yuan, Chen Ma: PASER: Post-Training Data Selection
for Efficient Pruned Large Language Model Recovery. 2025, arXiv 2502.12594; code github.com/BokwaiHo/PASER.
Texts are grouped by their embeddings (diffusion kernel, non-negative factors), each group has a share of the
budget by its mean divergence of the pruned model's next tokens from the dense model's, and inside a group
those come first that diverge most for their cost, if their known concepts have met before.

Deviations, `rules: ours`: windows of one length from a corpus in place of instructions, so that all cost the
same; the divergence is per token, where theirs is summed over the prompt alone; the symmetric Laplacian,
where theirs gives another to a symmetric solver; budgets by largest remainders and no larger than their
group, where theirs leaves some unspent; concepts are a window's three most distinctive words, where theirs
are all of its phrases, of which two that never met are in nearly every window; and where too few windows are
consistent, the best of the others fill the budget. The controls are windows at random, and `select: length`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from kick.compress.context import Texts
from kick.errors import CellFailed
from kick.model.structure import device_of
from kick.recover.minilm import embedded

CLUSTERS = 10
CONCEPTS = 3  # words of a window
LEAST = 4  # windows per group, on average
Rules = Literal["ours", "authors"]


def divergence(pruned: Tensor, dense: Tensor, rules: Rules = "ours") -> float:
    """The Jensen-Shannon divergence of next tokens, logits (n, tokens, vocabulary), in nats: per token, or
    by the authors' rules summed over tokens."""
    p, q = pruned.log_softmax(-1), dense.log_softmax(-1)
    middle = torch.logaddexp(p, q) - math.log(2)
    total = 0.5 * (p.exp() * (p - middle) + q.exp() * (q - middle)).sum(-1)
    return float(total.sum() if rules == "authors" else total.mean())


def efficiency(lost: float, length: int) -> float:
    """What a text of this length gives for its cost, the square of the length."""
    return lost / math.log(length**2)


def allocate(
    budget: int, lost: Mapping[int, float], rules: Rules = "ours", sizes: Mapping[int, int] | None = None
) -> dict[int, int]:
    """The budget of each group by its mean divergence. The authors round down; ours are by largest
    remainders, none above its group's size, and spend the whole budget if the groups have that many."""
    whole = sum(lost.values())
    exact = {group: budget * one / whole for group, one in lost.items()}
    found = {group: int(one) for group, one in exact.items()}
    if rules == "authors":
        return found
    for group in sorted(exact, key=lambda group: found[group] - exact[group])[: budget - sum(found.values())]:
        found[group] += 1
    over = {group for group in found if sizes is not None and found[group] > sizes[group]}
    rest = {group: one for group, one in lost.items() if group not in over}
    if not over or sizes is None:
        return found
    full = {group: sizes[group] for group in over}
    if not rest or not sum(rest.values()):
        return found | full
    return full | allocate(budget - sum(full.values()), rest, rules, sizes)


class Concepts:
    """Concepts that were in a text together."""

    def __init__(self) -> None:
        self._met: dict[str, set[str]] = defaultdict(set)

    def consistent(self, concepts: Iterable[str]) -> bool:
        """Whether all of these that are known have met each other."""
        known = [one for one in concepts if one in self._met]
        return all(two in self._met[one] for one, two in combinations(known, 2))

    def add(self, concepts: Iterable[str]) -> None:
        """These have met."""
        for one, two in combinations(sorted(set(concepts)), 2):
            self._met[one].add(two)
            self._met[two].add(one)


def grouped(embeddings: Tensor, groups: int) -> list[int]:
    """The group of each text: a diffusion kernel of median width, its smoothest vectors, and the largest of
    the non-negative factors of what they share."""
    from sklearn.decomposition import NMF

    distances = torch.cdist(embeddings.double(), embeddings.double())
    kernel = torch.exp(-distances.square() / (2 * distances.median().clamp_min(1e-12).square()))
    scale = kernel.sum(1).rsqrt()
    laplacian = torch.eye(len(kernel), dtype=torch.float64) - scale[:, None] * kernel * scale
    vectors = torch.linalg.eigh(laplacian).eigenvectors[:, :groups]
    shared = (vectors @ vectors.T).abs().numpy()
    factors = NMF(groups, init="random", random_state=0, max_iter=2000, tol=1e-3).fit_transform(shared)
    return [int(one) for one in np.argmax(factors, axis=1)]


def distinctive(texts: Sequence[str], count: int = CONCEPTS) -> list[set[str]]:
    """The words of each text that are the most distinctive of it among these texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(stop_words="english", token_pattern=r"(?u)\b[^\W\d_]{2,}\b")
    weights = vectorizer.fit_transform(texts).toarray()
    words = vectorizer.get_feature_names_out()
    return [{str(words[n]) for n in np.argsort(-row, kind="stable")[:count] if row[n]} for row in weights]


def spend(
    groups: Sequence[int], worth: Sequence[float], concepts: Sequence[set[str]], budgets: Mapping[int, int]
) -> tuple[list[int], int]:
    """The places of the texts that are kept, and how many of them are not consistent with the others."""
    met, kept, others = Concepts(), list[int](), 0
    for group, budget in sorted(budgets.items()):
        ranked = sorted((n for n, own in enumerate(groups) if own == group), key=lambda n: -worth[n])
        taken = list[int]()
        for place in ranked:
            if len(taken) < budget and met.consistent(concepts[place]):
                taken.append(place)
                met.add(concepts[place])
        rest = [place for place in ranked if place not in taken][: budget - len(taken)]
        others += len(rest)
        kept += taken + rest
    return sorted(kept), others


class Paser:
    """Keeps windows of a corpus for a pruned model; `facts` afterwards: how, as JSON values."""

    def __init__(
        self,
        texts: Texts,
        pruned: Any,
        embed: Callable[[Sequence[str]], Tensor] = embedded,
    ):
        self.texts, self.pruned, self.embed = texts, pruned, embed
        self.facts: dict[str, Any] = {}

    def __call__(self, windows: Sequence[Tensor], count: int) -> list[int]:
        """The places of `count` windows (1, length).

        Raises KickError without the package that embeds texts, CellFailed if the models do not differ.
        """
        words = [self.texts.text(window) for window in windows]
        embeddings = self.embed(words)
        lost = self._lost(windows)
        if not 0 < sum(lost) < math.inf:
            raise CellFailed(
                "the pruned model's next tokens do not differ from the dense model's, or are NaN"
            )
        groups = grouped(embeddings, max(1, min(CLUSTERS, len(windows) // LEAST)))
        members: dict[int, list[float]] = defaultdict(list)
        for group, one in zip(groups, lost, strict=True):
            members[group].append(one)
        means = {group: sum(own) / len(own) for group, own in sorted(members.items())}
        budgets = allocate(count, means, sizes={group: len(own) for group, own in members.items()})
        worth = [efficiency(one, window.shape[-1]) for one, window in zip(lost, windows, strict=True)]
        kept, others = spend(groups, worth, distinctive(words), budgets)
        self.facts = {
            "groups": len(means),
            "divergence": list(means.values()),
            "sizes": [len(members[group]) for group in means],
            "budgets": [budgets[group] for group in means],
            "inconsistent": others,
        }
        return kept

    @torch.no_grad()
    def _lost(self, windows: Sequence[Tensor]) -> list[float]:
        """The divergence of each window. The dense model is loaded for it and let go."""
        dense = self.texts.dense()
        found = []
        for window in windows:
            ids = window.to(device_of(self.pruned))
            logits = [one(ids, use_cache=False).logits.float() for one in (self.pruned, dense)]
            found.append(divergence(*logits))
        return found
