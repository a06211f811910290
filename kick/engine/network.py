"""A causal language model as two functions: token ids to last hidden states, hidden states to logits.

Apart, so that the vocabulary is multiplied only where something is scored. Most models are a body and a
linear head, perhaps with a scale or a soft cap behind it; `Network` checks on a few tokens that this
reading gives the model's own logits. Where it does not, hidden states are taken from in front of the head
of whole forwards, and logits are made by the model itself with the hidden states put in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kick.engine.packed.attend import NAME
from kick.model import owned
from kick.model.heap import Ebb
from kick.model.packed import PackedLinears
from kick.model.structure import attending

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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
        return finished(logits, self.scale, self.cap)


def finished(product: Tensor, scale: float, cap: float | None) -> Tensor:
    """Logits in float32 of what the head's weight and bias give."""
    logits = product.float()
    if scale != 1.0:
        logits = logits * scale
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits


def _head_of(model: PreTrainedModel) -> Head:
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


@dataclass(frozen=True)
class Manner:
    """How whole forwards are run so that a row's numbers are its own; `kick.engine.probe` finds it.

    mask: an attention mask is given. attention: transformers' name of the attention to be used, None for the
    model's own. alone: one row at a time. checked: whether the model's numbers were finite, so that it could
    be found out.
    """

    mask: bool = False
    attention: str | None = None
    alone: bool = False
    checked: bool = True

    def __str__(self) -> str:
        parts = ["one row at a time" if self.alone else "rows padded on the right"]
        parts += ["with a mask"] if self.mask else []
        parts += [f"{self.attention} attention"] if self.attention else []
        return ", ".join(parts if self.checked else [*parts, "unchecked: the numbers are not finite"])


class Network:
    """The model's body and head. `plain_head` tells whether the head is a `Head` on the body's states;
    `linear_head` whether it is one on the hidden states that are read here, to be stored as tensors.

    `manner` is how `whole` runs rows; `whole.read` and `whole.generate` obey it. `generates`: whether the
    model's own `generate` may be used. `kick.engine.probe` finds both.
    """

    def __init__(self, model: PreTrainedModel):
        self.model = model
        self.manner = Manner()
        self.generates = True
        self.ebb = Ebb()  # what a forward has freed goes back before the next
        self.rotations = [_Rotation(module) for module in model.modules() if _Rotation.grows(module)]
        self.device = model.device
        self.embedding = model.get_output_embeddings()
        self.vocabulary = self.embedding.weight.shape[0]
        self.head = _head_of(model)
        self.body = model.base_model
        self.plain_head = self._checks_out()
        self.linear_head = self.plain_head or self._ends_linear()
        owned.let_go(self.embedding.weight)  # all of it was read
        self.linears = PackedLinears(model)

    @property
    def size(self) -> int:
        """Bytes of the weights, each counted once."""
        return sum(weight.nbytes for weight in self.model.parameters())

    @torch.inference_mode()
    def _checks_out(self) -> bool:
        ids = torch.arange(1, 4, device=self.device).remainder(self.vocabulary)[None]
        wanted = self.model(input_ids=ids, use_cache=False).logits[0].float()
        if self.body is self.model:
            return False
        got = self.head(self.body(input_ids=ids, use_cache=False).last_hidden_state[0])
        return got.shape == wanted.shape and torch.allclose(got, wanted, rtol=1e-3, atol=1e-3)

    @torch.inference_mode()
    def _ends_linear(self) -> bool:
        """Whether logits are a `Head`'s of what goes into the output embedding, whatever is before it."""
        ids = torch.arange(1, 4, device=self.device).remainder(self.vocabulary)[None]
        wanted = self.model(input_ids=ids, use_cache=False).logits[0].float()
        hidden = self.hidden(ids)[0]
        if hidden.shape[-1] != self.head.weight.shape[-1]:
            return False
        got = self.head(hidden)
        return got.shape == wanted.shape and torch.allclose(got, wanted, rtol=1e-3, atol=1e-3)

    def ours(self) -> AbstractContextManager[None]:
        """Within it the model's attention goes through `attend`; afterwards it is as it was."""
        return attending(self.model, NAME)

    def forget(self) -> None:
        """Undo what an earlier, longer text left in the model: rotations that were stretched for it."""
        for rotation in self.rotations:
            rotation.reset()

    def native(self) -> AbstractContextManager[None]:
        """Within it the model's attention is the one that `manner` names."""
        name = self.manner.attention
        return nullcontext() if name is None else attending(self.model, name)

    def whole(self, rows: list[tuple[int, ...]]) -> Tensor:
        """Last hidden states (B, T, H) of whole texts, padded on the right, run as `manner` says.

        Raises ValueError for several rows where the manner is one at a time.
        """
        if self.manner.alone and len(rows) > 1:
            raise ValueError(f"{len(rows)} rows for a model that is answered one row at a time")
        options = {"attention_mask": mask_of(rows, self.device)} if self.manner.mask else {}
        with self.native():
            return self.hidden(pad_right(rows, self.device), **options)

    def hidden(self, ids: Tensor, **options: Any) -> Tensor:
        """Last hidden states (B, T, H) of token ids (B, T); `options` are the model's own keywords."""
        self.forget()
        self.ebb()
        options.setdefault("use_cache", False)
        if self.plain_head:
            return self.body(input_ids=ids, **options).last_hidden_state
        caught: list[Tensor] = []

        def catch(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
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
        equal = same and torch.equal(mine.weight, head.weight)
        for weight in (mine.weight, head.weight):
            owned.let_go(weight)
        return self.logits if equal else head

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


def pad_right(rows: list[tuple[int, ...]], device: torch.device) -> Tensor:
    """Token ids (B, T), filled with 0 on the right: a causal model does not look there."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)


def mask_of(rows: list[tuple[int, ...]], device: torch.device) -> Tensor:
    """The attention mask (B, T) that belongs to `pad_right`: 1 for a token, 0 for padding."""
    width = max(map(len, rows))
    return torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)


class _Rotation:
    """Rotary frequencies that a long text stretches and that stay stretched for the texts after it."""

    def __init__(self, module: nn.Module):
        self.module = module
        names = [*vars(module), *module._buffers]
        ends = ("inv_freq", "max_seq_len_cached", "attention_scaling")
        self.kept = {name: getattr(module, name) for name in names if name.endswith(ends)}

    @staticmethod
    def grows(module: nn.Module) -> bool:
        """Whether the module changes its frequencies with the length of what it is given."""
        kinds = getattr(module, "rope_type", None)
        kinds = kinds.values() if isinstance(kinds, dict) else [kinds]
        return any(kind is not None and "dynamic" in kind for kind in kinds)

    def reset(self) -> None:
        for name, value in self.kept.items():
            setattr(self.module, name, value)
        for name in [name for name in vars(self.module) if name.endswith("_max_seq_len_cached")]:
            if name not in self.kept:  # made for a layer type when the first long text came
                delattr(self.module, name)
