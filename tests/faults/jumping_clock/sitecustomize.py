"""Loaded by every Python whose path begins here: its wall clock goes back an hour at each look."""

import itertools
import time

_real, _looks = time.time, itertools.count(1)


def _jumping() -> float:
    return _real() - 3600.0 * next(_looks)


time.time = _jumping
time.time_ns = lambda: int(_jumping() * 1e9)
