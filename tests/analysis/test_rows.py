"""A row's difference to dense where either side lacks items that the other has."""

import numpy as np
import pytest

from kick.analysis import rows
from kick.analysis.items import Items
from kick.stats import metrics
from kick.stats.paired import USUAL


def of(values):
    return Items(tuple(map(str, range(len(values)))), ("",) * len(values), {"memr": np.array(values)})


def test_a_gap_is_of_the_items_that_both_have_as_its_interval_is():
    nothing = np.nan
    dense = of([1.0, 1.0, 1.0, 0.0, 0.0, 0.0, nothing, nothing])
    theirs = of([1.0, nothing, nothing, 0.0, 0.0, 1.0, 0.0, 0.0])
    row = rows.compared(metrics.describe("memr"), theirs, dense, is_dense=False)
    assert (row["value"], row["dense_value"]) == (pytest.approx(2 / 6), 0.5)
    assert row["gap"] == pytest.approx(2 / 4 - 1 / 4)  # of items 0, 3, 4 and 5; of the scores it is -1/6
    assert row["relative"] == pytest.approx(1.0)
    assert row["gap_low"] < row["gap"] < row["gap_high"]


def test_with_all_items_a_gap_is_the_difference_of_the_scores():
    dense, theirs = of([1.0, 1.0, 0.0, 0.0]), of([1.0, 0.0, 0.0, 0.0])
    row = rows.beside(dense, theirs, metrics.describe("memr"), USUAL)
    assert "gap" not in row
