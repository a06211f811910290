"""The engine without tricks: whole forwards in right-padded batches, transformers' own `generate`.

It serves the architectures whose masks, positions or caches the packed engine may not trust (Mamba,
recurrent hybrids, ALiBi), and is what the packed engine is tested against.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessorList, StoppingCriteriaList

from kick.engine.network import Network, out_of_memory, pad_right
from kick.engine.stopping import Decoding, check_numbers, pick

Found = list[tuple[int, Tensor]]  # indices of readings, each with its hidden states (count, H)
Reading = tuple[tuple[int, ...], int]  # token ids, and how many of the last positions are wanted


def read(network: Network, readings: Sequence[Reading], batch_tokens: int) -> Iterator[Found]:
    """Batches of (index, hidden states (count, H)) of the last positions of each reading, longest first."""
    order = sorted(range(len(readings)), key=lambda i: -len(readings[i][0]))
    while order:
        part = order[: max(1, batch_tokens // len(readings[order[0]][0]))]
        try:
            hidden = network.hidden(pad_right([readings[i][0] for i in part], network.device))
        except RuntimeError as error:
            if not out_of_memory(error) or len(part) == 1:
                raise
            batch_tokens //= 2
            continue
        order = order[len(part) :]
        yield [
            (i, hidden[row, len(readings[i][0]) - readings[i][1] : len(readings[i][0])])
            for row, i in enumerate(part)
        ]


def generate(network: Network, decodings: Sequence[Decoding], batch_tokens: int) -> Iterator[int]:
    """Continue each with the model's own `generate`; rows of a batch have equal lengths, unpadded."""
    waiting: dict[tuple[int, int], list[int]] = {}
    for i, row in enumerate(decodings):
        if row.done:
            yield i
        else:
            waiting.setdefault((len(row.prompt), row.limit), []).append(i)
    for (width, limit), members in sorted(waiting.items(), reverse=True):
        while members:
            part = members[: max(1, batch_tokens // (width + limit))]
            try:
                _batch(network, [decodings[i] for i in part])
            except RuntimeError as error:
                if not out_of_memory(error) or len(part) == 1:
                    raise
                batch_tokens //= 2
                for i in part:
                    decodings[i].restart()
                continue
            members = members[len(part) :]
            yield from part


def _batch(network: Network, rows: list[Decoding]) -> None:
    ids = torch.tensor([row.prompt for row in rows], device=network.device)

    def choose(_, scores: Tensor) -> Tensor:
        """Leave only the token that each row takes, so that generate's argmax takes it."""
        check_numbers(scores.amax(-1))
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
