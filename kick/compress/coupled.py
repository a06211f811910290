"""Units of a block: what must be removed together so that a model is really smaller.

A group of attention heads is the rows that give one key/value head and the queries that share it, and the
columns of the matrix that reads them; an MLP channel is the rows that give it, gated or not, and the column
that reads it. The matrices are found by their names: as Llama's, OPT's, GPT-2's, GPT-NeoX's or Phi-3's. A
matrix may have rows of several parts: queries, keys and values one after the other (GPT-2, Phi-3) or head by
head (GPT-NeoX), gates before channels (Phi-3). Of a mixture of experts the attention alone has units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from kick.errors import KickError
from kick.model import Linear, block_list, linears

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class BlockNames:
    """Names of a block's matrices: full ones, or their last part alone for those of Llama.

    A single matrix in `gives` has the rows of queries, keys and values. `channels`: what the config calls the
    width of the MLP. `describes_heads`: whether the config can say how large a head is beside how many there
    are. `heads_in_config`: whether the attention reads in its config how many heads it has.
    """

    gives: tuple[str, ...]
    o: str
    mlp: tuple[str, ...] = ()
    down: str = ""
    by_head: bool = False
    channels: str = "intermediate_size"
    describes_heads: bool = True
    heads_in_config: bool = False
    transposed: bool = False  # its matrices are Conv1D: others of these names have rows in another order

    @property
    def names(self) -> set[str]:
        """All of them."""
        return {*self.gives, self.o, *self.mlp} | ({self.down} if self.down else set())


LLAMA = BlockNames(("q_proj", "k_proj", "v_proj"), "o_proj", ("gate_proj", "up_proj"), "down_proj")
OTHERS = (
    BlockNames(
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "self_attn.out_proj",
        ("fc1",),
        "fc2",
        channels="ffn_dim",
        describes_heads=False,
    ),
    BlockNames(
        ("attn.c_attn",),
        "attn.c_proj",
        ("mlp.c_fc",),
        "mlp.c_proj",
        channels="n_inner",
        describes_heads=False,
        transposed=True,
    ),
    BlockNames(
        ("attention.query_key_value",),
        "attention.dense",
        ("mlp.dense_h_to_4h",),
        "mlp.dense_4h_to_h",
        by_head=True,
        describes_heads=False,
    ),
    BlockNames(
        ("self_attn.qkv_proj",),
        "self_attn.o_proj",
        ("mlp.gate_up_proj",),
        "mlp.down_proj",
        heads_in_config=True,
    ),
)
MIXTURE = BlockNames(LLAMA.gives, LLAMA.o)  # beside experts


@dataclass(frozen=True)
class BlockSize:
    """How many units a block has, and how many weights go with each; cutting the block leaves it as it is."""

    groups: int
    channels: int
    group_weights: int
    channel_weights: int

    @property
    def weights(self) -> int:
        """Weights of the matrices that have units."""
        return self.groups * self.group_weights + self.channels * self.channel_weights


@dataclass(frozen=True, eq=False)
class UnitRows:
    """Rows of a matrix that give queries, keys, values or channels, unit by unit; all of them if None."""

    linear: Linear
    rows: Tensor | None = None

    def of(self, values: Tensor) -> Tensor:
        """Those of this part, of values of the matrix's rows (out, ...)."""
        return values if self.rows is None else values[self.rows]


@dataclass(frozen=True, eq=False)
class Coupled:
    """A block's matrices by role, and its heads. `mlp` gives channels, which `down` reads, if any."""

    layout: BlockNames
    q: UnitRows
    k: UnitRows
    v: UnitRows
    o: Linear
    mlp: tuple[UnitRows, ...]
    down: Linear | None
    kv_heads: int
    head: int  # channels of a head
    heads_a_group: int  # query heads that share a key/value head

    @property
    def channels(self) -> int:
        """Channels of the MLP; 0 if it is a mixture of experts."""
        return 0 if self.down is None else self.down.weight.shape[1]

    @property
    def hidden(self) -> int:
        """Channels of the hidden states."""
        return self.o.weight.shape[0]

    @property
    def attention(self) -> list[Linear]:
        """The matrices that give queries, keys and values, each once."""
        return _distinct([self.q, self.k, self.v])

    @property
    def feedforward(self) -> list[Linear]:
        """The matrices that give channels, each once."""
        return _distinct(self.mlp)

    @property
    def readers(self) -> list[Linear]:
        """The matrices that read heads and channels."""
        return [self.o] if self.down is None else [self.o, self.down]

    @property
    def size(self) -> BlockSize:
        """How many units there are now, and what they weigh."""
        group = 2 * (self.heads_a_group + 1) * self.head * self.hidden  # rows of q, k and v, columns of o
        return BlockSize(self.kv_heads, self.channels, group, (len(self.mlp) + 1) * self.hidden)

    def by_group(self, channels: Tensor) -> Tensor:
        """Scores of o's input channels (heads x head,) as (groups, channels of a group)."""
        return channels.view(self.kv_heads, -1)

    def scores(self, of: Callable[[Linear], Tensor]) -> tuple[Tensor, Tensor]:
        """Scores of groups (groups,) and channels (channels,) from those of what a reader reads (in,).

        A group's is the mean over its channels.
        """
        heads = self.by_group(of(self.o)).mean(dim=1)
        return heads, heads.new_empty(0) if self.down is None else of(self.down)

    def sums(self, linear: Linear, values: Tensor) -> Tensor:
        """The sums over each unit of a matrix's values: of a reader's columns, of another's rows.

        (groups,) of one of the attention's matrices, (channels,) of one of the MLP's.
        """
        if linear is self.o:
            return self.by_group(values).sum(dim=1)
        if linear is self.down:
            return values
        heads = [self.by_group(part.of(values)).sum(dim=1) for part in self._attends if part.linear is linear]
        channels = [part.of(values) for part in self.mlp if part.linear is linear]
        total, *others = heads + channels
        for other in others:
            total = total + other
        return total

    @property
    def _attends(self) -> tuple[UnitRows, ...]:
        return self.q, self.k, self.v

    def query_channels(self, groups: Tensor) -> Tensor:
        """The channels of q's output, which are o's input, that belong to groups (kept,)."""
        width = self.heads_a_group * self.head
        return (groups[:, None] * width + torch.arange(width, device=groups.device)).flatten()

    def key_channels(self, groups: Tensor) -> Tensor:
        """The channels of k's and v's output that belong to groups (kept,)."""
        return (groups[:, None] * self.head + torch.arange(self.head, device=groups.device)).flatten()

    def read_channels(self, groups: Tensor, channels: Tensor) -> list[tuple[Linear, Tensor]]:
        """Each reader with its columns that belong to groups and channels (kept,)."""
        return list(zip(self.readers, (self.query_channels(groups), channels), strict=False))

    def given_rows(self, groups: Tensor, channels: Tensor) -> list[tuple[Linear, Tensor]]:
        """Each other matrix with its rows that belong to groups and channels (kept,), in order."""
        keys = self.key_channels(groups)
        chosen = [(self.q, self.query_channels(groups)), (self.k, keys), (self.v, keys)]
        chosen += [(part, channels) for part in self.mlp]
        kept = []
        for linear in self.attention + self.feedforward:
            rows = [
                places if part.rows is None else part.rows[places]
                for part, places in chosen
                if part.linear is linear
            ]
            kept.append((linear, rows[0] if len(rows) == 1 else torch.cat(rows).sort().values))
        return kept


def _distinct(parts: Sequence[UnitRows]) -> list[Linear]:
    return list({id(part.linear): part.linear for part in parts}.values())


def coupled(block: nn.Module, model: PreTrainedModel) -> Coupled:
    """The roles of a block's matrices. Raises KickError for a block without units that kick knows."""
    layout, found = _named(block, model)
    o, given = found[layout.o], [found[name] for name in layout.gives]
    attention = block.get_submodule(o.name.rpartition(".")[0])
    head = getattr(attention, "head_dim", None) or getattr(attention, "head_size", None)
    if head is None:
        head = given[-1].weight.shape[0] // model.config.num_key_value_heads
    heads = o.weight.shape[1] // head
    rows = [linear.weight.shape[0] for linear in given]
    kv_heads = (rows[1] if len(rows) > 1 else (rows[0] - heads * head) // 2) // head
    _check_heads(block, model, head, heads, kv_heads, given)
    q, k, v = _parts(given, layout.by_head, head, heads, kv_heads)
    mlp = [found[name] for name in layout.mlp]
    down = found[layout.down] if layout.down else None
    return Coupled(layout, q, k, v, o, _channels(mlp, down), down, kv_heads, head, heads // kv_heads)


def _named(block: nn.Module, model: nn.Module) -> tuple[BlockNames, dict[str, Linear]]:
    every = linears(block)
    plain = [linear for linear in every if linear.expert is None]
    tails = {linear.name.rpartition(".")[2]: linear for linear in plain}
    llama = LLAMA if len(plain) == len(every) else MIXTURE
    if set(tails) == llama.names and len(tails) == len(plain):
        return llama, tails
    names = {linear.name: linear for linear in every}
    for layout in OTHERS:
        if set(names) == layout.names and layout.transposed == isinstance(every[0].module, Conv1D):
            return layout, names
    raise KickError(
        f"{type(model).__name__} has no blocks whose heads and channels kick can remove: expected matrices "
        f"as Llama's ({', '.join(sorted(LLAMA.names))}), OPT's, GPT-2's, GPT-NeoX's or Phi-3's; choose "
        "last-n, shortgpt or laco, which drop whole layers"
    )


def _check_heads(
    block: nn.Module, model: nn.Module, head: int, heads: int, kv_heads: int, given: Sequence[Linear]
) -> None:
    """Raises KickError if heads cannot be told apart, or are normed together."""
    rows = sum(linear.weight.shape[0] for linear in given)
    if not kv_heads or heads % kv_heads or rows != (heads + 2 * kv_heads) * head:
        raise KickError(
            f"the attention of {type(model).__name__} has {rows} rows of queries, keys and values, which are "
            f"not those of {heads} heads of {head} channels; choose last-n, shortgpt or laco, which drop "
            "whole layers"
        )
    for name, parameter in block.named_parameters():
        if name.endswith(("q_norm.weight", "k_norm.weight")) and parameter.numel() != head:
            raise KickError(
                f"{type(model).__name__} norms all heads together ({name}), so that none can be taken out; "
                "choose last-n, shortgpt or laco, which drop whole layers"
            )


def _parts(
    given: Sequence[Linear], by_head: bool, head: int, heads: int, kv_heads: int
) -> tuple[UnitRows, UnitRows, UnitRows]:
    """The rows of queries, keys and values."""
    if len(given) > 1:
        q, k, v = (UnitRows(linear) for linear in given)
        return q, k, v
    rows = torch.arange(given[0].weight.shape[0], device=given[0].weight.device)
    if by_head:
        each = rows.view(heads, 3, head)
        q, k, v = (UnitRows(given[0], each[:, place].flatten()) for place in range(3))
        return q, k, v
    q, k, v = (
        UnitRows(given[0], one) for one in rows.split([heads * head, kv_heads * head, kv_heads * head])
    )
    return q, k, v


def _channels(mlp: Sequence[Linear], down: Linear | None) -> tuple[UnitRows, ...]:
    """The rows of gates and channels."""
    if down is None or len(mlp) > 1 or mlp[0].weight.shape[0] == down.weight.shape[1]:
        return tuple(map(UnitRows, mlp))
    rows = torch.arange(mlp[0].weight.shape[0], device=mlp[0].weight.device)
    return tuple(UnitRows(mlp[0], one) for one in rows.split(down.weight.shape[1]))


def structures(model: nn.Module) -> list[Coupled]:
    """The roles of each block's matrices, as wide as they are now. Raises KickError for other blocks."""
    return [coupled(block, model) for block in block_list(model)[1]]


def check_channels(model: nn.Module, found: Sequence[Coupled]) -> None:
    """Raises KickError if a block's MLP is a mixture of experts: heads alone meet no share of weights."""
    if any(one.down is None for one in found):
        raise KickError(
            f"{type(model).__name__} has experts, whose channels are not removed, and heads alone do not "
            "make up a share of all weights; choose flap or llm-pruner without `fit`, whose share is of heads"
        )
