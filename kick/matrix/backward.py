"""Peak memory of a step that takes gradients of the calibration loss, from its options and the model's shape.

One sequence at a time goes forward and backward. With T its tokens, B blocks, H the hidden size, K values of
keys and values per token and block, W the widest input of a matrix, V the vocabulary, L the largest matrix
and M the weights of all blocks, there are beside the weights of the model, in bytes,

    sums        4 M for each number that is summed up per weight: the gradient or its square, and d-pruner's
                general importance beside it; 4 M / B if sums are kept on disk, since blocks take turns then
                or, of adapters of rank r (LoRAPrune), 12 r (inputs + outputs): factors, and gradients of one
                or 4 (inputs^2 + outputs^2) of all matrices, and what a step keeps per weight (LLM Surgeon)
    and the larger of
    backward    4 T B (6 H + K + 4 W), what autograd keeps of a block: inputs and outputs of two norms,
                queries, keys, values and what attention gives; the gate before and after its activation, what
                it is multiplied by, and the product
                4 T B (4 H + K + 3 W) if matrices have no gradients: the norms' outputs and the product are
                kept as inputs of matrices alone
                12 T V, log-probabilities, and the gradients of these and of the logits
                4 L, the gradient of one matrix until it is added to its sum
                and freed pieces between those in use, FREED of what blocks keep: a forward fills the holes
                that the last one left only in part
    after it    what the walk over the blocks takes that uses the sums, or 32 W^2 for the inverses of a matrix
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from kick.matrix.shapes import Shape
from kick.records import Step

# shares of what blocks keep for a sequence that the C library holds in freed pieces at the end of the next
# forward: by its own counts, with 12 blocks of SmolLM2-135M's, 36 to 47 MB of 125, and 132 of 93 if adapters
# make each matrix's output anew; giving the heap back between sequences changes the peak by 1 %
FREED, FREED_BY_ADAPTERS = 1 / 3, 3 / 2
KEPT, LOSSES = 2, 8  # bytes per weight: masks before and after a shot; losses, once more to be compared


@dataclass(frozen=True)
class Backward:
    """Gradients that a step takes.

    sums: numbers in float32 that are summed up for each weight of the blocks. rank: of the adapters whose
    gradients stand in for those of the weights; 0 without any. curvature: bytes per weight beside the
    curvature of all matrices; 0 if the step measures none.
    """

    sums: int = 1
    rank: int = 0
    curvature: int = 0

    @classmethod
    def of(cls, step: Step, needs: Collection[str]) -> Backward | None:
        """The gradients of a step, None if it takes none. Its options say which way it is."""
        options = step.options
        if "gradients" not in needs:
            return None
        if "damping_outputs" in options:  # of the outputs' factor
            lines = options.get("structure") == "row-column"
            return cls(sums=0, curvature=KEPT if lines else KEPT + LOSSES)
        if "rank" in options and "alpha" in options:  # LoRA's
            return cls(sums=0, rank=int(options["rank"]))
        return cls(sums=2 if "general" in options else 1)

    def memory(self, size: Shape, length: int, walking: int, offload: bool = False) -> int:
        """Peak bytes beside the weights of the model.

        length: tokens of a sequence. walking: bytes of a walk over the blocks. offload: sums are on disk.
        """
        weights = size.block * (1 if offload and self.sums == 1 else size.blocks)
        held = 4 * self.sums * weights + 12 * self.rank * size.edges
        after = walking
        if self.curvature:
            held += 4 * size.squares + self.curvature * weights
            after = max(after, 4 * 8 * size.widest**2)  # in float64: damped factors and their inverses
        return held + max(self._kept(size, length), after)

    def _kept(self, size: Shape, length: int) -> int:
        """Bytes that a sequence keeps for its backward pass, and of the first gradients in it."""
        block = 4 * size.hidden + size.cached + 3 * size.widest
        if self.sums:
            block += 2 * size.hidden + size.widest  # inputs of matrices
        freed = FREED_BY_ADAPTERS if self.rank else FREED
        blocks = round((1 + freed) * size.blocks * block)
        return 4 * (length * (blocks + 3 * size.vocabulary) + size.largest)
