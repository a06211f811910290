"""The language model's loss, with the head run on a slice of the positions at a time.

A vocabulary of 49,152 makes 50 MB of logits of 256 tokens, and a plain loss holds them three times over. Here
the body runs once, and the model's own head, with what follows it (a factor, a soft cap), is given a part of
the hidden states after the other; a part's logits are gone before the next one's are made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

VERSION = 1  # 1: by slices
Extra = Callable[[], Tensor | None]
SLICE = 2**22  # logits held at once
VIEWS = ("SelectBackward0", "ViewBackward0", "UnsafeViewBackward0", "SliceBackward0")
MATRICES = ("MmBackward0", "AddmmBackward0")


def loss_of(model: Any, ids: Tensor) -> float:
    """The mean loss over the tokens of a window (1, length), in nats per token; nothing is trained."""
    with torch.no_grad():
        return _run(model, ids, 1.0)


def backward(model: Any, ids: Tensor, share: float = 1.0, extra: Extra | None = None) -> float:
    """Add the gradients of `share` times the mean loss over a window (1, length); that product.

    extra: called behind the body, what is to be added to the mean loss, or None.
    """
    return _run(model, ids, share, extra)


def _run(model: Any, ids: Tensor, share: float, extra: Extra | None = None) -> float:
    body = model.get_decoder()
    if body is model:  # there is no body apart
        return _whole(model, ids, share, extra)
    given = body(input_ids=ids, use_cache=False)
    hidden = given.last_hidden_state
    more = None if extra is None else extra()
    leaf = hidden.detach().requires_grad_(hidden.requires_grad)
    last = ids.shape[1] - 1
    rows = max(1, SLICE // model.get_output_embeddings().weight.shape[0])
    total = 0.0
    for start in range(0, last, rows):
        part = slice(start, min(start + rows, last))
        with _body_gives(body, given, leaf[:, part]) as asked:
            logits = model(input_ids=ids[:, part], use_cache=False).logits[0]
        if not asked:  # the model has its hidden states from elsewhere
            return _whole(model, ids, share, extra)
        total += _slice(logits, ids[0, part.start + 1 : part.stop + 1], share / last)
        del logits
    ends: list[tuple[Tensor, Tensor]] = [] if leaf.grad is None else [(hidden, leaf.grad)]
    if more is not None:
        total += share * float(more.detach())
        ends += [(more, torch.full_like(more, share))] if more.requires_grad else []
    if ends:
        torch.autograd.backward([end for end, _ in ends], [grad for _, grad in ends])
    return total


def _whole(model: Any, ids: Tensor, share: float, extra: Extra | None) -> float:
    """The same by the model's own loss."""
    loss = model(ids, labels=ids, use_cache=False).loss
    more = None if extra is None else extra()
    loss = (loss if more is None else loss + more) * share
    if loss.requires_grad:
        loss.backward()
    return float(loss.detach())


def _slice(logits: Tensor, targets: Tensor, weight: float) -> float:
    """`weight` times the summed loss of logits (n, V) at targets (n,), whose gradients go back at once."""
    with torch.no_grad():
        values = logits.detach().float()
        logs = torch.log_softmax(values, -1, out=values) if _alone(logits, values) else values.log_softmax(-1)
        loss = -float(logs.gather(1, targets[:, None]).double().sum()) * weight
        if not logits.requires_grad:
            return loss
        grad = logs.exp_()
        grad[torch.arange(len(targets), device=grad.device), targets] -= 1
        grad *= weight
    logits.backward(grad.to(logits.dtype))
    return loss


def _alone(logits: Tensor, values: Tensor) -> bool:
    """Whether values may be written over as they are read: on a CPU, and they are a copy, or what a matrix
    gave, which autograd does not ask for again."""
    if logits.device.type != "cpu":
        return False
    if values.data_ptr() != logits.data_ptr():
        return True
    node = logits.grad_fn
    while node is not None and node.name() in VIEWS:
        node = node.next_functions[0][0]
    return node is not None and node.name() in MATRICES


@contextmanager
def _body_gives(body: Any, given: Any, hidden: Tensor) -> Iterator[list[bool]]:
    """While open, the body computes nothing and gives these hidden states; the list says if it was asked."""
    output, asked = type(given)(**{**given, "last_hidden_state": hidden}), list[bool]()

    def forward(*_args: Any, **_kwargs: Any) -> Any:
        asked.append(True)
        return output

    vars(body)["forward"] = forward
    try:
        yield asked
    finally:
        del vars(body)["forward"]
