"""How much of the dense model's answer a variant is given to check, instead of generating it token by token.

Checking a token costs CHECK rows of a product. A decoding step costs STEP of these however many rows it has
(the weights pass through the processor) and one more for each row. Where all rows are in progress at once,
checking saves little but the steps that no row needs any more: the longest answers decide how many those are,
and their lengths are known, they are about those of the dense model. So every answer is drafted down to the
same rest, the one that makes the expected cost least; all or nothing of it may be best. Where more rows wait
than are in progress, each accepted token saves its share of a step.

The chance that k drafted tokens are accepted is estimated while running as (1 - h) ** k, h being the share of
checked tokens that were refused. A variant that has changed its mind about most answers is soon given none,
and decodes as if there were no drafts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STEP = 12.0  # A: what a step costs besides its rows, in rows
CHECK = 1.1  # C: a checked token also has a place in attention and in the tree
GAIN = 0.9  # of the cost without drafts: an expected saving that is smaller is not tried for
RESTS = 17  # candidates of what to leave undrafted
PRIOR = (0.1, 4.0)  # refused and checked tokens assumed before anything was seen
TRIAL = 0.05  # of what drafts could save at best: spent before anything was seen


@dataclass
class Acceptance:
    """What became of the drafts so far. `margin`: the smallest lead of a best logit where one was checked.

    Where a drafted answer differed from plain decoding it could only be by a tie, of about that margin.
    """

    refused: float = PRIOR[0]
    checked: float = PRIOR[1]
    drafted: int = 0
    accepted: int = 0
    margin: float | None = None

    @property
    def informed(self) -> bool:
        """Whether anything was seen yet."""
        return self.checked > PRIOR[1]

    def learn(self, asked: int, agreed: int) -> None:
        """The variant says the first `agreed` of so many tokens of a dense answer itself."""
        self.checked += min(agreed + 1, asked)
        self.refused += agreed < asked

    def observe(self, drafted: int, accepted: int) -> None:
        """A draft of so many tokens was accepted up to the `accepted`-th."""
        self.drafted += drafted
        self.accepted += accepted
        self.learn(drafted, accepted)

    def saw(self, margin: float) -> None:
        """The smallest margin at some checked tokens; infinite for none."""
        if margin < math.inf:
            self.margin = margin if self.margin is None else min(self.margin, margin)

    def lengths(self, answers: Sequence[int], rows: int) -> list[int]:
        """How many tokens to draft of dense answers of these lengths; `rows` may be in progress together."""
        if not self.informed:  # see `trial`
            return [length - 1 for length in answers]
        share = min(0.999, self.refused / self.checked)
        if len(answers) > rows:
            cost = CHECK / (STEP / rows + 1.0)
            worth = int(math.log(cost) / math.log1p(-share)) if share < 1.0 - cost else 0
            return [min(worth, length - 1) for length in answers]
        rests = np.unique(np.linspace(1, max(answers), RESTS).round().astype(int))
        costs = {rest: expected(answers, rest, 1.0 - share) for rest in rests.tolist()}
        best = min(costs, key=costs.__getitem__)
        if costs[best] > GAIN * costs[max(answers)]:
            return [0] * len(answers)
        return [max(0, length - best) for length in answers]


def trial(answers: Sequence[int]) -> int:
    """How many tokens to check of dense answers of these lengths before anything is known of the variant."""
    most = max(answers, default=1)
    if most < 2:
        return 0
    saving = expected(answers, most, 1.0) - expected(answers, 1, 1.0)
    return int(TRIAL * saving / CHECK)


def expected(answers: Sequence[int], rest: int, kept: float) -> float:
    """The expected cost of answers of these lengths when all but the last `rest` tokens of each are drafted.

    kept: the chance that a checked token is accepted. A draft of d tokens gives d + 1 where it is accepted,
    so that rest - 1 steps remain. Of an answer that turned away from the dense one nobody knows how long it
    will be: it is taken to go on as long as the longest.
    """
    length = np.asarray(answers)[:, None]
    step = np.arange(max(answers) - 1)[None]
    drafted = np.maximum(0, length - rest)
    failed = np.where(drafted > 0, 1.0 - kept**drafted, 0.0)
    takes = np.where(step < np.minimum(length, rest) - 1, 1.0, failed)  # the chance to be in that step
    somebody = 1.0 - np.prod(1.0 - takes, axis=0)
    return float(CHECK * drafted.sum() + takes.sum() + STEP * somebody.sum())
