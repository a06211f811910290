"""Pages of mapped files, which count as this process's memory for as long as it has them: they are let go
where nobody needs them now, and come back from the system's cache of the file as they are read again.

Pages that were written to differ from the file's, so that only the others may go. Linux says which those are;
where it does not, nothing is let go.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

MAPS = Path("/proc/self/maps")
PAGES = Path("/proc/self/pagemap")  # of each page of the address space a word of 64 bits
ENTRY = 8  # bytes of such a word
HERE = np.uint64(3 << 62)  # its bits of a page in memory, or swapped out
FILES = np.uint64(1 << 61)  # its bit of a page that is the file's, as it is there
LIBRARY = ".so"  # in the name of one


def spans(suffix: str) -> list[tuple[int, int]]:
    """The addresses of mapped files with such a name, in order: first, and the one after the last."""
    if not MAPS.exists():
        return []
    lines = (line for line in MAPS.read_text().splitlines() if line.endswith(suffix))
    return sorted(map(_range, lines))


def let_go(start: int, size: int) -> bool:
    """Drop the whole pages of a range of a mapped file from this process, if none of them was written to;
    whether that was so."""
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (start + size) // mmap.PAGESIZE * mmap.PAGESIZE
    if last <= first or not _as_in_the_file(first, last):
        return False
    _madvise()(first, last - first, mmap.MADV_DONTNEED)
    return True


def let_libraries_go() -> None:
    """Drop what libraries have brought into memory as they were loaded; what runs of them comes back.

    Importing touches most pages of a library, and running it few: with torch for CUDA it is 0.4 GB against
    0.07, with torch for the CPU 0.15 against 0.04.
    """
    for first, last in _libraries():
        let_go(first, last - first)


def _libraries() -> Iterator[tuple[int, int]]:
    """The addresses of libraries' code and constants: private mappings that may not be written to."""
    for line in MAPS.read_text().splitlines() if MAPS.exists() else ():
        parts = line.split(maxsplit=5)
        if len(parts) == 6 and LIBRARY in parts[5] and parts[1][1] == "-" and parts[1][3] == "p":
            yield _range(line)


def _range(line: str) -> tuple[int, int]:
    first, last = line.split(maxsplit=1)[0].split("-")
    return int(first, 16), int(last, 16)


def _as_in_the_file(first: int, last: int) -> bool:
    """Whether no page of a range was written to; False where the system does not say."""
    if not PAGES.exists():
        return False
    with PAGES.open("rb", buffering=0) as pages:
        pages.seek(first // mmap.PAGESIZE * ENTRY)
        count = (last - first) // mmap.PAGESIZE
        found = np.frombuffer(pages.read(count * ENTRY), np.uint64)
    here = found & HERE != 0
    return len(found) == count and bool((found[here] & FILES != 0).all())


@cache
def _madvise() -> ctypes._NamedFuncPointer:
    function = ctypes.CDLL(None).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function
