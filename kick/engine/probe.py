"""How whole forwards may be run: found out on a few tokens when a model is loaded, never taken on trust.

A causal model's number at a position depends on nothing after it, and on no other row. Not every model that
loads is one: some see padding on the right unless a mask is given, some build no causal mask under one kind
of attention, some look both ways. So a row beside a longer one must equal the row alone, and a changed last
token must change nothing before it. Of the ways below the first that holds both is taken; a model for which
none does is refused, since no score of it would be a language model's.

Nor is every model's own `generate` its forward: transformers 5.17 numbers the positions of RoBERTa's family
from 0 there and from 2 in a forward. What is generated must come from the logits that are scored.

LLM.int8() of bitsandbytes is a case of its own: which inputs it rounds depends on all tokens of a forward.
Its numbers are those of a row alone, whatever they owe to the tokens behind.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from kick.engine import whole
from kick.engine.network import Manner, Network, out_of_memory
from kick.errors import KickError
from kick.model.elsewhere import looks_ahead

log = logging.getLogger("kick.engine")

TOLERANCE = 1e-3  # of the length of a hidden state, at every position
LOOSE = 6e-2  # the tolerance of half precision, at the median position
STRIDE = 997  # spreads the tokens below over the vocabulary: its first ones are special, and hardly trained
_SHORT, _LONG = (5, 3, 7, 4, 9), (6, 2, 8, 11, 3, 10, 4, 12, 7)
_OTHER = 13  # in place of the last token

MANNERS = tuple(
    Manner(mask, attention, alone)
    for alone in (False, True)
    for mask, attention in ((False, None), (True, None), (True, "eager"))
)


@torch.inference_mode()
def manner_of(network: Network) -> Manner:
    """The first of MANNERS in which a row's numbers are its own; `network.manner` is left as it was.

    Raises KickError if there is none.
    """
    short, long = (tuple(i * STRIDE % network.vocabulary for i in ids) for ids in (_SHORT, _LONG))
    other = (*long[:-1], _OTHER * STRIDE % network.vocabulary)
    before, why = network.manner, "a token changes what is computed before it"
    ahead = looks_ahead(network.model)
    if ahead:
        log.warning("LLM.int8() rounds by all tokens of a forward: every row is computed alone and whole")
    try:
        for manner in MANNERS:
            if ahead and not manner.alone:
                continue
            network.manner = manner
            try:
                alone = network.whole([long])[0]
                if not bool(alone.isfinite().all()):
                    return Manner(checked=False)
                if not same(network.whole([other])[0][:-1], alone[:-1], loose=ahead):
                    continue
                if manner.alone or _padding_unseen(network, short, long, alone):
                    return manner
                why = "a row changes with the rows beside it"
            except (TypeError, ValueError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and out_of_memory(error):
                    raise
                why = f"{type(error).__name__}: {error}"
    finally:
        network.manner = before
    raise KickError(
        f"{type(network.model).__name__} cannot be measured as a causal language model: {why}, with an "
        "attention mask or without, with its own attention or eager; expected: a decoder-only model"
    )


@torch.inference_mode()
def generates(network: Network) -> bool:
    """Whether the model's own `generate` computes the logits of whole forwards, at a prompt and after it.

    Numbers that are not finite are not judged.
    """
    ids = [i * STRIDE % network.vocabulary for i in _LONG]
    prompt, after = ids[:5], ids[5:]
    seen: list[Tensor] = []

    def force(sequences: Tensor, scores: Tensor) -> Tensor:
        seen.append(scores[0].float())
        forced = torch.full_like(scores, -float("inf"))
        forced[0, after[sequences.shape[1] - len(prompt)]] = 0.0
        return forced

    def stop(sequences: Tensor, _: Tensor, **__: object) -> Tensor:
        return torch.tensor([sequences.shape[1] == len(ids)], device=sequences.device)

    hidden = network.whole([tuple(ids[:-1])])[0, len(prompt) - 1 :]
    expected = network.logits(hidden)
    if not bool(expected.isfinite().all()):
        return True
    try:
        whole.native(network, [prompt], len(after), force, stop, {})
    except (AttributeError, TypeError, ValueError, LookupError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and out_of_memory(error):
            raise
        log.warning("answers by whole forwards: the model's own generate raises %s", type(error).__name__)
        return False
    dtype = hidden.dtype
    fine = len(seen) == len(after) and same(torch.stack(seen).to(dtype), expected.to(dtype))
    if not fine:
        log.warning("answers by whole forwards: the model's own generate computes other logits")
    return fine


def _padding_unseen(network: Network, short: tuple, long: tuple, alone: Tensor) -> bool:
    """Whether a short row beside a long one, and the long one, equal each alone."""
    both = network.whole([short, long])
    return same(both[0, : len(short)], network.whole([short])[0]) and same(both[1], alone)


def same(found: Tensor, expected: Tensor, loose: bool = False) -> bool:
    """Whether hidden states (N, H) are the same but for rounding.

    In half precision, or if `loose`, a position may differ for no fault, so there the median position counts.
    """
    off = (found - expected).float().norm(dim=-1)
    length = expected.float().norm(dim=-1)
    if expected.dtype in (torch.float32, torch.float64) and not loose:
        return bool((off <= TOLERANCE * length).all())
    return bool(off.median() <= LOOSE * length.median())
