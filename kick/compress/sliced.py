"""A decoder layer whose hidden states are fewer channels of a rotated basis, for SliceGPT.

The layer's norms are folded into what reads them. Its two residual connections go through a small matrix
each, from the basis before to the basis behind. Those are matrices of the block like the others: they are
counted, and later steps compress them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kick.compress.rotation import BEFORE_ATTENTION, BEFORE_MLP

_KEPT = ("attention_type", "kick_place", "layer_idx", "layer_type")  # what models ask of a layer


class RootMeanSquare(nn.Module):
    """x over its root mean square, as if it had all the channels of the model that was sliced."""

    def __init__(self, channels: int, epsilon: float):
        super().__init__()
        self.channels, self.epsilon = channels, epsilon

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., kept) to (..., kept)."""
        wide = hidden.float()
        mean = wide.square().sum(dim=-1, keepdim=True) / self.channels
        return (wide * torch.rsqrt(mean + self.epsilon)).to(hidden.dtype)


class SlicedBlock(nn.Module):
    """A Llama-like layer with a matrix in each residual connection; it gets those after it is made.

    Without `mlp_shortcut` it ends behind attention. channels: of the model's hidden states before slicing.
    """

    attn_shortcut: nn.Linear

    def __init__(self, block: nn.Module, channels: int):
        super().__init__()
        self.self_attn = block.get_submodule("self_attn")
        self.mlp = block.get_submodule("mlp")
        norms = (block.get_submodule(name) for name in (BEFORE_ATTENTION, BEFORE_MLP))
        self.input_layernorm, self.post_attention_layernorm = (
            RootMeanSquare(channels, epsilon_of(norm)) for norm in norms
        )
        self.mlp_shortcut: nn.Linear | None = None
        for name in _KEPT:
            if name in vars(block):
                vars(self)[name] = vars(block)[name]
        self.train(block.training)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Hidden states (batch, tokens, kept), and what the model gives its layers beside them."""
        attended = self.self_attn(self.input_layernorm(hidden_states), *args, **kwargs)[0]
        hidden_states = self.attn_shortcut(hidden_states) + attended
        if self.mlp_shortcut is None:
            return hidden_states
        return self.mlp_shortcut(hidden_states) + self.mlp(self.post_attention_layernorm(hidden_states))


def epsilon_of(norm: nn.Module) -> float:
    """What a norm adds to the mean square. Raises AttributeError if it has none of a known name."""
    return float(getattr(norm, "variance_epsilon", None) or norm.eps)  # type: ignore[arg-type]


def matrix(weight: Tensor) -> nn.Linear:
    """A linear layer without bias that multiplies by this weight (out, in), not in training mode."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    made.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    return made.eval()
