"""Log-probabilities of target tokens from hidden states, a chunk of the vocabulary's rows at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kick.engine.network import Network

Targets = Sequence[tuple[int, ...]]


def score(network: Network, read: Sequence[tuple[Tensor, Targets]]) -> list[list[tuple[float, bool]]]:
    """For each (hidden states (N, H), sequences of targets) a (log-probability, greedy) per sequence.

    A sequence of k targets is predicted by the last k of the hidden states. Greedy: each is the argmax.
    """
    rows: list[int] = []
    targets: list[int] = []
    sizes: list[list[int]] = []
    start = 0
    for hidden, sequences in read:
        for ids in sequences:
            rows += range(start + len(hidden) - len(ids), start + len(hidden))
            targets += ids
        sizes.append([len(ids) for ids in sequences])
        start += len(hidden)
    hidden = torch.cat([hidden for hidden, _ in read])
    logs, best = _at(network, hidden, torch.tensor(rows), torch.tensor(targets))
    found, place = [], 0
    for own in sizes:
        answers = []
        for size in own:
            part = slice(place, place + size)
            answers.append((math.fsum(logs[part]), all(best[part])))
            place += size
        found.append(answers)
    return found


def _at(network: Network, hidden: Tensor, rows: Tensor, targets: Tensor) -> tuple[list[float], list[bool]]:
    """Log-probability of each target at its row, and whether it is the row's argmax."""
    logs, best = torch.empty(len(rows)), torch.empty(len(rows), dtype=torch.bool)
    for part, logits in network.chunks(hidden):
        mine = ((rows >= part.start) & (rows < part.stop)).nonzero()[:, 0]
        at = (rows[mine] - part.start).to(hidden.device)
        wanted = targets[mine].to(hidden.device)
        logs[mine] = (logits[at, wanted] - logits.logsumexp(-1)[at]).cpu()
        best[mine] = (logits.argmax(-1)[at] == wanted).cpu()
    return logs.tolist(), best.tolist()
