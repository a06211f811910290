"""LLM-Streamline as published: a run of blocks becomes one block, trained to give what the run gave.

Xiaodong Chen, Yuxuan Hu, Jing Zhang, Yanling Wang, Cuiping Li, Hong Chen: Streamlining Redundant Layers to
Compress Large Language Models. ICLR 2025, arXiv 2403.19135. Of all runs of `layers` + 1 blocks in a row the
one is taken whose input and output have the largest mean cosine over all tokens. Its first block stays in
the place of all, and is trained, from its own weights, to map the run's input to the run's output in the
dense model: mean squared error. `layers` blocks go, and the result is a plain checkpoint. Nothing is trained
by `llm-streamline`, which drops the run or puts a least squares map in its place.

Deviations: windows of `corpus` in place of 100,000 documents of SlimPajama, so many `tokens`; the learning
rate rises and falls as in every form (theirs goes from 2e-4 to 5e-5, in their code hardly at all); no decay
(1e-3 there). Of the paper's replacements this is the layer, the only one in the published code, without the
code's second training on the language model's loss: `{recover: ...}` after this step is such a one. The last
run is compared before the final norm, the published code compares after it.

As `reconstruct`, this trains towards dense states; it is of the kind "structure", because it removes blocks.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kick.compress.context import calibration_of
from kick.compress.depth import Stack, check_depth, forms
from kick.compress.method import method, option
from kick.compress.methods.llm_streamline import window_cosines
from kick.compress.twin import Form
from kick.model.structure import device_of, hidden_of
from kick.recover.form import Recovery, Trained, texts_of
from kick.recover.parameters import freed
from kick.recover.train import train

Call = tuple[tuple[Any, ...], dict[str, Any]]  # arguments of a block


@method(
    "llm-streamline-trained",
    title="LLM-Streamline, trained",
    paper="Chen et al., ICLR 2025, arXiv 2403.19135",
    kind="structure",
    needs=("calibration", "structure"),
    trains=True,
    place=71,
)
@dataclass(frozen=True, kw_only=True)
class LlmStreamlineTrained(Recovery):
    """Blocks in a row that change their states least become one block, trained to do what they did."""

    layers: int = option("how many blocks fewer: of one more in a row one stays, and is trained", low=1)
    lr: float = option("the highest learning rate", 2e-4, low=0)

    def check(self, model: nn.Module) -> None:
        """Raises KickError if the model has no run of one more block."""
        check_depth(model, self.layers)

    def forms(self, model: nn.Module) -> list[Form]:
        """What the model may become."""
        return forms(model, self.layers)

    def __call__(self, model: Any, calibration: Sequence[Tensor]) -> None:
        """Replace a run of blocks, and leave what the training took in `calibration.training`."""
        calibration = calibration_of(calibration)
        windows, heldout, selection = texts_of(calibration, self, model)
        cosines = window_cosines(model, calibration, self.layers + 1)
        calibration.note("cosine of each run of blocks", values=[round(x, 6) for x in cosines.tolist()])
        replaced = ReplacedRun(model, int(cosines.argmax()), self.layers)
        calibration.note("dropped layers", layers=[*range(replaced.first + 1, replaced.last + 1)])
        trained = Trained(dict(replaced.block.named_parameters()))
        before = replaced.error(heldout)
        folder = calibration.work and calibration.work / self.name  # a recovery after it has its own there
        with freed(trained.parameters):
            texts = (windows, heldout)
            report = train(model, trained, self.schedule, texts, folder, self.recompute, replaced.loss)
        facts = {"error_untrained": round(before, 6), "error": round(replaced.error(heldout), 6)}
        calibration.note("trained replacement", block=replaced.first, heldout_windows=len(heldout), **facts)
        calibration.training = {**self.facts, **selection, **report}


class ReplacedRun:
    """A run of a model's blocks whose first block is trained to do what all of them did.

    The model has that block in the place of the run from now on; the dense blocks up to the run's end are
    kept for what they give.

    Attributes:
        first, last: of the run, by number.
        block: the one that stays.
    """

    def __init__(self, model: Any, first: int, layers: int):
        dense = Stack.of(model)
        self.model, self.first, self.last = model, first, first + layers
        self.block = dense.blocks[first]
        self.short = dense.without(range(first + 1, self.last + 1))
        kept = (*dense.blocks[:first], _copied(self.block), *dense.blocks[first + 1 :])
        self.dense = replace(dense, blocks=kept).without(range(self.last + 1, len(kept)))
        self.short.place(model)

    def loss(self, _model: Any, ids: Tensor) -> Tensor:
        """The mean squared error of the block on a window (1, length)."""
        (args, options), target = self.seen(ids)
        found = hidden_of(self.block(*args, **options))
        return nn.functional.mse_loss(found.float(), target.float())

    @torch.no_grad()
    def seen(self, ids: Tensor) -> tuple[Call, Tensor]:
        """What the run is called with on a window in the dense model, and the states that it gives."""
        calls, outputs = list[Call](), list[Tensor]()
        first, last = self.dense.blocks[self.first], self.dense.blocks[self.last]
        handles = (
            first.register_forward_pre_hook(
                lambda _block, args, options: calls.append((args, options)), with_kwargs=True
            ),
            last.register_forward_hook(lambda _block, _args, output: outputs.append(hidden_of(output))),
        )
        self.dense.place(self.model)
        try:
            self.model(ids, use_cache=False, logits_to_keep=1)
        finally:
            self.short.place(self.model)
            for handle in handles:
                handle.remove()
        return calls[0], outputs[0]

    @torch.no_grad()
    def error(self, windows: Sequence[Tensor]) -> float:
        """The squared error over the squared norm of the run's output."""
        left = norm = 0.0
        for ids in windows:
            (args, options), target = self.seen(ids.to(device_of(self.model)))
            found = hidden_of(self.block(*args, **options))
            left += float((found.double() - target.double()).square().sum())
            norm += float(target.double().square().sum())
        return left / norm


def _copied(block: nn.Module) -> nn.Module:
    """A block with weights of its own; it reads the model's own config, as the others do."""
    configs = [vars(module).get("config") for module in block.modules()]
    return copy.deepcopy(block, {id(one): one for one in configs if one is not None})
