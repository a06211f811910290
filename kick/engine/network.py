"""A causal language model as two functions: token ids to last hidden states, hidden states to logits.

Apart, so that the vocabulary is multiplied only where something is scored. Most models are a body and a
linear head, perhaps with a scale or a soft cap behind it; `Network` checks on a few tokens that this
reading gives the model's own logits. Where it does not, hidden states are taken from in front of the head
of whole forwards, and logits are made by the model itself with the hidden states put in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kick.engine.attend import NAME
from kick.model.packed import PackedLinears
from kick.model.structure import attending

CHUNK_ELEMENTS = 2**22  # logits held at once: 16 MB in float32


@dataclass(frozen=True)
class Head:
    """From hidden states (N, H) to logits (N, V): weight (V, H), a bias, then a factor and a soft cap."""

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        return self.finish(nn.functional.linear(hidden.to(self.weight.dtype), self.weight, self.bias))

    def finish(self, logits: Tensor) -> Tensor:
        """What follows the product: float32, the factor, the soft cap."""
        logits = logits.float()
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.cap is not None:
            logits = torch.tanh(logits / self.cap) * self.cap
        return logits


def _head_of(model) -> Head:
    config = getattr(model.config, "text_config", None) or model.config
    embeddings = model.get_output_embeddings()
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(
        getattr(config, "logits_scaling", None) or 1.0
    )
    return Head(
        embeddings.weight,
        getattr(embeddings, "bias", None),
        scale,
        getattr(config, "final_logit_softcapping", None),
    )


class Network:
    """The model's body and head. `plain_head` tells whether the head is a `Head`, to be stored as tensors."""

    def __init__(self, model):
        self.model = model
        self.device = model.device
        self.embedding = model.get_output_embeddings()
        self.vocabulary = self.embedding.weight.shape[0]
        self.head = _head_of(model)
        self.body = model.base_model
        self.plain_head = self._checks_out()
        self.linears = PackedLinears(model)

    @torch.inference_mode()
    def _checks_out(self) -> bool:
        ids = torch.arange(1, 4, device=self.device).remainder(self.vocabulary)[None]
        wanted = self.model(input_ids=ids, use_cache=False).logits[0].float()
        if self.body is self.model:
            return False
        got = self.head(self.body(input_ids=ids, use_cache=False).last_hidden_state[0])
        return got.shape == wanted.shape and torch.allclose(got, wanted, rtol=1e-3, atol=1e-3)

    def ours(self) -> AbstractContextManager[None]:
        """Within it the model's attention goes through `attend`; afterwards it is as it was."""
        return attending(self.model, NAME)

    def hidden(self, ids: Tensor, **options) -> Tensor:
        """Last hidden states (B, T, H) of token ids (B, T); `options` are the model's own keywords."""
        options.setdefault("use_cache", False)
        if self.plain_head:
            return self.body(input_ids=ids, **options).last_hidden_state
        caught: list[Tensor] = []

        def catch(_, inputs):
            caught.append(inputs[0])
            return (inputs[0][:1, :1],)

        handle = self.embedding.register_forward_pre_hook(catch)
        try:
            self.model(input_ids=ids, **options)
        finally:
            handle.remove()
        return caught[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (N, V) in float32 of hidden states (N, H)."""
        if self.plain_head:
            return self.head.finish(self.embedding(hidden.to(self.head.weight.dtype)))
        handle = self.embedding.register_forward_pre_hook(lambda _, inputs: (hidden[None],))
        try:
            ids = torch.zeros(1, 1, dtype=torch.long, device=self.device)
            return self.model(input_ids=ids, use_cache=False).logits[0].float()
        finally:
            handle.remove()

    def like(self, head: Head | None) -> Callable[[Tensor], Tensor] | None:
        """A function that does what `head` does: this model's own one, which is faster, if it is the same."""
        mine = self.head
        if head is None or not self.plain_head or mine.bias is not None or head.bias is not None:
            return head
        same = (mine.scale, mine.cap) == (head.scale, head.cap) and mine.weight.shape == head.weight.shape
        return self.logits if same and torch.equal(mine.weight, head.weight) else head

    def chunks(self, hidden: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Logits of hidden states (N, H), as many rows at a time as CHUNK_ELEMENTS allows."""
        rows = max(1, CHUNK_ELEMENTS // self.vocabulary)
        for start in range(0, len(hidden), rows):
            part = slice(start, min(start + rows, len(hidden)))
            yield part, self.logits(hidden[part])


def out_of_memory(error: RuntimeError) -> bool:
    """Whether the error says that memory ran out, on whatever device."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in text or "out of memory" in text


def pad_right(rows: list[tuple[int, ...]], device) -> Tensor:
    """Token ids (B, T), filled with 0 on the right: a causal model does not look there."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
