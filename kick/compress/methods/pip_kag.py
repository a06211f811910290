"""PIP-KAG: neighbouring blocks lose their MLPs, where context quietens most of the neurons.

Pengcheng Huang, Zhenghao Liu, Yukun Yan, Haiyan Zhao, Xiaoyuan Yi, Hao Chen, Zhiyuan Liu, Maosong Sun, Tong
Xiao, Ge Yu, Chenyan Xiong: PIP-KAG: Mitigating Knowledge Conflicts in Knowledge-Augmented Generation via
Parametric Pruning. 2025, arXiv 2502.15543. MLPs are taken for the memory of a model. A gate's neuron is
active for an answer if its activation, summed over the answer's tokens, is positive. The inhibition of a
block is its share of active neurons without the context less that with it, a mean over answers.

Deviations: the published items are 1,000 passages with a question and an answer, in the model's chat
template. Ours are calibration sequences: the first half is the context, the third quarter the question, the
last quarter the answer. The band, which the authors read off a figure, is the one with the largest sum. Their
models lose the norm in front of the MLP as well, which does nothing without it; here it stays. What is left
is trained in the paper (LoRA), and not here: see `recover`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kick.compress.context import Calibration, calibration_of, tokens
from kick.compress.method import method, option
from kick.compress.twin import Form
from kick.errors import CellFailed, KickError
from kick.model import blocks
from kick.model.structure import device_of

MATRICES = ("gate_proj", "up_proj", "down_proj")


@method(
    "pip-kag",
    title="PIP-KAG",
    paper="Huang et al., 2025, arXiv 2502.15543",
    kind="structure",
    needs=("calibration", "structure"),
    place=45,
    serves="Llama, Qwen3, Gemma 2, Gemma 3, OLMo 2, Qwen3.5",
)
@dataclass(frozen=True)
class PipKag:
    """Neighbouring blocks lose their MLPs, those whose neurons a context quietens most."""

    mlps: int = option("how many neighbouring blocks lose their MLP", low=1)

    def check(self, model: nn.Module) -> None:
        """Raises KickError if a block has no gated MLP, or the model has no more blocks than that."""
        modules = blocks(model)
        if not all(map(_gated, modules)):
            raise KickError(
                f"{type(model).__name__} has blocks without an `mlp` of {', '.join(MATRICES)}; choose "
                "last-n, shortgpt or laco, which drop whole layers"
            )
        if self.mlps >= len(modules):
            raise KickError(
                f"pip-kag: cannot remove {self.mlps} of {len(modules)} MLPs; at most {len(modules) - 1}"
            )

    def forms(self, _model: nn.Module) -> list[Form]:
        """What the model becomes, as an example: the first blocks lose their MLPs."""
        return [partial(_without, gone=range(self.mlps))]

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        drops = inhibition(model, calibration)
        gone = band(drops, self.mlps)
        calibration.note("inhibition of neurons by context", values=[round(one, 6) for one in drops])
        calibration.note("removed MLPs", layers=list(gone))
        _without(model, gone)


class NoMlp(nn.Module):
    """In the place of an MLP: adds nothing to the hidden states."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Zeros of the same shape."""
        return torch.zeros_like(hidden)


def band(drops: Sequence[float], count: int) -> range:
    """The `count` neighbouring blocks with the largest sum; the first of equal bands."""
    sums = [sum(drops[first : first + count]) for first in range(len(drops) - count + 1)]
    first = max(range(len(sums)), key=sums.__getitem__)
    return range(first, first + count)


@torch.no_grad()
def inhibition(model: Any, calibration: Calibration) -> list[float]:
    """Of each block the share of neurons that are active for an answer, without context less with it.

    Raises CellFailed for a sequence of fewer than four tokens, and NaN or infinity.
    """
    modules = blocks(model)
    drops, count = [0.0] * len(modules), 0
    for ids in tokens(calibration, device_of(model)):
        length = ids.shape[1]
        if length < 4:
            raise CellFailed(f"a sequence of {length} tokens has no context, question and answer; at least 4")
        for part, sign in ((ids[:, length // 2 :], 1), (ids, -1)):
            active = [0.0] * len(modules)
            with _gates(modules, length // 4, active):
                model(part, use_cache=False, logits_to_keep=1)
            drops = [drop + sign * share for drop, share in zip(drops, active, strict=True)]
            calibration.passes.forward += 1
        count += 1
    return [drop / count for drop in drops]


@contextmanager
def _gates(modules: Sequence[nn.Module], answer: int, active: list[float]) -> Iterator[None]:
    """Within it `active` gets of each block the share of neurons active for the last `answer` tokens."""

    def hook(index: int, act: Callable[[Tensor], Tensor]) -> Callable[..., None]:
        def see(_module: nn.Module, _args: Any, output: Tensor) -> None:
            sums = act(output[0, -answer:]).float().sum(dim=0)
            if not sums.isfinite().all():
                raise CellFailed(f"block {index} has NaN or infinity in its MLP on the calibration data")
            active[index] = float((sums > 0).double().mean())

        return see

    handles = []
    try:
        for index, block in enumerate(modules):
            mlp: Any = block.mlp
            handles.append(mlp.gate_proj.register_forward_hook(hook(index, mlp.act_fn)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _gated(block: nn.Module) -> bool:
    mlp = getattr(block, "mlp", None)
    matrices = [getattr(mlp, name, None) for name in MATRICES]
    return all(isinstance(one, nn.Linear) for one in matrices) and callable(getattr(mlp, "act_fn", None))


def _without(model: nn.Module, gone: Sequence[int]) -> None:
    modules = blocks(model)
    for index in gone:
        modules[index].mlp = NoMlp().train(modules[index].training)
