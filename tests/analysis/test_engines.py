"""A difference across engines is of the engines too: it has no verdict anywhere."""

from dataclasses import replace

import pytest

from kick.analysis import advised, compare, frame
from kick.report import compare_view, page, wording
from tests.support.synthetic import DENSE, FakeStore, fill, pruned, result, samples

OTHER = pruned("wanda", 0.3)
TASK = "kick_mini_factoid"


def served(run, engine, imported=""):
    cell = replace(run.cell, engine=engine, imported=imported)
    return replace(run, cell=cell, key=cell.key, provenance={"imported": {"tool": "lm-eval 0.4.13"}})


@pytest.fixture(scope="module")
def store():
    """Dense and one variant on one engine, another variant on a second one."""
    made = fill(FakeStore(), (DENSE, pruned("wanda", 0.7)), [TASK])
    found = samples(TASK, OTHER, 120)
    made.put(served(result(TASK, OTHER, found), "a server", "f" * 64), found)
    return made


def rows(read, variant):
    found = read.frame
    return found[(found["variant"] == variant) & (found["group"] == "")].to_dict("records")


def test_a_row_across_engines_keeps_its_gap_and_interval_and_has_no_verdict(store):
    read = frame.read([store])
    same, other = rows(read, "wanda-0.7"), rows(read, OTHER.name)
    assert all(row["verdict"] and not row["foreign"] for row in same if row["primary"])
    assert all(row["verdict"] == "" and row["foreign"] and row["p"] != row["p"] for row in other)
    assert all(row["gap_low"] < row["gap_high"] for row in other if row["primary"])
    assert next(wording.remark(row) for row in other) == "another engine than dense's: no verdict"
    assert rows(read, "dense")[0]["verdict"] == "dense"


def test_the_page_says_which_line_was_imported(store):
    view = page.view(frame.read([store]), title=None, notes=(), examples=0)
    remarks = {line.name: line.remark for line in view.sections[0].lines}
    assert remarks[OTHER.name] == "imported: answers of lm-eval 0.4.13"
    assert "imported" not in remarks["wanda-0.7"]


def test_another_tolerance_makes_no_verdict_across_engines(store):
    (said,) = advised.advised(frame.read([store]), tolerance=0.001, by="packed")
    verdicts = {one.variant: one.evidence[0].verdict for one in (*said.nearest, said.chosen) if one}
    assert verdicts[OTHER.name] == "another engine"
    assert said.chosen is None
    assert verdicts["wanda-0.7"] != "another engine"


def test_a_comparison_across_engines_says_so(store, capsys):
    from rich.console import Console

    found = compare.compare(store, "dense", OTHER.name)
    (task,) = found.tasks
    assert task.across
    assert task.verdict == ""
    assert task.difference.p != task.difference.p
    Console(width=200).print(compare_view.view(found))
    assert "two engines: no verdict" in capsys.readouterr().out
    (same,) = compare.compare(store, "dense", "wanda-0.7").tasks
    assert not same.across
    assert same.verdict


def test_a_key_tells_engine_and_file_of_imported_answers():
    run = result(TASK, OTHER, samples(TASK, OTHER, 3))
    keys = {run.key, served(run, "a").key, served(run, "a", "f" * 64).key, served(run, "a", "e" * 64).key}
    assert len(keys) == 4
