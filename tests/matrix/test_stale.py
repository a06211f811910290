"""Stored cells whose keys a change has left behind: found, counted, and the change said in words."""

from dataclasses import replace

import pytest

from kick.matrix.stale import explain, summary
from kick.matrix.variants import MethodTable
from kick.records import Result
from tests.support.small_tables import DEFAULTS, KEYED, SOURCES, planned, step


class Stored:
    """A store of the cells of a plan."""

    def __init__(self, found):
        self.found = found

    def runs(self):
        return (Result(cell.key, self.found.matrix.name, cell, ()) for cell in self.found.cells)


def changed_table():
    changed = {**DEFAULTS, "wanda": {"sparsity": None, "damping": 0.02}}
    return MethodTable(lambda name, options: step(name, options, changed), SOURCES.methods.needs)


def test_a_changed_default_makes_cells_stale_and_says_why():
    store = Stored(planned(KEYED))
    assert planned(KEYED).stale(store) == []
    found = planned(KEYED, replace(SOURCES, methods=changed_table())).stale(store)
    assert [(one.variant, one.task) for one in found] == [("wanda-0.5", "facts"), ("wanda-0.5", "diverge")]
    assert summary(found) == ["2 cells are stale: wanda default changed: damping 0.01 -> 0.02"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("sequences: 8", "sequences: 9", "calibration.sequences 8 -> 9"),
        ("model: tiny", "model: other", "the model's weights changed"),
        ("model: tiny", "model: tiny\nlimit: {facts: 10}", "limit null -> 10"),
        ("wikitext2", "kick_mini_calibration", "the calibration corpus changed"),
    ],
)
def test_what_changed_is_said_in_words(old, new, words):
    found = planned(KEYED.replace(old, new)).stale(Stored(planned(KEYED)))
    assert found
    assert all(any(words in change for change in one.changes) for one in found)


def test_cells_of_another_matrix_and_those_measured_again_are_not_stale():
    new = planned(KEYED.replace("sequences: 8", "sequences: 9"))
    assert new.stale(Stored(planned(KEYED.replace("trial", "other")))) == []
    both = Stored(planned(KEYED))
    runs = [*both.runs(), *Stored(new).runs()]
    both.runs = lambda: iter(runs)
    assert new.stale(both) == []


def test_results_under_keys_of_version_1_can_be_read_and_are_stale_by_that_alone():
    found = planned(KEYED)
    old = Result.from_json(_version_1(next(Stored(found).runs()).to_json()))
    assert old.key_version == 1
    assert old.cell.variant.recipe == found.cells[0].variant.recipe
    changes = explain(old.cell, found.cells[0], old_version=old.key_version)
    assert changes == ["keys are made otherwise now, or questions answered otherwise (docs/decisions.md)"]


def _version_1(data):
    """A run.json as version 1 wrote it: steps without a digest, a task's digest of its text."""
    for one in data["cell"]["variant"]["recipe"]:
        del one["digest"]
    data["cell"]["task"]["digest"] = "of the text"
    return data | {"key_version": 1}


def test_a_method_whose_code_changed_makes_its_cells_stale():
    def edited(name, options):
        return replace(step(name, options), digest="another")

    def first(name, options):
        return replace(step(name, options), digest="one")

    def plan_with(method):
        return planned(KEYED, replace(SOURCES, methods=MethodTable(method, SOURCES.methods.needs)))

    store = Stored(plan_with(first))
    assert plan_with(first).stale(store) == []
    found = plan_with(edited).stale(store)
    assert summary(found) == ["2 cells are stale: wanda's code changed"]
