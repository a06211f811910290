"""Last-n: the last blocks are dropped.

Yao Lu, Hao Cheng, Yujie Fang, Zeyu Wang, Jiaheng Wei, Dongwei Xu, Qi Xuan, Xiaoniu Yang, Zhaowei Zhu:
Reassessing Layer Pruning in LLMs: New Insights and Methods. 2024, arXiv 2411.15558. The paper fine-tunes
the head and the last layers afterwards; that is not part of this method.

`blocks: l3` picks how many as L3Prune does (Thennal D K, Tim Fischer, Chris Biemann: Large Language Models
Are Overparameterized Text Encoders, 2024, arXiv 2410.14578): each prefix of the blocks is tried as an encoder
of text, its states through the model's last norm, pooled with weights 1, 2, ..., n over the tokens. The
prefix with the lowest contrastive loss (cosine times 20) is kept: of the first half of the blocks with
`keep: small`, of the second with `keep: large`. That is a choice for embeddings, not for a language model.

Deviations: the published pairs are 100 batches of 64 questions with an answer and a hard negative each. Ours
are the two halves of each calibration sequence, run apart, without hard negatives, in batches of at most 64.
Nothing is trained afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kick.compress.context import Calibration, calibration_of, tokens
from kick.compress.depth import check_depth, drop, last
from kick.compress.method import method, option
from kick.compress.twin import Form
from kick.errors import CellFailed, KickError, WrongOption
from kick.model import blocks
from kick.model.structure import device_of

BATCH = 64  # pairs whose texts are each other's negatives
SCALE = 20.0  # of cosines


@method(
    "last-n",
    title="Last n layers",
    paper="Lu et al., 2024, arXiv 2411.15558; `blocks` l3: L3Prune, D K et al., 2024, arXiv 2410.14578",
    kind="structure",
    needs=("structure",),
    place=30,
    calibrates="blocks: l3",
)
@dataclass(frozen=True)
class LastN:
    """The last n blocks are dropped; the model is smaller."""

    layers: int = option("how many blocks are dropped; not with blocks: l3", 0, low=1)
    blocks: str = option(
        "what says how many: `layers`, or a contrastive loss on calibration text (L3Prune)", "layers",
        choices=("layers", "l3"),
    )  # fmt: skip
    keep: str = option(
        "with blocks: l3, the best of the first (small) or of the second half (large)", "large",
        choices=("large", "small"),
    )  # fmt: skip

    @classmethod
    def complete(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options as given. Raises ValueError if nothing says how many blocks, WrongOption if two do."""
        chosen = options.get("blocks", "layers")
        if chosen == "layers" and "layers" not in options:
            raise ValueError("last-n needs the option 'layers': how many blocks are dropped; or blocks: l3")
        if chosen == "l3" and "layers" in options and options["layers"] != 0:
            raise WrongOption("last-n: blocks: l3 says how many blocks; remove the option 'layers'", "layers")
        if chosen == "layers" and options.get("keep", "large") != "large":
            raise WrongOption("last-n: the option 'keep' is for blocks: l3; remove it", "keep")
        return {key: value for key, value in options.items() if chosen != "l3" or key != "layers"}

    def check(self, model: nn.Module) -> None:
        """Raises KickError if the model has no more blocks than that, or too few to have halves."""
        if self.blocks == "layers":
            check_depth(model, self.layers)
        elif (count := len(blocks(model))) < 2:
            raise KickError(f"last-n: blocks: l3 chooses in one half of the blocks; expected 2, got {count}")

    def forms(self, model: nn.Module) -> list[Form]:
        """What the model becomes, or may become."""
        if self.blocks == "layers":
            return last(model, self.layers)
        count = len(blocks(model))
        return [form for kept in half(count, self.keep) for form in last(model, count - kept)]

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration, count = calibration_of(calibration), len(blocks(model))
        kept = count - self.layers
        if self.blocks == "l3":
            losses = losses_by_depth(model, calibration)
            calibration.note("contrastive loss", values=[round(value, 6) for value in losses])
            kept = best(losses, self.keep)
        drop(model, range(kept, count), calibration)


def half(count: int, keep: str) -> range:
    """The numbers of blocks, of so many, that may be kept."""
    return range(1, count // 2 + 1) if keep == "small" else range(count // 2 + 1, count + 1)


def best(losses: Sequence[float], keep: str) -> int:
    """How many blocks to keep, of the losses with the first one, two, ... of them; the fewest of equals."""
    return min(half(len(losses), keep), key=lambda kept: losses[kept - 1])


def losses_by_depth(model: nn.Module, calibration: Calibration) -> list[float]:
    """The mean contrastive loss of the halves of sequences, with the first one, two, ... blocks alone.

    Raises CellFailed for fewer than two sequences, one of a single token, and NaN or infinity.
    """
    if len(calibration) < 2 or any(ids.shape[1] < 2 for ids in calibration):
        raise CellFailed("last-n: blocks: l3 compares halves of at least 2 calibration sequences of 2 tokens")
    first, second = [], []
    for ids in tokens(calibration, device_of(model)):
        middle = ids.shape[1] // 2
        first.append(encoded(model, ids[:, :middle]))
        second.append(encoded(model, ids[:, middle:]))
        calibration.passes.forward += 2
    queries, texts = torch.stack(first, dim=1), torch.stack(second, dim=1)  # (blocks, sequences, hidden)
    losses = []
    for depth, (query, text) in enumerate(zip(queries, texts, strict=True), 1):
        pairs = zip(query.split(BATCH), text.split(BATCH), strict=True)
        losses.append(sum(float(contrastive(*pair)) * len(pair[0]) for pair in pairs) / len(query))
        if not losses[-1] < float("inf"):
            raise CellFailed(f"the contrastive loss of the first {depth} blocks is NaN or infinite")
    return losses


@torch.no_grad()
def encoded(model: Any, ids: Tensor) -> Tensor:
    """A text (1, tokens) as each prefix of the blocks encodes it, through the last norm: (blocks, hidden)."""
    outputs: list[Any] = []
    modules = blocks(model)
    handles = [one.register_forward_hook(lambda *seen: outputs.append(seen[2])) for one in modules]
    try:
        model.base_model(ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    pooled = []
    for output in outputs:
        with giving(modules, output):
            pooled.append(weighted_mean(model.base_model(ids, use_cache=False)[0])[0])
    return torch.stack(pooled)


@contextmanager
def giving(modules: Sequence[nn.Module], output: Any) -> Iterator[None]:
    """While open, each of the blocks gives this, whatever it is called with."""
    for module in modules:
        module.forward = lambda *_args, **_kwargs: output
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def weighted_mean(hidden: Tensor, mask: Tensor | None = None) -> Tensor:
    """States (texts, tokens, hidden) as one each: the n-th token in the mask (texts, tokens) n times."""
    hidden = hidden.float()
    weights = (torch.ones_like(hidden[..., 0]) if mask is None else mask.float()).cumsum(dim=1)
    weights = weights if mask is None else weights * mask
    return (hidden * weights[..., None]).sum(dim=1) / weights.sum(dim=1, keepdim=True)


def contrastive(queries: Tensor, texts: Tensor, negatives: Tensor | None = None) -> Tensor:
    """The mean over queries (n, hidden) of -log softmax of their own text's score among all texts' (InfoNCE).

    A score is 20 times the cosine; negatives (m, hidden) are further texts.
    """
    every = texts if negatives is None else torch.cat([texts, negatives])
    scores = SCALE * nn.functional.normalize(queries, dim=-1) @ nn.functional.normalize(every, dim=-1).t()
    return nn.functional.cross_entropy(scores, torch.arange(len(queries), device=scores.device))
