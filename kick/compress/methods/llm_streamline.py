"""LLM-Streamline: the run of blocks that changes its states least goes, and a small network takes its place.

Xiaodong Chen, Yuxuan Hu, Jing Zhang, Yanling Wang, Cuiping Li, Hong Chen: Streamlining Redundant Layers to
Compress Large Language Models. ICLR 2025, arXiv 2403.19135. Of all runs of `layers` blocks in a row the one
is taken whose input and output have the largest mean cosine over all tokens. `replacement: none` only drops
it. `replacement: linear` puts x + x M + c in its place, the damped least squares map from its input to its
output.

Deviations: the paper trains a decoder layer or an MLP as the replacement (`llm-streamline-trained` does, a
layer); nothing is trained here, and the linear map in closed form is ours. The last run is compared before
the model's final norm, where the published code compares after it. The map belongs to the block before the
run, so that a run replaced by one does not begin at the first block. It keeps hidden x (hidden + 1)
parameters, which are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kick.compress.context import Calibration, calibration_of
from kick.compress.depth import check_depth, drop, forms, outputs_of, run
from kick.compress.method import method, option
from kick.compress.twin import Form
from kick.errors import CellFailed
from kick.model import blocks
from kick.model.structure import device_of, hidden_of


@method(
    "llm-streamline",
    title="LLM-Streamline, untrained",
    paper="Chen et al., ICLR 2025, arXiv 2403.19135",
    kind="structure",
    needs=("calibration", "structure"),
    place=70,
)
@dataclass(frozen=True)
class LlmStreamline:
    """Blocks in a row that change their states least are dropped or become one linear map."""

    layers: int = option("how many blocks in a row are dropped", low=1)
    replacement: str = option("what takes their place", "linear", choices=("linear", "none"))
    damping: float = option("of the map's fit, as a share of the inputs' mean square", 0.01, low=0)

    def check(self, model: nn.Module) -> None:
        """Raises KickError if the model has no more blocks than that."""
        check_depth(model, self.layers)

    def forms(self, model: nn.Module) -> list[Form]:
        """What the model may become."""
        dropped = forms(model, self.layers)
        return (
            [partial(_replaced, form=form) for form in dropped] if self.replacement == "linear" else dropped
        )

    def __call__(self, model: nn.Module, calibration: Sequence[Tensor]) -> None:
        calibration = calibration_of(calibration)
        linear = self.replacement == "linear"
        cosines = window_cosines(model, calibration, self.layers)
        first = int(cosines[linear:].argmax()) + linear
        calibration.note("cosine of each run of blocks", values=[round(x, 6) for x in cosines.tolist()])
        if linear:
            self._replace(model, calibration, first)
        drop(model, range(first, first + self.layers), calibration)

    def _replace(self, model: nn.Module, calibration: Calibration, first: int) -> None:
        """Give the block before the run a map that does what the run does."""
        moments = states_around(model, calibration, first, first + self.layers - 1)
        if moments.tokens <= len(moments.products):
            raise CellFailed(
                f"llm-streamline fits {len(moments.products)} unknowns per output on {moments.tokens} "
                "tokens; use more or longer calibration sequences, or `replacement: none`"
            )
        matrix, constant = moments.fit(self.damping)
        attach(blocks(model)[first - 1], matrix, constant)
        calibration.note(
            "linear replacement",
            first=first,
            parameters=matrix.numel() + constant.numel(),
            tokens=moments.tokens,
            error=round(moments.error(matrix, constant), 6),
            error_dropped=round(moments.error(), 6),
        )


@torch.no_grad()
def window_cosines(model: nn.Module, calibration: Calibration, layers: int) -> Tensor:
    """(blocks - layers + 1,): the mean cosine over tokens of input and output of each run of blocks."""
    modules = blocks(model)
    total = torch.zeros(len(modules) - layers + 1, dtype=torch.float64)
    before: dict[int, Tensor] = {}

    def see(index: int, state: Tensor, after: Tensor) -> None:
        before[index] = state.double()
        if index >= layers - 1:
            start = before.pop(index - layers + 1)
            total[index - layers + 1] += float(nn.functional.cosine_similarity(start, after, dim=-1).sum())

    with outputs_of(modules, see):
        count = run(model, calibration)
    if not total.isfinite().all():
        raise CellFailed("a block has NaN or infinity in its input or output on the calibration data")
    return total / count


class RunMoments:
    """Sums of products of states (tokens, hidden) and of what a run of blocks adds to them, in float64.

    A constant column is the last of the states.
    """

    def __init__(self, hidden: int, device: torch.device):
        self.products = torch.zeros(hidden + 1, hidden + 1, dtype=torch.float64, device=device)
        self.crossed = torch.zeros(hidden + 1, hidden, dtype=torch.float64, device=device)
        self.added = self.outputs = 0.0
        self.tokens = 0

    def add(self, before: Tensor, after: Tensor) -> None:
        """Take in the states of some tokens before and behind the run."""
        x = torch.cat([before.double(), before.new_ones(len(before), 1, dtype=torch.float64)], dim=1)
        change = after.double() - before.double()
        self.products += x.t() @ x
        self.crossed += x.t() @ change
        self.added += float(change.square().sum())
        self.outputs += float(after.double().square().sum())
        self.tokens += len(before)

    def fit(self, damping: float) -> tuple[Tensor, Tensor]:
        """M (hidden, hidden) and c (hidden,) of the change x M + c; the constant is not damped.

        Raises CellFailed if the states do not determine it.
        """
        damped = self.products.clone()
        damped.diagonal()[:-1] += damping * float(damped.diagonal()[:-1].mean())
        lower, failed = torch.linalg.cholesky_ex(damped)
        if failed:
            raise CellFailed("the states before the run do not determine a linear map; use a larger damping")
        solved = torch.cholesky_solve(self.crossed, lower)
        return solved[:-1], solved[-1]

    def error(self, matrix: Tensor | None = None, constant: Tensor | None = None) -> float:
        """The squared error of the run's output over its squared norm; without a map, of dropping it."""
        left = self.added
        if matrix is not None and constant is not None:
            solved = torch.cat([matrix, constant[None]])
            left += float((solved * (self.products @ solved - 2 * self.crossed)).sum())
        return left / self.outputs


@torch.no_grad()
def states_around(model: nn.Module, calibration: Calibration, first: int, last: int) -> RunMoments:
    """The moments of the states before block `first` and behind block `last`."""
    found: list[RunMoments] = []
    entered: list[Tensor] = []

    def see(index: int, before: Tensor, after: Tensor) -> None:
        if index == 0:
            entered.append(before.flatten(0, 1))
        if index == last - first:
            start = entered.pop()
            if not found:
                found.append(RunMoments(start.shape[1], device_of(model)))
            found[0].add(start, after.flatten(0, 1))

    with outputs_of(blocks(model)[first : last + 1], see):
        run(model, calibration)
    return found[0]


class Replacement(nn.Module):
    """x + x M + c, in the place of blocks; `map` is counted and compressed as a block's other matrices."""

    def __init__(self, hidden: int, like: Tensor):
        super().__init__()
        self.map = nn.Linear(hidden, hidden, device=like.device, dtype=like.dtype).requires_grad_(False)

    def forward(self, states: Tensor) -> Tensor:
        """States (..., hidden) as they would leave the blocks."""
        return states + self.map(states)


def attach(block: nn.Module, matrix: Tensor, constant: Tensor) -> None:
    """Make a block's output go through x + x M + c from now on."""
    like = next(block.parameters())
    block.add_module("replacement", Replacement(len(constant), like).eval())
    linear: Any = block.get_submodule("replacement.map")
    linear.weight.data.copy_(matrix.t())
    linear.bias.data.copy_(constant)
    block.register_forward_hook(_through)


def _through(block: nn.Module, _args: tuple[Any, ...], output: Tensor | tuple) -> Tensor | tuple:
    replacement: Any = block.get_submodule("replacement")
    states = replacement(hidden_of(output))
    return (states, *output[1:]) if isinstance(output, tuple) else states


def _replaced(model: nn.Module, form: Callable[[nn.Module], None]) -> None:
    """Drop blocks of an empty model and give the first of the others a map."""
    form(model)
    config: Any = model.config
    hidden = config.hidden_size
    attach(blocks(model)[0], *(torch.zeros(*size, device="meta") for size in ((hidden, hidden), (hidden,))))
