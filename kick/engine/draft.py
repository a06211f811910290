"""How much of the dense model's answer a variant is given to check, instead of generating it token by token.

Checking a token costs a row of one product, C. A decoding step costs about A of these however many rows it
has (the weights pass through the processor) and one more for each row. So a token generated beside B rows
costs A / B + 1: much more than checking when few rows are under way, hardly more when many are. The chance
that k drafted tokens are accepted is estimated while running as (1 - h) ** k, h being the share of checked
tokens that were refused; tokens are drafted as long as that chance is above the ratio of the costs. A variant
that has changed its mind about most answers is soon given none, and decodes as if there were no drafts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

STEP = 12.0  # A: what a step costs besides its rows, in rows
CHECK = 1.1  # C: a checked token also has a place in attention and in the tree
PRIOR = (0.2, 4.0)  # refused and checked tokens assumed before anything was seen


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

    def observe(self, drafted: int, accepted: int) -> None:
        """A draft of so many tokens was accepted up to the `accepted`-th."""
        self.drafted += drafted
        self.accepted += accepted
        self.checked += min(accepted + 1, drafted)
        self.refused += accepted < drafted

    def saw(self, margin: float) -> None:
        """A margin at a checked token."""
        self.margin = margin if self.margin is None else min(self.margin, margin)

    def length(self, rows: int) -> int:
        """How many tokens are worth drafting where so many rows are under way together."""
        cost = CHECK / (STEP / max(1, rows) + 1.0)
        share = self.refused / self.checked
        if share >= 1.0 - cost:
            return 0
        return int(math.log(cost) / math.log1p(-share))
