"""The notebook docs/tour.ipynb runs from the stored cells beside it, and its outputs are committed."""

import os
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

DOCS = Path(__file__).parents[1] / "docs"
MOST = 3 << 20  # bytes of stored cells


@pytest.fixture(scope="module")
def committed():
    return nbformat.read(DOCS / "tour.ipynb", as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell, kind):
    """What a code cell shows of a kind: its last expression's, or nothing."""
    return [one.data[kind] for one in cell.outputs if "data" in one and kind in one.data]


def test_the_notebook_runs_and_shows_the_committed_tables(committed, tmp_path, monkeypatch):
    shutil.copytree(DOCS / "tour", tmp_path / "tour")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(DOCS.parent), os.environ.get("PYTHONPATH", "")]))
    again = nbformat.from_dict(committed)
    NotebookClient(
        again, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    for old, new in zip(code(committed), code(again), strict=True):
        assert [one for one in new.outputs if one.output_type == "error"] == []
        if "kick.results" in new.source or "pivot" in new.source:
            assert shown(new, "text/plain") == shown(old, "text/plain")
        assert len(shown(new, "image/png")) == len(shown(old, "image/png"))


def test_outputs_are_committed_with_at_least_two_figures(committed):
    assert all(cell.outputs for cell in code(committed))
    assert sum(len(shown(cell, "image/png")) for cell in code(committed)) >= 2
    text = (DOCS / "tour.ipynb").read_text("utf-8")
    assert str(DOCS.parent) not in text  # no path of the machine that ran it
    assert "Traceback" not in text


def test_what_the_notebook_says_of_perplexity_is_so(tmp_path):
    import kick

    scores = kick.results(shutil.copytree(DOCS / "tour", tmp_path / "tour"))
    headline = scores[scores["primary"] & (scores["label"] == "wanda 30 %")].set_index("task")
    change = headline["relative"]
    assert 0.08 < change["kick_mini_perplexity"] < 0.13  # "rises by a tenth"
    assert change["kick_mini_factoid"] < -1 / 3  # "more than a third of the facts are lost"
    assert headline["verdict"]["kick_mini_factoid"] == "not matching"
    assert abs(change["kick_mini_mcq"]) < change["kick_mini_perplexity"]  # "moves less than either"


def test_the_stored_cells_are_whole_and_small():
    from kick.store import Store

    store = Store(DOCS / "tour")
    keys = [result.key for result in store.runs()]
    assert len(keys) == 9 * 8
    assert len(store.done_among(keys)) == len(keys)
    assert sum(file.stat().st_size for file in (DOCS / "tour").rglob("*") if file.is_file()) < MOST
