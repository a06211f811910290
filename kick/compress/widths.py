"""Blocks made narrower: units removed, and what the model's config and modules say of widths.

If every block keeps the same numbers, the model's own config describes the result, where it has a word for
the number of heads apart from their size. Widths that differ from block to block run, but no config of
transformers describes them (`kick.compress.uneven`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from kick.compress.coupled import BlockSize, Coupled, check_channels, coupled, structures
from kick.compress.sparsity import Sparsity
from kick.compress.twin import Form
from kick.errors import KickError
from kick.model import Linear, block_list

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

KEPT = "kick_kept"  # attribute of o and down: which inputs before their last cut they still have


def check_widths(model: nn.Module) -> list[Coupled]:
    """The blocks' structures. Raises KickError if one has no units that kick knows, or another width."""
    found = structures(model)
    if len(sizes := {(one.kv_heads, one.channels) for one in found}) > 1:
        raise KickError(
            f"the model has blocks of {len(sizes)} different widths; expected equal ones: choose only one of "
            "the methods that narrow blocks"
        )
    return found


class EqualWidths:
    """What methods say whose blocks all keep the same widths; they have an option `share`."""

    share: float
    fit: bool = False  # `share` is of a block's weights, not of its groups and of its channels

    def check(self, model: nn.Module) -> None:
        """Raises KickError if blocks have no units that kick knows, or a share of weights cannot be met."""
        found = check_widths(model)
        if self.fit:
            check_channels(model, found)

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


def narrow(block: nn.Module, structure: Coupled, kept: KeptWidths) -> None:
    """Make a block smaller in place, and correct the copies of widths that its modules have."""
    for linear, rows in structure.given_rows(kept.groups, kept.channels):
        _rows(linear, rows)
    for linear, columns in structure.read_channels(kept.groups, kept.channels):
        _columns(linear, columns)
    _number(block, len(kept.groups), len(kept.channels), structure)
    if structure.layout.heads_in_config:
        attention = _attention(block, structure)
        attention.config = copy.copy(attention.config)  # what other blocks read stays as it is
        attention.config.num_attention_heads = len(kept.groups) * structure.heads_a_group


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
        kept = KeptWidths(torch.arange(groups, device=device), torch.arange(channels, device=device))
        narrow(block, structure, kept)
        if bias:
            zeros = torch.zeros(structure.hidden, device=device)
            add_bias(structure, [zeros for _ in structure.readers], model)
    describe(model, groups, channels, first)


def check_saved(model: nn.Module, share: float, fit: bool) -> None:
    """Raises KickError if the model's class has no config for what is left: Llama's wants a hidden size
    that is a multiple of the heads; OPT's, GPT-2's and GPT-NeoX's know a head's size by the heads' number."""
    structure, groups, channels = remaining(model, share, fit)
    if groups < structure.kv_heads and not structure.layout.describes_heads:
        raise KickError(
            f"{groups} of {structure.kv_heads} heads would be left, and {type(model.config).__name__} has no "
            "word for the size of a head but hidden size / heads, so that a model without some heads cannot "
            "be saved; one without channels can: choose flap, llm-pruner or liar with `fit: true`, a share "
            f"below {1 / structure.kv_heads:.3g}, or `kick run`, which measures any"
        )
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
    """Write into the model's config that all its blocks have these widths."""
    _write(model.config, groups, channels, structure)
    if structure.layout.heads_in_config:
        for block in block_list(model)[1]:
            _attention(block, structure).config = model.config


def _attention(block: nn.Module, structure: Coupled) -> Any:
    return block.get_submodule(structure.o.name.rpartition(".")[0])


def _number(block: nn.Module, groups: int, channels: int, structure: Coupled) -> None:
    """Write the new widths of a block where its modules keep a copy of them."""
    heads = groups * structure.heads_a_group
    widths = {"num_heads": heads, "num_attention_heads": heads, "num_key_value_heads": groups}
    widths["split_size"] = heads * structure.head
    if structure.down is not None:
        widths["intermediate_size"] = channels
    for module in block.modules():
        for name, width in widths.items():
            if isinstance(vars(module).get(name), int):
                setattr(module, name, width)


def _write(config: PretrainedConfig, groups: int, channels: int, structure: Coupled) -> None:
    if structure.layout.describes_heads:
        config.head_dim = structure.head
        config.num_attention_heads = groups * structure.heads_a_group
        config.num_key_value_heads = groups
    if structure.down is not None:
        setattr(config, structure.layout.channels, channels)


def add_bias(structure: Coupled, biases: Sequence[Tensor], model: nn.Module) -> None:
    """Add to the biases of o and down; where the config gives biases to all of them, the others get zeros."""
    for linear, bias in zip(structure.readers, biases, strict=True):
        whole = bias if linear.bias is None else bias + linear.bias.data
        linear.module.bias = nn.Parameter(whole.to(linear.weight.dtype), requires_grad=False)
    attention, mlp = [*structure.attention, structure.o], [*structure.feedforward, *structure.readers[1:]]
    for flag, matrices in (("attention_bias", attention), ("mlp_bias", mlp)):
        if not matrices or not hasattr(model.config, flag):
            continue
        setattr(model.config, flag, True)
        for linear in matrices:
            if linear.bias is None:
                zeros = linear.weight.new_zeros(linear.weight.shape[0])
                linear.module.bias = nn.Parameter(zeros, requires_grad=False)


def _sized(linear: Linear, out: bool, width: int) -> None:
    """Say a matrix's new width where its module keeps a copy of it."""
    own = (
        ("nf" if out else "nx")
        if isinstance(linear.module, Conv1D)
        else ("out" if out else "in") + "_features"
    )
    vars(linear.module)[own] = width


def _rows(linear: Linear, kept: Tensor) -> None:
    linear.set_weight(linear.weight[kept])
    _sized(linear, True, len(kept))
    if linear.bias is not None:
        linear.module.bias = nn.Parameter(linear.bias.data[kept], requires_grad=False)


def _columns(linear: Linear, kept: Tensor) -> None:
    linear.set_weight(linear.weight[:, kept])
    _sized(linear, False, len(kept))
    vars(linear.module)[KEPT] = kept
