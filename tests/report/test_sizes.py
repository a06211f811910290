"""Two sizes per variant: of the files that one would ship, and in an ideal packed format."""

from dataclasses import replace

import pytest

from kick.analysis.frame import read
from kick.report import leaderboard, page
from kick.report.tables import known
from tests.support.synthetic import DENSE, FakeStore, fill, pruned

SHIPPED = {"dense": (98_362_432, "the gguf file"), "wanda-0.5": (538_060_032, "dense")}


def sized(shipped):
    store = FakeStore()
    fill(store, [DENSE, pruned("wanda", 0.5), pruned("magnitude", 0.5)], tasks=["kick_mini_mcq"])
    for key, run in store.results.items():
        size, kind = shipped.get(run.cell.variant.name, (None, ""))
        facts = {"shipped_bytes": size, "shipped_as": kind} if size else {}
        footprint = run.compression["footprint"] | facts
        store.results[key] = replace(run, compression={**run.compression, "footprint": footprint})
    return store


@pytest.fixture(scope="module")
def report():
    return read([sized(SHIPPED)])


def test_the_page_has_both_sizes_and_says_what_they_are_of(report):
    view = page.view(report, title=None, notes=(), examples=0)
    lines = {line.name: line for line in view.sections[0].lines}
    assert lines["wanda-0.5"].shipped == page.Size("538 MB", -538_060_032.0, "dense")
    assert lines["dense"].shipped == page.Size("98 MB", -98_362_432.0, "the gguf file")
    assert lines["wanda-0.5"].packed.text == "70 MB"
    assert lines["magnitude-0.5"].shipped == page.Size("", None, "")  # an older result
    text = leaderboard.html(view)
    assert 'title="dense">538 MB</td>' in text
    assert "ideal format" in text


def test_the_table_says_what_was_not_stored(report):
    found = {line[0]: line[1:] for line in known["sizes"].make(report.frame).cells}
    assert found["wanda 50 %"][:3] == ("538 MB", "dense", "70 MB")
    assert found["magnitude 50 %"][:3] == ("\u2013", "not stored with this result", "70 MB")


def test_what_structured_steps_removed_is_on_the_row():
    store = sized(SHIPPED)
    removed = {"method": "wanda", "removed": {"weights": 10, "of": 100, "share": 0.1}}  # as if structured
    for key, run in store.results.items():
        if run.cell.variant.name == "wanda-0.5":
            compression = {**run.compression, "steps": [removed, removed]}
            store.results[key] = replace(run, compression=compression)
    found = read([store])
    remarks = {
        line.name: line.remark
        for line in page.view(found, title=None, notes=(), examples=0).sections[0].lines
    }
    assert remarks["wanda-0.5"] == "19.0 % of the blocks' weights removed"
    assert not remarks["magnitude-0.5"]
    cells = {line[0]: line[-1] for line in known["sizes"].make(found.frame).cells}
    assert (cells["wanda 50 %"], cells["magnitude 50 %"]) == ("19.0", "")


def test_a_variant_that_differs_nowhere_says_so():
    store = sized(SHIPPED)
    dense, wanda = (
        next(key for key, run in store.results.items() if run.cell.variant.name == name)
        for name in ("dense", "wanda-0.5")
    )
    store.items[wanda] = store.items[dense]
    view = page.view(read([store]), title=None, notes=(), examples=0)
    remarks = {line.name: line.remark for line in view.sections[0].lines}
    count = len(store.items[dense])
    assert remarks == {
        "dense": "",
        "wanda-0.5": f"all {count} items of 1 task scored as dense's",
        "magnitude-0.5": "",
    }
