"""The tables of docs/runtime.md ("What was seen") from the results of the preset longcontext.

    python benchmarks/longcontext_seen.py results/longcontext

Exact match per kind and over all items, and the difference to dense with its 95 % interval, from 10,000 draws
of whole texts: five items, one per depth, are of one text. At the end whether what Wanda and Twilight take
adds: the difference of their differences.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kick.store import opened

KINDS = ("needle", "needles", "variables", "qa")
DEPTHS, DRAWS = 5, 10_000
PRUNED, SPARSE = "wanda-0.5", "twilight-p=0.7"
Floats = NDArray[np.float64]


def texts_of(folder: str) -> dict[str, dict[str, Floats]]:
    """By variant and task the scores (texts, depths)."""
    store, found = opened(folder), dict[str, dict[str, Floats]]()
    for run in store.runs():
        scores = np.array([sample.scores["exact_match"] for sample in store.samples(run.key)])
        found.setdefault(run.cell.variant.name, {})[run.cell.task.name] = scores.reshape(-1, DEPTHS)
    return found


def interval(differences: Floats) -> str:
    """The mean of (texts, depths) and its 95 % interval over texts, in points."""
    random = np.random.default_rng(0)
    drawn = random.integers(len(differences), size=(DRAWS, len(differences)))
    low, high = np.quantile(differences[drawn].mean(axis=(1, 2)), [0.025, 0.975])
    return f"{100 * differences.mean():+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("results", help="the folder of results of the matrix longcontext")
    found = texts_of(parser.parse_args().results)
    tasks = sorted(set.intersection(*map(set, found.values())))
    kinds = {kind: [task for task in tasks if f"_{kind}_" in task] for kind in KINDS}
    whole = {name: np.concatenate([own[task] for task in tasks]) for name, own in found.items()}
    print(f"{len(tasks)} tasks, {whole['dense'].size} items")
    for name in sorted(found):
        scores = [100 * np.concatenate([found[name][task] for task in kinds[kind]]).mean() for kind in KINDS]
        shown = "  ".join(f"{kind} {score:.1f}" for kind, score in zip(KINDS, scores, strict=True))
        print(
            f"{name}: {shown}  all {100 * whole[name].mean():.1f}, {interval(whole[name] - whole['dense'])}"
        )
    on_pruned = whole[f"{PRUNED}+{SPARSE}"] - whole[PRUNED]
    on_dense = whole[SPARSE] - whole["dense"]
    print(f"{SPARSE} on {PRUNED} {interval(on_pruned)}, on dense {interval(on_dense)}")
    print(f"difference of the two {interval(on_pruned - on_dense)}")


if __name__ == "__main__":
    main()
