"""Coupled structures: what must go together so that a model is really smaller.

In a block as Llama's, a group of attention heads is the rows of q, k, v that feed one key/value head and
the columns of o that read it; an MLP channel is a row of gate and up and a column of down. If every block
keeps the same numbers, the model's own config describes the result. Widths that differ from block to block
run, but no config of transformers describes them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from kick.compress.sparsity import Sparsity
from kick.compress.twin import Form
from kick.errors import KickError
from kick.model import Linear, block_list, linears

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_WIDTHS = {"num_heads": "num_attention_heads"}  # what modules call a width that the config names otherwise
KEPT = "kick_kept"  # attribute of o and down: which inputs before their last cut they still have
_PARTS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class BlockSize:
    """How many units a block has, and how many weights go with each; cutting the block leaves it as it is."""

    groups: int
    channels: int
    group_weights: int
    channel_weights: int

    @property
    def weights(self) -> int:
        """Weights of the block's matrices."""
        return self.groups * self.group_weights + self.channels * self.channel_weights


@dataclass(frozen=True, eq=False)
class Coupled:
    """A block's matrices by role, and its heads."""

    q: Linear
    k: Linear
    v: Linear
    o: Linear
    gate: Linear
    up: Linear
    down: Linear
    kv_heads: int
    head: int  # channels of a head
    heads_a_group: int  # query heads that share a key/value head

    @property
    def channels(self) -> int:
        """Channels of the MLP."""
        return self.down.weight.shape[1]

    @property
    def size(self) -> BlockSize:
        """How many units there are now, and what they weigh."""
        hidden = self.q.weight.shape[1]
        group = 2 * (self.heads_a_group + 1) * self.head * hidden  # rows of q, k and v, columns of o
        return BlockSize(self.kv_heads, self.channels, group, 3 * hidden)

    def by_group(self, channels: Tensor) -> Tensor:
        """Scores of o's input channels (heads x head,) as (groups, channels of a group)."""
        return channels.view(self.kv_heads, -1)

    def query_channels(self, groups: Tensor) -> Tensor:
        """The channels of q's output, which are o's input, that belong to groups (kept,)."""
        width = self.heads_a_group * self.head
        return (groups[:, None] * width + torch.arange(width, device=groups.device)).flatten()

    def key_channels(self, groups: Tensor) -> Tensor:
        """The channels of k's and v's output that belong to groups (kept,)."""
        return (groups[:, None] * self.head + torch.arange(self.head, device=groups.device)).flatten()


def coupled(block: nn.Module, model: PreTrainedModel) -> Coupled:
    """The roles of a block's matrices. Raises KickError if it is not built as Llama's."""
    found = {linear.name.rpartition(".")[2]: linear for linear in linears(block)}
    if set(found) != set(_PARTS) or any(linear.expert is not None for linear in found.values()):
        raise KickError(
            f"{type(model).__name__} has no blocks as Llama's ({', '.join(_PARTS)}); pruning of widths "
            "serves Llama, Mistral, Qwen2, Qwen3, Gemma 2 and Gemma 3; choose last-n, shortgpt or laco, "
            "which drop whole layers"
        )
    rows = found["k_proj"].weight.shape[0]
    attention = block.get_submodule(found["k_proj"].name.rpartition(".")[0])
    head = getattr(attention, "head_dim", None) or rows // model.config.num_key_value_heads
    kv_heads = rows // head
    heads_a_group = found["o_proj"].weight.shape[1] // (kv_heads * head)
    for name, parameter in block.named_parameters():
        if name.endswith(("q_norm.weight", "k_norm.weight")) and parameter.numel() != head:
            raise KickError(
                f"{type(model).__name__} norms all heads together ({name}), so that none can be taken out; "
                "choose last-n, shortgpt or laco, which drop whole layers"
            )
    parts = {part.removesuffix("_proj"): found[part] for part in _PARTS}
    return Coupled(**parts, kv_heads=kv_heads, head=head, heads_a_group=heads_a_group)


def check_widths(model: nn.Module) -> None:
    """Raises KickError if a block of the model is not built as Llama's, or not as wide as the first."""
    found = [coupled(block, model) for block in block_list(model)[1]]
    if len(sizes := {(one.kv_heads, one.channels) for one in found}) > 1:
        raise KickError(
            f"an earlier step left blocks of {len(sizes)} different widths; expected equal ones: choose only "
            "one of the methods that narrow blocks"
        )


class EqualWidths:
    """What methods say whose blocks all keep the same widths; they have an option `share`."""

    share: float
    fit: bool = False  # `share` is of a block's weights, not of its groups and of its channels

    def check(self, model: nn.Module) -> None:
        """Raises KickError if blocks are not built as Llama's."""
        check_widths(model)

    def check_saved(self, model: nn.Module) -> None:
        """Raises KickError if no config describes what would be left."""
        check_saved(model, self.share, self.fit)

    def forms(self, _model: nn.Module) -> list[Form]:
        """What the model becomes."""
        return forms(self.share, self.biased, self.fit)

    @property
    def biased(self) -> bool:
        """Whether o and down get biases."""
        return False


@dataclass(frozen=True, eq=False)
class KeptWidths:
    """What a block keeps: groups of heads and MLP channels, sorted."""

    groups: Tensor
    channels: Tensor

    @classmethod
    def where(cls, groups: Tensor, channels: Tensor, device: torch.device) -> KeptWidths:
        """Those that masks (groups,) and (channels,) are not zero at."""
        return cls(*(mask.nonzero().flatten().to(device) for mask in (groups, channels)))


def largest(scores: Tensor, count: int) -> Tensor:
    """The places of the `count` largest scores, sorted; of equal ones the last."""
    return scores.argsort(stable=True)[len(scores) - count :].sort().values


def cut(structure: Coupled, kept: KeptWidths) -> None:
    """Make a block smaller in place."""
    queries, keys = structure.query_channels(kept.groups), structure.key_channels(kept.groups)
    _rows(structure.q, queries)
    _rows(structure.k, keys)
    _rows(structure.v, keys)
    _columns(structure.o, queries)
    _rows(structure.gate, kept.channels)
    _rows(structure.up, kept.channels)
    _columns(structure.down, kept.channels)


def remaining(model: nn.Module, share: float, fit: bool = False) -> tuple[Coupled, int, int]:
    """The first block's structure, and how many groups of heads and MLP channels a block keeps.

    fit: the share is of the block's weights, and channels make up for groups of heads that do not fit.
    """
    structure, level = coupled(block_list(model)[1][0], model), Sparsity.parse(share)
    if fit:
        return structure, *fitted(structure.size, share)
    groups, channels = structure.kv_heads, structure.channels
    return structure, groups - level.count(groups), channels - level.count(channels)


def fitted(whole: BlockSize, share: float) -> tuple[int, int]:
    """How many groups of heads and MLP channels a block keeps if a share of its weights is removed.

    The same share of the groups, rounded down, and so many channels that the share of the weights is met to
    half a channel. At least one of each stays.
    """
    groups = min(Sparsity.parse(share).count(whole.groups), whole.groups - 1)
    rest = share * whole.weights - groups * whole.group_weights
    channels = min(max(round(rest / whole.channel_weights), 0), whole.channels - 1)
    return whole.groups - groups, whole.channels - channels


def forms(share: float, bias: bool, fit: bool) -> list[Form]:
    """What a model becomes if that share of its groups of heads and MLP channels is pruned, any of them."""
    return [partial(_narrowed, share=share, bias=bias, fit=fit)]


def _narrowed(model: nn.Module, share: float, bias: bool, fit: bool) -> None:
    first, groups, channels = remaining(model, share, fit)
    for block in block_list(model)[1]:
        structure = coupled(block, model)
        device = structure.o.weight.device
        cut(structure, KeptWidths(torch.arange(groups, device=device), torch.arange(channels, device=device)))
        if bias:
            sizes = structure.o.weight.shape[0], structure.down.weight.shape[0]
            add_bias(structure, ("o", "down"), [torch.zeros(size, device=device) for size in sizes], model)
    describe(model, groups, channels, first)


def check_saved(model: nn.Module, share: float, fit: bool) -> None:
    """Raises KickError if the model's class has no config for what is left: Llama's wants a hidden size
    that is a multiple of the heads."""
    structure, groups, channels = remaining(model, share, fit)
    if _valid(model, groups, channels, structure):
        return
    fitting = [n for n in range(1, structure.kv_heads + 1) if _valid(model, n, channels, structure)]
    raise KickError(
        f"{groups} of {structure.kv_heads} groups of heads would be left, and {type(model.config).__name__} "
        f"describes no such model, so that it cannot be saved; {', '.join(map(str, fitting))} can be left "
        "(`kick run` measures any)"
    )


def _valid(model: PreTrainedModel, groups: int, channels: int, structure: Coupled) -> bool:
    config = copy.deepcopy(model.config)
    _write(config, groups, channels, structure)
    try:
        config.validate()
    except StrictDataclassError:
        return False
    return True


def describe(model: nn.Module, groups: int, channels: int, structure: Coupled) -> None:
    """Write the new widths into the model's config, and where its modules keep a copy of them."""
    _write(model.config, groups, channels, structure)
    for module in block_list(model)[1].modules():
        for name in ("intermediate_size", "num_heads", "num_attention_heads", "num_key_value_heads"):
            if isinstance(vars(module).get(name), int):
                setattr(module, name, getattr(model.config, _WIDTHS.get(name, name)))


def _write(config: PretrainedConfig, groups: int, channels: int, structure: Coupled) -> None:
    config.head_dim = structure.head
    config.num_attention_heads = groups * structure.heads_a_group
    config.num_key_value_heads = groups
    config.intermediate_size = channels


def add_bias(structure: Coupled, names: Sequence[str], biases: Sequence[Tensor], model: nn.Module) -> None:
    """Add to the biases of o and down; where the config gives biases to all of them, the others get zeros."""
    for name, bias in zip(names, biases, strict=True):
        module = getattr(structure, name).module
        old = module.bias.data if module.bias is not None else 0.0
        module.bias = nn.Parameter((bias + old).to(module.weight.dtype), requires_grad=False)
    for flag, parts in (("attention_bias", "qkvo"), ("mlp_bias", ("gate", "up", "down"))):
        if hasattr(model.config, flag) and not getattr(model.config, flag):
            setattr(model.config, flag, True)
        for part in parts:
            module = getattr(structure, part).module
            if module.bias is None and getattr(model.config, flag, False):
                zeros = torch.zeros(module.weight.shape[0], dtype=module.weight.dtype)
                module.bias = nn.Parameter(zeros.to(module.weight.device), requires_grad=False)


def _rows(linear: Linear, kept: Tensor) -> None:
    linear.set_weight(linear.weight[kept])
    vars(linear.module)["out_features"] = len(kept)
    if linear.bias is not None:
        linear.module.bias = nn.Parameter(linear.bias.data[kept], requires_grad=False)


def _columns(linear: Linear, kept: Tensor) -> None:
    linear.set_weight(linear.weight[:, kept])
    vars(linear.module)["in_features"] = len(kept)
    vars(linear.module)[KEPT] = kept
