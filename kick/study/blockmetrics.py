"""Metrics of a block that are said to tell how much a model loses without it; a larger one is more important.

Yao Lu, Hao Cheng, Yujie Fang, Zeyu Wang, Jiaheng Wei, Dongwei Xu, Qi Xuan, Xiaoniu Yang, Zhaowei Zhu:
Reassessing Layer Pruning in LLMs: New Insights and Methods. 2024, arXiv 2411.15558, compares these:

reverse order       the place from the end: the last block goes first
magnitude l1, l2    the sum of |w|, or of w^2, over the weights of the block's matrices and norms
taylor              the sum of |w g|, g the gradient of the loss summed over sequences
block influence     1 - mean cosine of the block's input and output over tokens (ShortGPT, arXiv 2403.03853)
perplexity          of the model without the block, on the calibration text

angular distance    arccos(cosine) / pi of the block's input and output at the last token of each sequence,
                    as Mix-LN's diagnosis (arXiv 2412.13795) takes it from arXiv 2403.17887, for one block

Deviations from the code of 2411.15558: its block influence is one cosine of all states in one vector, by
which long states count more; its perplexity is taken on WikiText-2's test set. Here all metrics see the
calibration text, which no task asks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kick import model, paths
from kick.compress.calibrate import corpus
from kick.compress.calibrate.gradients import backward, collected
from kick.compress.context import Calibration
from kick.compress.depth import outputs_of
from kick.compress.depth import run as forward
from kick.errors import CellFailed, KickError
from kick.model import blocks
from kick.model.owned import own
from kick.records import CalibrationSpec, ModelSpec, Request
from kick.study.dropping import DropEngine

VERSION = 1
NAMES = (
    "reverse order",
    "magnitude l1",
    "magnitude l2",
    "taylor",
    "block influence",
    "angular distance",
    "perplexity",
)


def measure(spec: ModelSpec, calibration: CalibrationSpec, data_root: str | None) -> dict[str, list[float]]:
    """Every metric of every block of a model, by name. Raises CellFailed for one that is not a number."""
    network, tokenizer = model.load(spec, device=paths.device())
    own(network)
    sequences = [one.to(network.device) for one in corpus.sequences(calibration, tokenizer, data_root)]
    found = of_states(network, sequences) | of_weights(network, sequences)
    found["perplexity"] = perplexities(DropEngine(network, tokenizer), sequences)
    for name in NAMES:
        bad = [str(block) for block, value in enumerate(found[name]) if not math.isfinite(value)]
        if bad:
            raise CellFailed(f"the metric {name!r} is not a number for block {', '.join(bad)}")
    return {name: found[name] for name in NAMES}


def of_states(network: nn.Module, sequences: Sequence[Tensor]) -> dict[str, list[float]]:
    """Block influence over all tokens and angular distance at the last ones; sequences are (1, length)."""
    modules = blocks(network)
    lost, angles = (torch.zeros(len(modules), dtype=torch.float64) for _ in range(2))

    def see(index: int, before: Tensor, after: Tensor) -> None:
        cosine = nn.functional.cosine_similarity(before.double(), after.double(), dim=-1)
        lost[index] += float((1 - cosine).sum())
        angles[index] += float(cosine[..., -1].clamp(-1, 1).arccos().sum()) / math.pi

    with outputs_of(modules, see):
        count = forward(network, Calibration(tuple(sequences)))
    return {
        "block influence": (lost / count).tolist(),
        "angular distance": (angles / len(sequences)).tolist(),
    }


def of_weights(network: nn.Module, sequences: Sequence[Tensor]) -> dict[str, list[float]]:
    """What weights alone say, and Taylor's first order.

    Raises KickError for packed weights: they have no gradient.
    """
    own_weights = [_weights(module) for module in blocks(network)]
    everything = [weight for weights in own_weights for weight in weights]
    if not all(weight.is_floating_point() for weight in everything):
        raise KickError("the model holds packed weights, whose gradients the metric 'taylor' needs")
    sums = {id(weight): torch.zeros_like(weight, dtype=torch.float32) for weight in everything}

    def see(weight: nn.Parameter, gradient: Tensor) -> None:
        sums[id(weight)].add_(gradient)

    with collected(everything, see):
        backward(network, Calibration(tuple(sequences)))
    moved = {id(weight): _total(weight.detach() * sums[id(weight)]) for weight in everything}
    return {
        "reverse order": [float(len(own_weights) - index) for index in range(len(own_weights))],
        "magnitude l1": [sum(_total(weight.detach()) for weight in weights) for weights in own_weights],
        "magnitude l2": [
            sum(_total(weight.detach().float().square()) for weight in weights) for weights in own_weights
        ],
        "taylor": [sum(moved[id(weight)] for weight in weights) for weights in own_weights],
    }


def _total(values: Tensor) -> float:
    """The sum of absolute values, in float64."""
    return float(values.abs().sum(dtype=torch.float64))


def _weights(block: nn.Module) -> list[nn.Parameter]:
    """The weights of a block's matrices and norms, no biases; each parameter once."""
    named = {id(one): one for name, one in block.named_parameters() if not name.endswith("bias")}
    return list(named.values())


def perplexities(engine: DropEngine, sequences: Sequence[Tensor]) -> list[float]:
    """The perplexity of the sequences without each of the blocks."""
    requests = [Request("tokens", tokens=tuple(one[0].tolist())) for one in sequences]
    found = []
    for block in range(len(blocks(engine.reader.network.model))):
        engine.drop(block)
        answers = engine.answer(requests)
        total, count = (sum(getattr(one, name) or 0 for one in answers) for name in ("logprob", "count"))
        found.append(math.exp(-total / count) if count else math.nan)
    return found
