"""Item response theory on the stored answers of a matrix, side by side with a post-stratified score.

    python benchmarks/item_response.py [RESULTS] [--counts 24 48] [--out FILE]

A small imitation of what adaptive tests of language models do: a 2PL model, fitted to the answers of dense
and all other variants, asks the most informative item next and reads the score off the ability. Beside it
stands the score of as many items in a uniform order, post-stratified by dense's own answer. Once for each
stored variant (left out of the bank), and for simulated ones that lose items at random. docs/statistics.md
has the figures.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.margins import Answers, read  # noqa: E402
from kick.stats import flips  # noqa: E402
from kick.stats.flips import Asked, Floats  # noqa: E402

ABILITIES = np.linspace(-4, 4, 161)


class Bank(NamedTuple):
    """Discrimination and difficulty of each item `(n,)`."""

    slope: Floats
    difficulty: Floats

    @classmethod
    def fitted(cls, answers: Floats) -> Bank:
        """The 2PL model of `answers` (models, items), by its posterior's mode; priors as usual."""
        models, n = answers.shape

        def loss(parts: Floats) -> tuple[float, Floats]:
            ability, log_slope, difficulty = np.split(parts, [models, models + n])
            slope, apart = np.exp(log_slope), ability[:, None] - difficulty
            at = slope * apart
            wrong = special.expit(at) - answers
            value = (np.logaddexp(0, at) - answers * at).sum() + (ability**2).sum() / 2
            value += (difficulty**2).sum() / 4.5 + 2 * (log_slope**2).sum()
            grads = ((wrong * slope).sum(1) + ability, (wrong * at).sum(0) + 4 * log_slope)
            return float(value), np.concatenate([*grads, -(wrong * slope).sum(0) + difficulty / 2.25])

        found = optimize.minimize(loss, np.zeros(models + 2 * n), jac=True, method="L-BFGS-B").x
        return cls(np.exp(found[models : models + n]), found[models + n :])

    def right(self, ability: float | Floats) -> Floats:
        """The chance that each item is answered right, `(..., n)`."""
        chances: Floats = special.expit(self.slope * (np.asarray(ability)[..., None] - self.difficulty))
        return chances

    def ask(self, answers: Floats, count: int) -> tuple[float, float, float]:
        """The score after `count` items, each the most informative one at the ability so far, and its 90 %
        interval."""
        log, left, ability = -(ABILITIES**2) / 2, np.ones(len(answers), dtype=bool), 0.0
        chances = self.right(ABILITIES)
        for _ in range(count):
            p = self.right(ability)
            item = int(np.where(left, self.slope**2 * p * (1 - p), -1).argmax())
            left[item] = False
            log = log + np.log(np.abs(1 - answers[item] - chances[:, item]))
            weights = np.exp(log - log.max())
            weights /= weights.sum()
            ability = float(weights @ ABILITIES)
        scores, passed = chances.mean(axis=1), weights.cumsum()
        low_end, high_end = (scores[np.searchsorted(passed, share)] for share in (0.05, 0.95))
        return float(weights @ scores), float(low_end), float(high_end)


def by_strata(
    dense: Floats, theirs: Floats, count: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    """The post-stratified score after `count` items in a random order, and its 90 % interval."""
    first = rng.permutation(len(dense))[:count]
    right, before, after = dense.sum(), dense[first], theirs[first]
    wrong = len(dense) - right
    seen = (before.sum(), (1 - before).sum(), (before * (1 - after)).sum(), ((1 - before) * after).sum())
    found = Asked(*(np.array([[float(value)]]) for value in (right, wrong, *seen)))
    low_end, high_end = flips.interval(found, 0.05)
    p = float(dense.mean())
    return p + float(flips.gap(found)[0]), p + float(low_end[0]), p + float(high_end[0])


def far_off(said: Sequence[tuple[float, float, float]], truth: Floats) -> str:
    """How far scores are off on average, and in distance, and how often their intervals hold the truth."""
    score, low_end, high_end = np.array(said).T
    held = np.mean((low_end <= truth) & (truth <= high_end))
    return f"{np.mean(score - truth):+.3f} (distance {np.abs(score - truth).mean():.3f}, held {held:.0%})"


def responses(found: Answers, count: int, draws: int = 200) -> Iterator[str]:
    """A line per variant and per kind of simulated variant: how far off both scores are after `count` items,
    and how often their 90 % intervals hold the score of all items."""
    dense, rng = found.dense, np.random.default_rng(0)
    usual = np.mean(list(found.variants.values()), axis=0) > 0.7

    def line(title: str, bank: Bank, variants: Sequence[Floats]) -> str:
        each = draws // len(variants)
        ours = [by_strata(dense, one, count, rng) for one in variants for _ in range(each)]
        truth = np.array([one.mean() for one in variants])
        model = far_off([bank.ask(one, count) for one in variants], truth)
        return f"{title}, {count} items: item response {model}; post-stratified " + far_off(
            ours, truth.repeat(each)
        )

    for name, scores in found.variants.items():
        others = [theirs for other, theirs in found.variants.items() if other != name]
        yield line(name, Bank.fitted(np.array([dense, *others])), [scores])
    bank = Bank.fitted(np.array([dense, *found.variants.values()]))
    for title, pool in (
        ("right items", dense == 1),
        ("items that most variants have right", (dense == 1) & usual),
    ):
        for share in (0.05, 0.15):
            lost = []
            for _ in range(draws):
                one = dense.copy()
                one[rng.choice(np.flatnonzero(pool), round(share * dense.sum()), replace=False)] = 0
                lost.append(one)
            yield line(f"simulated, {share:.0%} of dense's score lost among {title}", bank, lost)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("results", nargs="?", type=Path, default=ROOT / "docs" / "tour")
    parser.add_argument("--counts", nargs="*", type=int, default=[24, 48])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    lines = []
    for found in read(given.results):
        for count in given.counts:
            for line in responses(found, count):
                lines.append(f"{found.task}: {line}")
                print(lines[-1], flush=True)
    if given.out:
        given.out.write_text(json.dumps(lines, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
