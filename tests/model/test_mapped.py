"""Pages of mapped files that a process lets go: only those that are as they are in the file."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest
import torch

from kick.model import mapped

DETAILS = Path("/proc/self/smaps")
pytestmark = pytest.mark.skipif(not mapped.PAGES.exists(), reason="Linux says which pages were written to")


def _resident(part: str, rights: str = "") -> int:
    """kB in memory of the mappings whose name has such a part, and whose rights begin so."""
    found, counts = 0, False
    for line in DETAILS.read_text().splitlines():
        words = line.split(maxsplit=5)
        if not words[0].endswith(":"):
            counts = part in line and words[1].startswith(rights)
        elif counts and words[0] == "Rss:":
            found += int(words[1])
    return found


@pytest.fixture
def pages(tmp_path):
    """64 pages of a file in memory, each read, and where they are."""
    file = tmp_path / "mapped.bin"
    file.write_bytes(b"".join(bytes([number]) * mmap.PAGESIZE for number in range(64)))
    with file.open("r+b") as opened:
        area = mmap.mmap(opened.fileno(), 0, mmap.MAP_PRIVATE)
    values = np.frombuffer(area, np.uint8)
    assert values.sum() == mmap.PAGESIZE * 64 * 63 // 2
    return values, values.ctypes.data, area


def test_pages_that_were_read_go_and_come_back(pages):
    values, start, _ = pages
    page = mmap.PAGESIZE // 1024
    assert _resident("mapped.bin") == 64 * page
    assert mapped.spans("mapped.bin") == [(start, start + 64 * mmap.PAGESIZE)]
    assert mapped.let_go(start + 1, 63 * mmap.PAGESIZE)
    assert _resident("mapped.bin") == 2 * page, "of a page that begins before the range nothing goes"
    assert values.sum() == mmap.PAGESIZE * 64 * 63 // 2


def test_a_page_that_was_written_to_keeps_its_range(pages):
    values, start, area = pages
    area[7 * mmap.PAGESIZE] = 200
    assert not mapped.let_go(start, len(values))
    assert values[7 * mmap.PAGESIZE] == 200
    assert mapped.let_go(start + 8 * mmap.PAGESIZE, 8 * mmap.PAGESIZE), "what is beside it may go"
    assert not mapped.let_go(start, 100), "less than a page"
    own = np.ones(64 * mmap.PAGESIZE, np.uint8)
    assert not mapped.let_go(own.ctypes.data, len(own)), "memory of no file"
    assert own.all()


def test_nothing_goes_where_the_system_does_not_say_what_was_written(pages, monkeypatch, tmp_path):
    values, start, _ = pages
    monkeypatch.setattr(mapped, "PAGES", tmp_path / "none")
    assert not mapped.let_go(start, len(values))


def test_libraries_let_their_pages_go_and_run_on():
    before = _resident("libtorch_cpu.so", "r-xp")
    mapped.let_libraries_go()
    assert _resident("libtorch_cpu.so", "r-xp") < before / 2
    assert torch.equal(torch.eye(3) @ torch.ones(3, 2), torch.ones(3, 2))
