"""The engine without tricks: whole forwards in right-padded batches, transformers' own `generate`.

It serves the architectures whose masks, positions or caches the packed engine may not trust (Mamba,
recurrent hybrids, ALiBi), and is what the packed engine is tested against.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor
from transformers import LogitsProcessorList, StoppingCriteriaList

from kick.engine.network import Network, pad_right
from kick.engine.stopping import Decoding, pick

Reading = tuple[tuple[int, ...], int]  # token ids, and how many of the last positions are wanted


def read(
    network: Network, readings: Sequence[Reading], batch_tokens: int
) -> Iterator[list[tuple[int, Tensor]]]:
    """Batches of (index, hidden states (count, H)) of the last positions of each reading, longest first."""
    order = sorted(range(len(readings)), key=lambda i: -len(readings[i][0]))
    start = 0
    while start < len(order):
        width = len(readings[order[start]][0])
        part = order[start : start + max(1, batch_tokens // width)]
        hidden = network.hidden(pad_right([readings[i][0] for i in part], network.device))
        found = []
        for row, i in enumerate(part):
            ids, count = readings[i]
            found.append((i, hidden[row, len(ids) - count : len(ids)]))
        yield found
        start += len(part)


def generate(
    network: Network, decodings: Sequence[Decoding], batch_tokens: int
) -> Iterator[tuple[int, Decoding]]:
    """Continue each with the model's own `generate`; rows of a batch have equal lengths, unpadded."""
    order = sorted(range(len(decodings)), key=lambda i: (-len(decodings[i].prompt), decodings[i].limit))
    for (width, limit), group in groupby(order, key=lambda i: (len(decodings[i].prompt), decodings[i].limit)):
        members = list(group)
        size = max(1, batch_tokens // (width + limit))
        for start in range(0, len(members), size):
            part = members[start : start + size]
            _batch(network, [decodings[i] for i in part])
            yield from ((i, decodings[i]) for i in part)


def _batch(network: Network, rows: list[Decoding]) -> None:
    ids = torch.tensor([row.prompt for row in rows], device=network.device)

    def choose(_, scores: Tensor) -> Tensor:
        """Leave only the token that each row takes, so that generate's argmax takes it."""
        forced = torch.full_like(scores, -float("inf"))
        for i, row in enumerate(rows):
            forced[i, pick(scores[i], row)] = 0.0
        return forced

    def stop(sequences: Tensor, _, **__) -> Tensor:
        for i, row in enumerate(rows):
            if not row.done:
                row.accept(int(sequences[i, -1]))
        return torch.tensor([row.done for row in rows], device=sequences.device)

    network.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_length=None,
        max_new_tokens=rows[0].limit,
        do_sample=False,
        logits_processor=LogitsProcessorList([choose]),
        stopping_criteria=StoppingCriteriaList([stop]),
        pad_token_id=0,
    )
