"""Does calibration care which text it sees? Perplexities over seeds, and each choice against random text.

    python benchmarks/calibration_seen.py results/calibration-text

RESULTS is of the matrix `calibration-text` (docs/recovery.md): variants under several choices of calibration
text and several seeds. For each method and choice it prints the perplexity of each seed, their geometric
mean, and how far that is from the one of random text, in per cent, with a 95 % interval of the difference of
two means of seeds (Welch's t, of log perplexities). The seeds are what is drawn; the windows are the same.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from scipy import stats  # noqa: E402

import kick  # noqa: E402


def rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Log perplexities by recipe ("method"), choice of text ("selection", "" for random) and seed."""
    found = frame[(frame["metric"] == "perplexity") & (frame["group"] == "") & frame["seed"].notna()]
    return found.assign(log=np.log(found["value"]))[["method", "selection", "seed", "log"]]


def difference(ours: pd.Series, theirs: pd.Series) -> tuple[float, float, float]:
    """exp of the difference of two means minus 1, and its 95 % interval by Welch's t."""
    test = stats.ttest_ind(ours, theirs, equal_var=False)
    interval = test.confidence_interval(0.95)
    return tuple(math.expm1(one) for one in (ours.mean() - theirs.mean(), interval.low, interval.high))


def main() -> None:
    """Print the table."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    found = rows(kick.results(sys.argv[1]))
    table = Table("method", "text", "perplexity by seed", "mean", "against random, %", "95 % interval")
    for method, part in found.groupby("method", sort=False):
        texts = {text: one.sort_values("seed")["log"] for text, one in part.groupby("selection")}
        random = texts.get("", pd.Series(dtype=float))
        for text, logs in texts.items():
            middle, low, high = difference(logs, random) if text else (math.nan,) * 3
            known = len(logs) > 1 and len(random) > 1 and text
            table.add_row(
                str(method),
                str(text) or "random",
                ", ".join(f"{one:.1f}" for one in np.exp(logs)),
                f"{np.exp(logs.mean()):.1f}",
                f"{100 * middle:+.1f}" if known else "-",
                f"{100 * low:+.1f} to {100 * high:+.1f}" if known else "-",
            )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
