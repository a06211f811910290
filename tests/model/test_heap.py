"""Memory that lies apart from the heap, and goes back when it is freed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kick.model import heap
from kick.model.heap import Ebb, apart, give_back, room

STATUS = Path("/proc/self/status")
MB = 2**20


def _resident() -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 1, 2), (3, 2, 5000, 8)])
def test_room_is_zeros_that_can_be_written(shape, dtype):
    made = room(shape, torch.ones(1, dtype=dtype))
    assert (made.shape, made.dtype) == (shape, dtype)
    assert not made.any()
    made[1] = 2.0
    assert (made[1] == 2.0).all()
    assert not made[2].any()


@pytest.mark.skipif(not STATUS.exists(), reason="Linux says what is resident")
def test_room_takes_memory_where_it_is_written_and_while_it_lives():
    before = _resident()
    made = room((64, MB // 4), torch.ones(1))
    assert made.sum() == 0
    assert _resident() - before < 8 * MB, "64 MB were only read"
    made[:32] = 1.0
    assert 32 * MB <= _resident() - before < 40 * MB
    del made
    assert _resident() - before < 8 * MB


@pytest.mark.skipif(not STATUS.exists(), reason="Linux says what is resident")
def test_what_lies_apart_goes_back_although_the_heap_goes_on():
    give_back()
    before, kept = _resident(), []
    with apart():
        large = []
        for _ in range(192):  # the first of them may lie in what is free of the heap
            large.append(torch.ones(MB // 4))
            kept.append(torch.ones(64))  # in a heap it would keep the pieces below it from going back
    assert _resident() - before >= 128 * MB
    del large
    assert _resident() - before < 64 * MB
    assert all(one.sum() == 64 for one in kept)


def test_the_heap_goes_back_when_the_process_has_grown(monkeypatch):
    sizes, given = iter([100, 90, 95, 101, 92, 97, 102, 80, 89]), []
    monkeypatch.setattr(heap, "resident", lambda: next(sizes))
    monkeypatch.setattr(heap, "give_back", lambda: given.append(True))
    ebb, seen = Ebb(slack=10), []
    for _ in range(6):  # 100 then 90; 95; 101 then 92; 97; 102 shows nothing at 92 + 10; 80
        ebb()
        seen.append((len(given), ebb.level))
    assert seen == [(1, 90), (1, 90), (2, 92), (2, 92), (2, 92), (2, 80)]
