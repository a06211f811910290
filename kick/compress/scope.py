"""Which matrices a pruning step is about, and how much of each is pruned: options beside the method's own.

only         the full name of a matrix, or a list of them: the others stay as they are
sparsities   full name -> a share of its own, in place of the step's `sparsity`

Every method of kind "prune" that walks the blocks takes `only`; `sparsities` needs one that leaves the choice
of weights to `pruning.prune`. Neither is written into a step that does not give it, so that no key of a plain
step changes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from kick.catalog import Facts
from kick.compress.sparsity import Sparsity
from kick.errors import CellFailed, KickError, WrongOption
from kick.model import counting, named_linears
from kick.records import Step
from kick.registry import unknown

OPTIONS = ("only", "sparsities")


@dataclass(frozen=True)
class Scope:
    """The two options as values; by default every matrix, at the step's own sparsity."""

    only: frozenset[str] | None = None
    sparsities: Mapping[str, Sparsity] = field(default_factory=dict)

    @classmethod
    def of(cls, step: Step) -> Scope:
        """The scope of a canonical step."""
        only = step.options.get("only")
        names = [only] if isinstance(only, str) else only
        own = step.options.get("sparsities", {})
        return cls(
            None if names is None else frozenset(names),
            {name: Sparsity.parse(share) for name, share in own.items()},
        )

    def covers(self, name: str) -> bool:
        """Whether the matrix of that full name is to be pruned."""
        return self.only is None or name in self.only

    def sparsity(self, name: str, asked: Sparsity) -> Sparsity:
        """How much of a matrix is pruned if the step asks for `asked`."""
        return self.sparsities.get(name, asked)

    def check(self, model: nn.Module) -> None:
        """Raises KickError for a name that is not a matrix of the model."""
        known = [name for name, _, _ in named_linears(model)]
        for name in [*(self.only or ()), *self.sparsities]:
            if name not in known:
                raise KickError(unknown("matrix", name, known))

    def check_followed(self, method: str, masks: Mapping[str, Tensor], before: Collection[str]) -> None:
        """Raises CellFailed if a method has not pruned a matrix by the share given for it.

        before: matrices that earlier steps pruned, maybe by more than that share.
        """
        for name, sparsity in self.sparsities.items():
            kept = masks.get(name) if self.covers(name) else None
            if kept is None or name in before:
                continue
            (rows, columns), pruned = kept.shape, counting.zeros(kept)
            if pruned not in (rows * sparsity.count(columns), sparsity.count(rows * columns)):
                raise CellFailed(
                    f"{method} chooses by itself how much of a matrix is pruned: {pruned} of {kept.numel()} "
                    f"weights of {name}, expected {sparsity}; 'sparsities' needs a method that ranks weights"
                )


def written(method: Facts, options: Mapping[str, Any]) -> dict[str, Any]:
    """The two options, as far as they are given, as JSON values; one matrix is the same in a list or not.

    Raises WrongOption for what is neither.
    """
    found: dict[str, Any] = {}
    who = method.name
    if "only" in options:
        only = options["only"]
        names = [only] if isinstance(only, str) else only
        if not isinstance(names, list | tuple) or not names or not all(isinstance(n, str) for n in names):
            raise WrongOption(
                f"{who}: option 'only' is {only!r}; it must be a matrix's full name, or a list of such",
                "only",
            )
        found["only"] = names[0] if len(set(names)) == 1 else sorted(set(names))
    if "sparsities" in options:
        own = options["sparsities"]
        if why := method.own_choice(options):
            raise WrongOption(f"{who} cannot follow the option 'sparsities': {why}", "sparsities")
        if not isinstance(own, Mapping) or not own:
            raise WrongOption(
                f"{who}: option 'sparsities' is {own!r}; it must give matrices' full names a share each",
                "sparsities",
            )
        found["sparsities"] = {name: _share(who, name, own[name]) for name in sorted(own)}
    return found


def _share(method: str, name: str, value: Any) -> float | str:
    try:
        return Sparsity.parse(value).value
    except ValueError as error:
        raise WrongOption(f"{method}: option 'sparsities', {name}: {error}", "sparsities") from None
