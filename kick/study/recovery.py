"""What a budget of training brings back: one pruned model, recovered with more and more tokens.

The study is an ordinary matrix: dense, the pruned model, and for each budget above 0 and each seed the pruned
model recovered and the dense model with the same training. It is written to the study's folder, so that `kick
run` goes on with it too. Each budget is a training of its own with its own schedule, not a point on the way
of a longer one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kick import compress
from kick.analysis import frame
from kick.catalog import known
from kick.errors import KickError
from kick.records import CalibrationSpec, Step
from kick.registry import unknown
from kick.store import Store
from kick.sweep.contract import Summary
from kick.sweep.run import RunOptions
from kick.sweep.run import run as run_matrix

MATRIX, FILE = "recovery-study", "recovery-study.yaml"
LEAST = 2  # budgets above 0
BUDGETS = 0, 10_000, 50_000
TASKS = "kick_mini_perplexity", "kick_mini_closed", "kick_mini_mcq"


@dataclass(frozen=True)
class RecoveryOptions:
    """Options of `kick study recovery`.

    steps: how the model is pruned. form: of recovery, with its options `how`. budgets: tokens, 0 for none.
    limit: items per task. The rest are those of `kick run`.
    """

    model: str
    steps: tuple[Step, ...]
    form: str
    budgets: tuple[int, ...]
    calibration: CalibrationSpec
    tasks: tuple[str, ...]
    how: tuple[tuple[str, Any], ...] = ()
    seeds: tuple[int, ...] = (0,)
    limit: int | None = None


@dataclass(frozen=True)
class BudgetPoint:
    """A task's score after a budget of tokens, with its interval, beside those that its share is made of.

    share: (value - pruned) / (trained dense - pruned), with its interval, NaN without one. lr: the learning
    rate, the chosen one after a search. heldout: nats per token of held-out text after the training.
    """

    task: str
    title: str
    unit: str
    tokens: int
    seed: int
    value: float
    low: float
    high: float
    pruned: float
    trained_dense: float
    share: float
    share_low: float
    share_high: float
    n: int
    lr: float
    heldout: float


def matrix(options: RecoveryOptions) -> dict[str, Any]:
    """The study's matrix. Raises KickError for a form that is not known, and for budgets that are too few."""
    entry = f"recover-{options.form}"
    if entry not in known() or known()[entry].kind != "recover":
        forms = [name.removeprefix("recover-") for name, one in known().items() if one.kind == "recover"]
        raise KickError(unknown("form of recovery", options.form, forms))
    budgets = sorted({one for one in options.budgets if one})
    if len(budgets) < LEAST or min(options.budgets) < 0:
        raise KickError(
            f"--budget: got {', '.join(map(str, options.budgets))}; expected: at least {LEAST} numbers of "
            "tokens above 0, and perhaps 0"
        )
    kinds = {known()[step.method].kind for step in options.steps if step.method in known()}
    if not kinds or kinds - {"prune", "structure"}:
        raise KickError("a recovery study is of steps that prune: --method wanda --sparsity 0.5")
    pruning = [{"method": step.method, **_given(step)} for step in options.steps]
    trained: dict[str, Any] = {"recover": options.form, **dict(options.how), "tokens": budgets}
    if len(options.seeds) > 1 or options.seeds[0]:
        trained["seed"] = list(options.seeds)
    spec = options.calibration
    return {
        "name": MATRIX,
        "model": options.model,
        "tasks": list(options.tasks),
        **({"limit": options.limit} if options.limit else {}),
        "calibration": {
            "corpus": spec.corpus, "sequences": spec.sequences, "length": spec.length, "seed": spec.seed
        },
        "variants": ["dense", {"recipe": pruning}, {"recipe": [*pruning, trained]}, trained],
        "replicas": [],
    }  # fmt: skip


def _given(step: Step) -> dict[str, Any]:
    """The options of a step that are not its defaults."""
    own = {one["name"]: one.get("default") for one in compress.describe(step.method)["options"]}
    return {name: value for name, value in step.options.items() if own.get(name, ...) != value}


def run(
    options: RecoveryOptions, how: RunOptions, command: Sequence[str], say: Callable[[str], None]
) -> tuple[Store, Summary]:
    """Do all cells of the study that are not done. Raises KickError before anything runs."""
    made = matrix(options)
    planned, summary = run_matrix(made, how, command, say)
    file = Path(how.out) / FILE
    text = yaml.safe_dump(made, sort_keys=False, allow_unicode=True, width=100)
    file.write_text(f"# made by `kick study recovery`; `kick run` reads it as well\n{text}", encoding="utf-8")
    return Store(how.out, planned.matrix.name), summary


def read(store: Store) -> tuple[list[BudgetPoint], dict[tuple[str, str], float]]:
    """The study's points by task and budget, and the untrained dense model's scores by task and metric.

    Raises KickError if there are no points.
    """
    rows = frame.read([store]).frame
    rows = rows[rows["primary"]]  # what fails by form is brought back too, on the page of a leaderboard
    found = [_point(row) for row in rows[rows["recovered_of"] != ""].to_dict("records")]
    if not found:
        raise KickError(f"{store} has no recovered variant beside its pruned one and dense trained alike")
    dense = rows[(rows["variant"] == "dense") & (rows["group"] == "")]
    scores = {(row["task"], row["metric"]): float(row["value"]) for row in dense.to_dict("records")}
    return sorted(found, key=lambda one: (one.task, one.tokens, one.seed)), scores


def _point(row: Any) -> BudgetPoint:
    return BudgetPoint(
        row["task"], str(row["metric"]), str(row["unit"]),
        int(row["trained_tokens"]), int(row["trained_seed"]),
        float(row["value"]), float(row["low"]), float(row["high"]), float(row["pruned_value"]),
        float(row["trained_dense_value"]), float(row["recovered"]), float(row["recovered_low"]),
        float(row["recovered_high"]), int(row["n"]), float(row["trained_lr"]), float(row["heldout_after"]),
    )  # fmt: skip
