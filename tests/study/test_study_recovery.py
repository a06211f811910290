"""A study of budgets of tokens: the matrix that it is, what is refused, and its page."""

import math
from dataclasses import asdict
from types import SimpleNamespace

import pandas as pd
import pytest

from kick.analysis import frame
from kick.compress import canonical
from kick.errors import KickError
from kick.matrix.load import load
from kick.records import CalibrationSpec
from kick.study import recovery, recovery_pages
from kick.study.recovery import BudgetPoint, RecoveryOptions

SPEC = CalibrationSpec("kick_mini_calibration", 4, 64)
WANDA = canonical("wanda", {"sparsity": 0.5})


def options(form="masklora", budgets=(0, 512, 2048), steps=(WANDA,), **more):
    return RecoveryOptions("smoke", steps, form, budgets, SPEC, ("kick_mini_perplexity",), **more)


def test_the_matrix_has_every_budget_after_pruning_and_alone():
    made = recovery.matrix(options(how=(("lr", 0.001),), seeds=(0, 1)))
    assert made["variants"][1] == {"recipe": [{"method": "wanda", "sparsity": 0.5}]}
    trained = {"recover": "masklora", "lr": 0.001, "tokens": [512, 2048], "seed": [0, 1]}
    assert made["variants"][2]["recipe"][1] == made["variants"][3] == trained
    assert load(made).name == "recovery-study"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"form": "mask"}, "unknown form of recovery 'mask'"),
        ({"budgets": (0, 512)}, "at least 2 numbers"),
        ({"steps": ()}, "of steps that prune"),
        ({"steps": (canonical("rtn", {"bits": 4}),)}, "of steps that prune"),
    ],
)
def test_what_is_not_such_a_study_is_refused(wrong, message):
    with pytest.raises(KickError, match=message):
        recovery.matrix(options(**wrong))


def row(point):
    """A point as the frame has it."""
    names = {
        "title": "metric", "tokens": "trained_tokens", "seed": "trained_seed", "pruned": "pruned_value",
        "trained_dense": "trained_dense_value", "share": "recovered", "share_low": "recovered_low",
        "share_high": "recovered_high", "lr": "trained_lr", "heldout": "heldout_after",
    }  # fmt: skip
    facts = {names.get(name, name): value for name, value in asdict(point).items()}
    return {**DENSE, "variant": "masklora", "recovered_of": "wanda 50 %", **facts}


DENSE = {
    "variant": "dense", "group": "", "task": "kick_mini_mcq", "metric": "acc", "value": 0.72,
    "recovered_of": "", "primary": True,
}  # fmt: skip


def test_a_store_without_recovered_cells_is_refused(monkeypatch):
    monkeypatch.setattr(frame, "read", lambda _stores: SimpleNamespace(frame=pd.DataFrame([DENSE])))
    with pytest.raises(KickError, match="has no recovered variant"):
        recovery.read("store")


def test_the_page_has_a_row_per_budget_and_a_logarithmic_axis(tmp_path, monkeypatch):
    points = [
        BudgetPoint(
            "kick_mini_mcq", "acc", "share", tokens, 0, 0.5, 0.3, 0.6, 0.4, 0.7, *share, 48, 0.005, 3.9
        )
        for tokens, share in ((512, (0.08, math.nan, math.nan)), (2048, (0.34, 0.1, 0.5)))
    ]
    rows = [DENSE, {**DENSE, "group": "history", "value": 0.1}, *map(row, reversed(points))]
    rows.append({**row(points[0]), "metric": "acc_norm", "primary": False})  # another metric with a share
    monkeypatch.setattr(frame, "read", lambda _stores: SimpleNamespace(frame=pd.DataFrame(rows)))
    found, dense = recovery.read(None)
    assert list(map(repr, found)) == list(map(repr, points))  # NaN is not equal to itself
    assert dense == {("kick_mini_mcq", "acc"): 0.72}
    table, files = recovery_pages.write(options(), None, tmp_path)
    assert [row[1] for row in table.rows] == ["512", "2,048"]
    assert table.rows[1][6:] == ["34.0", "10.0 to 50.0", "48", "0.005", "3.900"]
    assert table.rows[0][7] == "–"
    figure = recovery_pages.draw(points, {})
    scores, shares = figure.axes[:2]
    assert scores.get_xscale() == shares.get_xscale() == "log"
    assert [line.get_label() for line in scores.lines if not line.get_label().startswith("_")] == [
        "dense, trained alike", "pruned"
    ]  # fmt: skip
    assert all(file.exists() for file in files)
