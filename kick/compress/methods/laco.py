"""LaCo: blocks collapse into the one before them while the model's last hidden states stay alike.

Yifei Yang, Zouying Cao, Hai Zhao: LaCo: Large Language Model Pruning via Layer Collapse. EMNLP 2024
Findings, arXiv 2402.11187. From the top down, `merge` blocks become one, theta_l + the sum of (theta_{l+k}
- theta_l), and stay so where the last hidden states of the merged and the dense model have a mean cosine
above `threshold`; the next try is `interval` blocks further down then, else one. Where nothing could be
merged the variant fails: it would be the dense model under another name.

Deviations: the search may end as soon as `layers` blocks are gone (0: as far as the threshold allows); the
cosine is the mean over all tokens of `sentences` calibration sequences, where the paper takes a few
sentences, and is taken before the model's last norm, where the published code takes it after; norms are
merged as all other weights are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kick.compress.context import Calibration, calibration_of
from kick.compress.depth import Stack, check_depth, forms, last_states
from kick.compress.method import method, option
from kick.compress.twin import Form
from kick.errors import CellFailed, KickError
from kick.model import blocks


@method(
    "laco",
    title="LaCo",
    paper="Yang et al., EMNLP 2024 Findings, arXiv 2402.11187",
    kind="structure",
    needs=("calibration", "structure"),
    place=50,
)
@dataclass(frozen=True)
class LaCo:
    """Blocks collapse into the one before while last hidden states stay alike; the model is smaller."""

    layers: int = option("stop when so many blocks are gone; 0: as far as the threshold allows", 0, low=0)
    merge: int = option("blocks that become one", 3, low=2)
    threshold: float = option("least mean cosine of the last hidden states", 0.65, low=-1, high=1)
    interval: int = option("blocks to go down after a merge", 2, low=1)
    lowest: int = option("the first block that may take in others, counted from 0", 1, low=0)
    sentences: int = option("calibration sequences that are looked at", 4, low=1)

    def check(self, model: nn.Module) -> None:
        """Raises KickError if the model has no more blocks than that, or none alike beside each other."""
        check_depth(model, self.layers)
        modules, merged = blocks(model), min(self.merge, (self.layers or self.merge) + 1)
        places = range(self.lowest, len(modules) - self.merge + 1)
        if places and not any(alike(modules[at : at + merged]) for at in places):
            raise KickError(
                f"{type(model).__name__} has no {merged} blocks in a row whose weights have the same shapes, "
                "which laco merges; choose shortgpt or last-n"
            )

    def forms(self, model: nn.Module) -> list[Form]:
        """What the model may become; where the threshold decides how often, after one merge."""
        return forms(model, self.layers or self.merge - 1)

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        before = last_states(model, calibration, self.sentences)
        count = len(blocks(model))
        least = count - self.layers if self.layers else 1
        names = list(range(count))  # where each block stood in the dense model
        at = count - self.merge
        best = -1.0
        while at >= self.lowest and len(names) > least:
            gone = range(at + 1, at + 1 + min(self.merge - 1, len(names) - 1 - at, len(names) - least))
            able = len(gone) > 0 and alike(blocks(model)[at : gone.stop])
            cosine = self._collapse(model, at, gone, calibration, before) if able else -1.0
            best = max(best, cosine)
            if cosine > self.threshold:
                calibration.note("merged layers", into=names[at], taken=[names[index] for index in gone])
                del names[gone.start : gone.stop]
                at -= self.interval
            else:
                at -= 1
        if len(names) == count:
            raise CellFailed(
                f"laco merged nothing: the best of all merges of {self.merge} blocks has cosine {best:.2f}, "
                f"not above threshold {self.threshold:g}; lower it, or merge fewer blocks at once"
            )

    def _collapse(
        self, model: nn.Module, at: int, gone: range, calibration: Calibration, before: list[Tensor]
    ) -> float:
        """Merge blocks into the one `at`; undone where the mean cosine, which it gives, is too small."""
        stack = Stack.of(model)
        target = stack.blocks[at]
        others = [stack.blocks[index].state_dict() for index in gone]
        kept = {name: value.clone() for name, value in target.state_dict().items()}
        merged = {name: value + sum(other[name] - value for other in others) for name, value in kept.items()}
        target.load_state_dict(merged)
        stack.without(gone).place(model)
        after = last_states(model, calibration, self.sentences)
        pairs = zip(before, after, strict=True)
        cosines = [nn.functional.cosine_similarity(a.float(), b.float(), dim=-1) for a, b in pairs]
        cosine = float(torch.cat(cosines).mean())
        if not cosine > self.threshold:
            target.load_state_dict(kept)
            stack.place(model)
        return cosine


def alike(modules: Sequence[nn.Module]) -> bool:
    """Whether blocks have weights of the same names and shapes, so that differences can be added."""
    shapes = [{name: value.shape for name, value in one.state_dict().items()} for one in modules]
    return all(one == shapes[0] for one in shapes)
