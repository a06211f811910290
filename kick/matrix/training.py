"""Cost of a step that trains, from its options and the model's shape: forwards of the model and peak memory.

With T tokens of a step of the optimizer, P trained parameters, B blocks through which gradients flow, H the
hidden size, W the widest input of a matrix and V the vocabulary, training holds beside the weights, in bytes,

    16 P            values in float32, gradients and the two moments of AdamW
    4 T B (4 H + K + 2 W) (1 + FREED)   what a block keeps for its backward pass: the inputs of two norms,
                    queries, keys, values and what attention gives; the gate and what it is multiplied by
                    (`kick.recover.remade` makes the rest again); and freed pieces between. With `recompute`
                    one block's, and H of each other
    12 T V, LOGITS at most   logits, and what the loss makes of them, a slice at a time
    12 L            a matrix of L weights that an adapter makes, and its gradient

and text that is chosen by the dense model takes that model beside the one at hand. A token is one forward,
one more for gradients of states, in the blocks through which they flow, and one for those of matrices. The
constants were fitted to trainings of SmolLM2-135M: norms 1.35 GB, LoRA of rank 8 1.33, MaskLoRA 1.55.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kick.matrix.shapes import Shape
from kick.records import POOL, RANDOM, SCORES, Step

HELD_OUT = 2 * 16  # windows that the loss is taken on, before and after
LOGITS = 3 * 2**24  # bytes of a slice of logits in `kick.recover.loss`, and what is made of them
FREED = 2 / 3  # of what blocks keep, in freed pieces between: measured with SmolLM2-135M, see the test
PASSES = dict.fromkeys(SCORES, 1) | {"length": 0, "paser": 2, RANDOM: 0}  # over each candidate


@dataclass(frozen=True)
class Training:
    """Training of a step: its tokens, those of a step of the optimizer and of a window, and what is trained.

    rank: of adapters of all matrices, 0 without any. blocks: how many of the last blocks are trained in full,
    None for all of them unless there are adapters or `norms` alone. tried: tokens of trials of learning
    rates, and windows of held-out text. ranked: tokens that the dense model or both read to choose text.
    """

    tokens: int
    length: int
    batch: int
    rank: int = 0
    blocks: int | None = None
    norms: bool = False
    recompute: bool = False
    tried: tuple[int, int] = (0, 0)
    ranked: int = 0

    @classmethod
    def of(cls, step: Step) -> Training:
        """The training of a step that trains on text."""
        options: Mapping[str, Any] = step.options
        length, batch, tokens = (int(options[name]) for name in ("length", "batch", "tokens"))
        whole = max(1, tokens // (length * batch)) * length * batch
        trials = int(options.get("search", 1))
        trials = trials if trials > 1 else 0
        select = str(options.get("select", RANDOM))
        blocks = options.get("blocks", 1 if "layers" in options else None)  # a run of layers becomes a block
        return cls(
            whole,
            length,
            batch,
            rank=int(options.get("rank", 0)),
            blocks=blocks if isinstance(blocks, int) else None,
            norms="masklora" not in str(options.get("parts", "masklora")),
            recompute=bool(options.get("recompute")),
            tried=(trials * min(whole, int(options.get("trial", 0))), trials * HELD_OUT // 2),
            ranked=whole * int(options.get("pool", POOL)) * PASSES.get(select, 0),
        )

    def forwards(self, size: Shape) -> float:
        """Tokens of forwards of the model that cost as much."""
        depth = 1.0 if self.blocks is None or self.rank else min(1.0, self.blocks / size.blocks)
        passes = 1 + depth * (1 if self.norms else 2) + self.recompute
        held = (HELD_OUT + self.tried[1]) * self.length
        return passes * (self.tokens + self.tried[0]) + held + self.ranked

    def trained(self, size: Shape) -> int:
        """How many parameters are trained, at most."""
        if self.norms:
            return 4 * size.blocks * size.hidden
        if self.rank:
            return self.rank * size.edges
        return size.block * min(size.blocks, self.blocks or size.blocks)

    def memory(self, size: Shape) -> int:
        """Peak bytes beside the weights of the model."""
        tokens = self.length  # windows of a step go one after another
        through = size.blocks if self.norms or self.rank or self.blocks is None else self.blocks
        each = round((1 + FREED) * (4 * size.hidden + size.cached + 2 * size.widest))
        kept = each + size.hidden * (through - 1) if self.recompute else each * min(through, size.blocks)
        adapters = 12 * size.largest if self.rank and not self.norms else 0
        logits = min(12 * tokens * size.vocabulary, LOGITS)
        training = 16 * self.trained(size) + 4 * tokens * kept + logits + adapters
        ranking = 4 * size.parameters + 24 * tokens * size.vocabulary if self.ranked else 0
        return max(training, ranking)
