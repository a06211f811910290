"""Pruning of Mamba-2: states of every group, channels of every head, or heads, are removed by gradients.

Tamer Ghattas, Michael Hassid, Roy Schwartz: On Pruning State-Space LLMs. 2025, arXiv 2502.18886. A state of
a group is a row of B and a row of C, with their channels of the convolution. Its score is the mean of
squared gradient times squared weight over the inputs of its row of B, plus that of its row of C. The lowest
of each group go, the same ones from B and C. A channel of a head is a row of z and one of x, its channel of
the convolution and of the norm, and a column of the output.

Deviations: the published code ranks a channel's z, x, norm and output apart, so that channels no longer
match: here it has one score, the sum over all its weights. A head's score is the sum of its channels', and
each group keeps as many heads. The norm's weight is scaled by the root of all channels over those that are
left, so that removing channels equals zeroing them but for the norm's epsilon. The paper's unstructured part
is `wanda`, which here covers out_proj too, where the published code prunes in_proj alone. Scores by magnitude
and the merging of groups are not part of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kick.compress.calibrate.gradients import backward, collected, gradients
from kick.compress.calibrate.walk import walk
from kick.compress.context import Calibration, calibration_of
from kick.compress.method import method, option
from kick.compress.sparsity import Sparsity
from kick.compress.twin import Form
from kick.compress.widths import largest
from kick.errors import CellFailed, KickError
from kick.model import Linear, blocks, linears


@method(
    "ssm-pruning",
    title="SSM pruning",
    paper="Ghattas et al., 2025, arXiv 2502.18886",
    kind="structure",
    needs=("calibration", "gradients", "structure"),
    place=95,
    serves="Mamba-2",
)
@dataclass(frozen=True)
class SsmPruning:
    """States, channels or heads of Mamba-2 that gradients say matter least are removed."""

    share: float = option(
        "of the states or heads of each group, or the channels of each head", low=0, high=0.95
    )
    unit: str = option("what is removed", "state", choices=("state", "channel", "head"))

    def check(self, model: nn.Module) -> None:
        """Raises KickError if a block is not a Mamba-2 mixer."""
        for block in blocks(model):
            mixer_of(block, model)

    def forms(self, _model: nn.Module) -> list[Form]:
        """What the model becomes."""
        return [partial(_narrowed, share=self.share, unit=self.unit)]

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        if self.unit != "state":
            self._inner(model, calibration)
            return
        with gradients(model, calibration, "squares") as sums:
            for block in walk(model, calibration):
                mixer = mixer_of(block.module, model)
                found = state_scores(mixer, sums.of(block.index, mixer.projection) / len(calibration))
                kept = torch.stack([largest(one, _left(mixer.states, self.share)) for one in found])
                calibration.note("kept states", layer=block.index, groups=kept.tolist())
                mixer.keep(kept)
        _describe(model)

    def _inner(self, model: nn.Module, calibration: Calibration) -> None:
        """Remove channels of heads, or heads."""
        mixers = [mixer_of(block, model) for block in blocks(model)]
        sums = {
            id(one): torch.zeros_like(one, dtype=torch.float32) for mixer in mixers for one in mixer.parts
        }

        def see(parameter: nn.Parameter, gradient: Tensor) -> None:
            sums[id(parameter)].addcmul_(gradient, gradient)

        with collected([one for mixer in mixers for one in mixer.parts], see):
            backward(model, calibration)
        for layer, mixer in enumerate(mixers):
            found = channel_scores(mixer, [sums[id(one)] / len(calibration) for one in mixer.parts])
            if not found.sum().isfinite():
                raise CellFailed(f"a gradient of block {layer} has NaN or infinity in it")
            heads = torch.arange(len(found), device=found.device)
            if self.unit == "head":
                heads = _best(found.sum(dim=1).view(mixer.groups, -1), self.share).flatten()
                kept = torch.arange(found.shape[1], device=found.device).expand(len(heads), -1)
            else:
                kept = _best(found, self.share) - heads[:, None] * found.shape[1]
            mixer.keep_inner(heads, kept)
            calibration.note(
                "kept heads and channels", layer=layer, heads=heads.tolist(), channels=kept.tolist()
            )
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

    @property
    def parts(self) -> list[nn.Parameter]:
        """What a channel of a head has weights in, biases aside."""
        mixer = self.module
        return [mixer.in_proj.weight, mixer.conv1d.weight, mixer.norm.weight, mixer.out_proj.weight]

    def keep_inner(self, heads: Tensor, kept: Tensor) -> None:
        """Remove all heads but these (heads,), and of each all channels but these (heads, kept); sorted."""
        mixer, inner = self.module, self.module.intermediate_size
        channels = (heads[:, None] * mixer.head_dim + kept).flatten()
        between = torch.arange(2 * inner, len(self.projection.weight) - mixer.num_heads, device=heads.device)
        end = 2 * inner + len(between)
        _keep_rows(mixer.in_proj, torch.cat([channels, inner + channels, between, end + heads]))
        mixer.in_proj.out_features = len(mixer.in_proj.weight)
        _keep_rows(mixer.conv1d, torch.cat([channels, between - inner]))
        conv = mixer.conv1d
        conv.in_channels = conv.out_channels = conv.groups = mixer.conv_dim = len(conv.weight)
        scale = (inner / len(channels)) ** 0.5
        mixer.norm.weight = nn.Parameter(mixer.norm.weight.data[channels] * scale, requires_grad=False)
        columns = mixer.out_proj.weight.data[:, channels].contiguous()
        mixer.out_proj.weight = nn.Parameter(columns, requires_grad=False)
        mixer.out_proj.in_features = len(channels)
        for name in ("dt_bias", "A_log", "D"):
            setattr(mixer, name, nn.Parameter(getattr(mixer, name).data[heads], requires_grad=False))
        mixer.intermediate_size, mixer.num_heads, mixer.head_dim = len(channels), len(heads), kept.shape[1]


def _keep_rows(module: Any, rows: Tensor) -> None:
    module.weight = nn.Parameter(module.weight.data[rows].contiguous(), requires_grad=False)
    if module.bias is not None:
        module.bias = nn.Parameter(module.bias.data[rows].contiguous(), requires_grad=False)


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


def channel_scores(mixer: Mixer, squares: Sequence[Tensor]) -> Tensor:
    """(heads, channels): by mean squared gradients of `Mixer.parts`, summed over all weights of a channel."""
    inner = mixer.module.intermediate_size
    into, taps, norm, out = (
        square * part.float().square() for square, part in zip(squares, mixer.parts, strict=True)
    )
    rows = into.sum(dim=1)
    total = (
        rows[:inner] + rows[inner : 2 * inner] + taps[:inner].flatten(1).sum(dim=1) + norm + out.sum(dim=0)
    )
    return total.view(mixer.module.num_heads, -1)


def _best(scores: Tensor, share: float) -> Tensor:
    """The places, counted over all rows (rows, of), of the best of each row, sorted: (rows, kept)."""
    rows, of = scores.shape
    kept = torch.stack([largest(one, _left(of, share)) for one in scores])
    return kept + torch.arange(rows, device=kept.device)[:, None] * of


def _left(states: int, share: float) -> int:
    return states - Sparsity.parse(share).count(states)


def _narrowed(model: nn.Module, share: float, unit: str) -> None:
    for block in blocks(model):
        mixer = mixer_of(block, model)
        device = mixer.projection.weight.device
        if unit == "state":
            mixer.keep(torch.arange(_left(mixer.states, share)).expand(mixer.groups, -1))
            continue
        heads, channels = mixer.module.num_heads, mixer.module.head_dim
        if unit == "head":
            heads = _left(heads // mixer.groups, share) * mixer.groups
        else:
            channels = _left(channels, share)
        mixer.keep_inner(
            torch.arange(heads, device=device), torch.arange(channels, device=device).expand(heads, -1)
        )
    _describe(model)


def _describe(model: nn.Module) -> None:
    """Write the new sizes into the config, as far as it can say them."""
    config: Any = model.config
    mixer = mixer_of(blocks(model)[0], model)
    config.state_size = mixer.states
    config.num_heads, config.head_dim = mixer.module.num_heads, mixer.module.head_dim
    if mixer.module.intermediate_size % config.hidden_size == 0:
        config.expand = mixer.module.intermediate_size // config.hidden_size
