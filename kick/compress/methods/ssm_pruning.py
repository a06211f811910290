"""State pruning of Mamba-2: the states that the loss depends on least are removed from every group.

Tamer Ghattas, Michael Hassid, Roy Schwartz: On Pruning State-Space LLMs. 2025, arXiv 2502.18886. A state of
a group is a row of B and a row of C, with their channels of the convolution. Its score is the mean of
squared gradient times squared weight over the inputs of its row of B, plus that of its row of C. The lowest
of each group go, the same ones from B and C.

Deviations: only the paper's pruning of states. Its unstructured part is `wanda`, which here covers out_proj
too, where the published code prunes in_proj alone. Its pruning of head channels is not offered: the
published code ranks z, x, norm and output apart, so that channels no longer match. Scores by magnitude and
the merging of groups are not part of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kick.compress.calibrate.gradients import gradients
from kick.compress.calibrate.walk import walk
from kick.compress.context import calibration_of
from kick.compress.method import method, option
from kick.compress.sparsity import Sparsity
from kick.compress.twin import Form
from kick.compress.widths import largest
from kick.errors import KickError
from kick.model import Linear, blocks, linears


@method(
    "ssm-pruning",
    title="SSM state pruning",
    paper="Ghattas et al., 2025, arXiv 2502.18886",
    kind="structure",
    needs=("calibration", "gradients", "structure"),
    place=95,
    serves="Mamba-2",
)
@dataclass(frozen=True)
class SsmPruning:
    """States of Mamba-2 that gradients say matter least are removed; the model is smaller."""

    share: float = option("of the states of each group that go", low=0, high=0.95)

    def check(self, model: nn.Module) -> None:
        """Raises KickError if a block is not a Mamba-2 mixer."""
        for block in blocks(model):
            mixer_of(block, model)

    def forms(self, _model: nn.Module) -> list[Form]:
        """What the model becomes."""
        return [partial(_narrowed, share=self.share)]

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        with gradients(model, calibration, "squares") as sums:
            for block in walk(model, calibration):
                mixer = mixer_of(block.module, model)
                found = state_scores(mixer, sums.of(block.index, mixer.projection) / len(calibration))
                kept = torch.stack([largest(one, _left(mixer.states, self.share)) for one in found])
                calibration.note("kept states", layer=block.index, groups=kept.tolist())
                mixer.keep(kept)
        _describe(model)


@dataclass(frozen=True, eq=False)
class Mixer:
    """A Mamba-2 mixer: rows of `projection` are z, x, B, C and dt, channels of its convolution x, B and C."""

    module: Any
    projection: Linear

    @property
    def states(self) -> int:
        """States of a group."""
        return self.module.ssm_state_size

    @property
    def groups(self) -> int:
        """Groups, each with its B and C."""
        return self.module.n_groups

    def rows(self, kept: Tensor) -> Tensor:
        """The rows of the projection that stay if each group keeps these states (groups, kept)."""
        inner = self.module.intermediate_size
        whole = self.groups * self.states
        offset = torch.arange(self.groups, device=kept.device)[:, None] * self.states
        chosen = (offset + kept).flatten() + 2 * inner
        ends = torch.arange(2 * inner), torch.arange(2 * (inner + whole), len(self.projection.weight))
        before, behind = (one.to(kept.device) for one in ends)
        return torch.cat([before, chosen, chosen + whole, behind])

    def channels(self, kept: Tensor) -> Tensor:
        """The channels of the convolution that stay."""
        inner, heads = self.module.intermediate_size, self.module.num_heads
        rows = self.rows(kept)
        return rows[inner : len(rows) - heads] - inner

    def keep(self, kept: Tensor) -> None:
        """Remove all states but these (groups, kept; sorted), in place."""
        mixer, rows, channels = self.module, self.rows(kept), self.channels(kept)
        bias = self.projection.bias
        self.projection.set_weight(self.projection.weight[rows])
        mixer.in_proj.out_features = len(rows)
        if bias is not None:
            mixer.in_proj.bias = nn.Parameter(bias.data[rows], requires_grad=False)
        conv = mixer.conv1d
        conv.weight = nn.Parameter(conv.weight.data[channels].contiguous(), requires_grad=False)
        if conv.bias is not None:
            conv.bias = nn.Parameter(conv.bias.data[channels].contiguous(), requires_grad=False)
        conv.in_channels = conv.out_channels = conv.groups = mixer.conv_dim = len(channels)
        mixer.ssm_state_size = kept.shape[1]


def mixer_of(block: nn.Module, model: nn.Module) -> Mixer:
    """A block's mixer. Raises KickError if it is not Mamba-2's."""
    module: Any = getattr(block, "mixer", None)
    known = all(
        hasattr(module, name) for name in ("in_proj", "conv1d", "A_log", "ssm_state_size", "n_groups")
    )
    found = {linear.name: linear for linear in linears(block)}
    if known and module.A_log.ndim == 1 and set(found) == {"mixer.in_proj", "mixer.out_proj"}:
        size = 2 * (module.intermediate_size + module.n_groups * module.ssm_state_size) + module.num_heads
        if len(found["mixer.in_proj"].weight) == size:
            return Mixer(module, found["mixer.in_proj"])
    raise KickError(
        f"{type(model).__name__} has blocks that are not Mamba-2 mixers, the only ones whose states "
        "ssm-pruning removes; choose wanda, or last-n, which drops whole layers"
    )


def state_scores(mixer: Mixer, squares: Tensor) -> Tensor:
    """(groups, states): by mean squared gradients (out, in) of the projection."""
    change = (squares * mixer.projection.weight.float().square()).mean(dim=1)
    start, whole = 2 * mixer.module.intermediate_size, mixer.groups * mixer.states
    both = change[start : start + whole] + change[start + whole : start + 2 * whole]
    return both.view(mixer.groups, mixer.states)


def _left(states: int, share: float) -> int:
    return states - Sparsity.parse(share).count(states)


def _narrowed(model: nn.Module, share: float) -> None:
    for block in blocks(model):
        mixer = mixer_of(block, model)
        mixer.keep(torch.arange(_left(mixer.states, share)).expand(mixer.groups, -1))
    _describe(model)


def _describe(model: nn.Module) -> None:
    config: Any = model.config
    config.state_size = mixer_of(blocks(model)[0], model).states
