"""How much of the dense model's answer a variant is given to check, instead of generating it token by token.

Checking a drafted token costs about half of generating it. The chance that k of them are accepted is
estimated while running as (1 - h) ** k, h being the share of checked tokens that were refused; a token is
drafted as long as that chance is above the cost. A variant that has changed its mind about most answers is
soon given none, and decodes as if there were no drafts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

COST = 0.5  # of checking a token, in units of generating it in a batch
PRIOR = (0.2, 4.0)  # refused and checked tokens assumed before anything was seen


@dataclass
class Acceptance:
    """What became of the drafts so far."""

    refused: float = PRIOR[0]
    checked: float = PRIOR[1]
    drafted: int = 0
    accepted: int = 0

    def observe(self, drafted: int, accepted: int) -> None:
        """A draft of so many tokens was accepted up to the `accepted`-th."""
        self.drafted += drafted
        self.accepted += accepted
        self.checked += min(accepted + 1, drafted)
        self.refused += accepted < drafted

    def length(self) -> int:
        """How many tokens are worth drafting now."""
        share = self.refused / self.checked
        if share >= 1.0 - COST:
            return 0
        return int(math.log(COST) / math.log1p(-share))
