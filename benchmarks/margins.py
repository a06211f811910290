"""Would it pay to ask first the items that dense is least sure of? The figures of docs/statistics.md.

    python benchmarks/margins.py [RESULTS] [--sizes 256 1000 14042] [--runs 600] [--edges] [--out FILE]

1. Where flips are: of a results folder (default: docs/tour) the multiple-choice tasks, their items in the
   order of dense's margin, the log-probability of its choice less that of the next one.
2. The variance per item asked, as a share of that in a uniform order, if strata of the margin are asked at
   unequal rates.
3. Simulated: the share of the items that the rule of `kick.stats.sequential` asks, uniform order against
   strata, for true changes and places of flips as stored results have them. `--edges`: instead, how often the
   rule is wrong where the true change is at the margin, wherever the flips are (raise --runs to 8000).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from kick.records import Result, Sample  # noqa: E402
from kick.stats import flip_looks  # noqa: E402
from kick.stats.equivalence import LIMIT  # noqa: E402
from kick.stats.flips import Asked, Floats  # noqa: E402
from kick.stats.sequential import Rule, schedule  # noqa: E402
from kick.store import Store  # noqa: E402

Numbers = NDArray[np.int64]
PLACES = (np.arange(20000) + 0.5) / 20000  # of items by dense's margin, from the smallest
FROM = 100  # items from which on strata are asked at rates of their own: a broken variant needs none


# ------------------------------------------------------------------------------------ strata


class Design(NamedTuple):
    """Strata of the items in the order of dense's margin: where they are cut, as shares of all items, and the
    rates at which they are asked, relative to each other."""

    cuts: tuple[float, ...] = ()
    rates: tuple[float, ...] = (1.0,)

    def sizes(self, total: int) -> Numbers:
        """Items in each stratum `(h,)`."""
        return np.diff([0, *(round(cut * total) for cut in self.cuts), total])

    def asked(self, total: int, looks: Sequence[int]) -> Numbers:
        """Items of each stratum that have been asked at each look `(looks, h)`."""
        return np.maximum.accumulate([self._first(total, look) for look in looks], axis=0)

    def _first(self, total: int, count: int) -> Numbers:
        sizes = self.sizes(total)
        if count == total:
            return sizes
        rates = np.array(self.rates if count >= FROM else [1.0] * len(sizes))
        scale = optimize.brentq(lambda s: np.minimum(sizes, s * rates * sizes).sum() - count, 0, 100)
        exact = np.minimum(sizes, scale * rates * sizes)
        whole = np.floor(exact + 1e-6).astype(int)
        whole[np.argsort(whole - exact, kind="stable")[: count - whole.sum()]] += 1
        return np.minimum(whole, sizes)


DESIGNS = {
    "uniform": Design(),
    "twentieth x 4": Design((0.05,), (4, 1)),
    "twentieth x 5, quarter x 1.5": Design((0.05, 0.25), (5, 1.5, 1)),
}


# ------------------------------------------------------------------------------------ stored answers


@dataclass(frozen=True)
class Answers:
    """A task's items in the order of dense's margin: what dense has right `(n,)`, and each variant."""

    task: str
    dense: Floats
    variants: dict[str, Floats]


def read(folder: Path) -> Iterator[Answers]:
    """The multiple-choice tasks of a results folder that dense and its variants were asked in full."""
    store = Store(folder)
    tasks: dict[str, list[Result]] = {}
    for result in store.runs():
        if result.cell.variant.replica is None:
            tasks.setdefault(result.cell.task.name, []).append(result)
    for task, results in sorted(tasks.items()):
        dense = next((result for result in results if result.cell.variant.dense), None)
        if dense is None or "acc" not in {score.metric for score in dense.scores}:
            continue
        margins = {sample.item: margin(sample) for sample in store.samples(dense.key)}
        items = sorted(margins, key=lambda item: (margins[item], item))
        columns = {}
        for result in results:
            scores = {sample.item: sample.scores["acc"] for sample in store.samples(result.key)}
            if scores.keys() == margins.keys():
                columns[result.cell.variant.name] = np.array([scores[item] for item in items])
        yield Answers(task, columns.pop(dense.cell.variant.name), columns)


def margin(sample: Sample) -> float:
    """By how much the likeliest choice leads, in nats."""
    best, second = sorted((r.logprob for r in sample.responses if r.logprob is not None), reverse=True)[:2]
    return best - second


def where(found: Answers) -> Iterator[str]:
    """A line per variant: its flips, and how many lie among the items with the least margin."""
    n = len(found.dense)
    for name, scores in found.variants.items():
        at = np.flatnonzero(scores != found.dense)
        change = scores.mean() / found.dense.mean() - 1
        counts = [int((at < share * n).sum()) for share in (0.05, 0.1, 0.25)]
        yield f"{name}: {change:+.1%}, {len(at)} flips; lowest twentieth, tenth, quarter: {counts}"


def variance(found: Answers, name: str, design: Design) -> float:
    """The variance per item asked, post-stratified by dense's answer and by stratum, as a share of that of
    the plain paired difference in a uniform order. NaN without a flip."""
    n, change = len(found.dense), found.variants[name] - found.dense
    stratum = np.repeat(np.arange(len(design.rates)), design.sizes(n))
    rates = np.array(design.rates) / np.mean(np.array(design.rates)[stratum])
    total = 0.0
    for h in range(len(rates)):
        for answer in (0.0, 1.0):
            own = change[(stratum == h) & (found.dense == answer)]
            total += len(own) / n * own.var() / rates[h] if len(own) else 0.0
    return total / change.var() if change.any() else np.nan


def variances(found: Answers) -> Iterator[str]:
    """A line per variant: the variance per item of each design."""
    for name in found.variants:
        yield f"{name}: " + ", ".join(
            f"{title} {variance(found, name, design):.2f}" for title, design in DESIGNS.items()
        )


# ------------------------------------------------------------------------------------ simulated studies


class Truth(NamedTuple):
    """A variant: the true change as a share of dense's score, the share of all items that flip against it,
    and the density of flips by the place of an item in the order of the margin (1 on average)."""

    change: float
    other: float
    density: Callable[[Floats], Floats]


def low(at: Floats) -> Floats:
    """Three quarters of the flips in the lowest quarter, as gptq at 4 bits and wanda at 30 % have them."""
    return np.where(at < 0.25, 3.0, 1 / 3)


def lowest(at: Floats) -> Floats:
    """All of them in the lowest twentieth, as 8 bits must have them."""
    return np.where(at < 0.05, 20.0, 0.0)


def even(at: Floats) -> Floats:
    """Nothing to do with the margin."""
    return np.ones_like(at)


def upper(at: Floats) -> Floats:
    """None in the lowest quarter: all in the stratum that is asked least."""
    return np.where(at >= 0.25, 4 / 3, 0.0)


def top(at: Floats) -> Floats:
    """All in the highest quarter."""
    return np.where(at >= 0.75, 4.0, 0.0)


TRUTHS = {
    "8 bits, 1 % flip": Truth(-0.004, 0.004, lowest),
    "8 bits, not only there": Truth(-0.004, 0.004, low),
    "-2.4 %": Truth(-0.024, 0.02, low),
    "-10 %": Truth(-0.10, 0.02, low),
    "-16 %": Truth(-0.16, 0.03, low),
    "-16 %, anywhere": Truth(-0.16, 0.03, even),
    "-35 %": Truth(-0.35, 0.03, even),
}
DENSE = {0.7: lambda at: 0.45 + 0.5 * at, 0.35: lambda at: 0.3 + 0.1 * at}  # right by place: facts, MMLU
EDGE_DENSE = {0.7: DENSE[0.7], 0.92: lambda at: 0.85 + 0.14 * at}


def counts(
    total: int, design: Design, right: Callable[[Floats], Floats], truth: Truth, runs: int, seed: int
) -> Asked:
    """Counts `(looks, runs, h)` of studies of `total` items; strata asked in proportion are taken as one."""
    looks = schedule(total, Rule()).looks
    asked, sizes = design.asked(total, looks), design.sizes(total)
    stratum = np.searchsorted(np.array(design.cuts), PLACES, side="right")
    p, density, rng = right(PLACES), truth.density(PLACES), np.random.default_rng([seed, total])
    toward = abs(truth.change) * p.mean() + truth.other
    lost, won = (toward, truth.other) if truth.change < 0 else (truth.other, toward)
    loses = lost * density / np.mean(density * p) * p
    wins = won * density / np.mean(density * (1 - p)) * (1 - p)
    has_p, loses, wins = (
        np.array([share[stratum == h].mean() for h in range(len(sizes))]) for share in (p, loses, wins)
    )
    new = np.diff(asked, axis=0, prepend=0)[:, None]
    has = rng.binomial(new, has_p, (len(looks), runs, len(sizes)))
    flipped = [
        rng.binomial(has, loses / has_p),
        rng.binomial(new - has, wins / (1 - has_p)),
    ]
    found = [np.cumsum(part, axis=0).astype(float) for part in (has, new - has, *flipped)]
    whole = [np.broadcast_to(part[-1], part.shape).copy() for part in found[:2]]
    for at, look in enumerate(looks):
        if (np.abs(asked[at] - look * sizes / total) < 1).all():
            for part in (*whole, *found):
                part[at, :, 0], part[at, :, 1:] = part[at].sum(-1), 0
    return Asked(*whole, *found)


class Studied(NamedTuple):
    """Shares of studies said to match, to be lower and to be higher; the mean share of items asked; the share
    of studies with the fixed rule's verdict at all items."""

    matching: float
    lower: float
    higher: float
    asked: float
    agreement: float


def studied(
    total: int, design: Design, right: Callable[[Floats], Floats], truth: Truth, runs: int, futile: float
) -> Studied:
    """Simulate and walk through the looks."""
    by = schedule(total, Rule(futility=futile))
    found = counts(total, design, right, truth, runs, 1)
    walked = flip_looks.walk(found, by)
    fixed = flip_looks.shown(found.of(-1), by.margin, np.full(runs, LIMIT), last=True)
    shares = [float((walked.verdict == code).mean()) for code in (1, 2, 3)]
    asked = float(np.array(by.looks)[walked.look].mean() / total)
    return Studied(*shares, asked, float((walked.verdict == fixed).mean()))


def saved(sizes: Sequence[int], runs: int) -> Iterator[str]:
    """A line per number of items, dense score and design: the share asked (agreement) of each truth."""
    for total in sizes:
        for p, right in DENSE.items():
            for name, design in DESIGNS.items():
                each = [studied(total, design, right, truth, runs, 0.1) for truth in TRUTHS.values()]
                cells = ", ".join(
                    f"{title}: {one.asked:.3f} ({one.agreement:.2f})"
                    for title, one in zip(TRUTHS, each, strict=True)
                )
                mean = np.mean([one.asked for one in each])
                yield f"N {total}, dense {p}, {name}: mean {mean:.3f}; {cells}"


def edges(sizes: Sequence[int], runs: int) -> Iterator[str]:
    """A line per number of items, dense score and design: the largest error at either end of the margin."""
    for total in sizes:
        for p, right in EDGE_DENSE.items():
            for name, design in DESIGNS.items():
                worst = np.zeros(2)
                for change in (-0.05, 0.05):
                    for density in (even, upper, top, low):
                        for other in (0.0, 0.02):
                            if density is not even and change > 0 and p > 0.9:
                                continue  # more than all of dense's wrong items there
                            truth = Truth(change, other, density)
                            one = studied(total, design, right, truth, runs, 0.0)
                            worst = np.maximum(worst, [one.matching, max(one.lower, one.higher)])
                yield f"N {total}, dense {p}, {name}: matching {worst[0]:.2%}, worse or better {worst[1]:.2%}"


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("results", nargs="?", type=Path, default=ROOT / "docs" / "tour")
    parser.add_argument("--sizes", nargs="*", type=int, default=[256, 1000, 14042])
    parser.add_argument("--runs", type=int, default=600)
    parser.add_argument("--edges", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    lines = []

    def say(title: str, found: Iterator[str]) -> None:
        for line in found:
            lines.append(f"{title}: {line}")
            print(lines[-1], flush=True)

    if given.edges:
        say("error at the margin", edges(given.sizes, given.runs))
    else:
        for found in read(given.results):
            say(f"{found.task}, flips", where(found))
            say(f"{found.task}, variance", variances(found))
        say("share asked", saved(given.sizes, given.runs))
    if given.out:
        given.out.write_text(json.dumps(lines, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
