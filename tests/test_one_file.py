"""README's method as one file of a copy of the package: its tests pass with no other edit."""

import json
import re
import shutil
import sys

import pytest

from tests.test_contributing import RUNS, UNFINISHED, run_there
from tests.test_readme import ROOT, block

NAME = "column_magnitude"
MATRIX = """
name: one
model: smoke
tasks: [kick_mini_perplexity]
limit: 2
calibration: {sequences: 2, length: 64}
variants:
  - {method: [sparsegpt, column_magnitude, wanda], sparsity: [0.25, 0.5]}
"""
COMMANDS = """
run one.yaml --executor inline
leaderboard results/one --out page
figures results/one --out figures
"""
TESTS = (
    "tests/compress/test_every_method.py",
    "tests/compress/test_docs.py",
    "tests/report/test_names_of_methods.py",
    "tests/test_catalog.py",
    "tests/test_meaning.py",
)
CHOSEN = f"({NAME} and (llama or methods)) or docs or names or catalog or record"
PROGRAM = """
import runpy, sys
import pytest
runpy.run_module("docs._site.methods", run_name="__main__")  # as `make test` does first
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the package, its tests and documents with the method's file in it."""
    folder = tmp_path_factory.mktemp("one")
    for name in ("kick", "tasks", "tests", "docs"):
        shutil.copytree(ROOT / name, folder / name, ignore=UNFINISHED)
    for name in ("pyproject.toml", "README.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, folder)
    (folder / "kick" / "compress" / "methods" / f"{NAME}.py").write_text(
        block("python", "class ColumnMagnitude")
    )
    (folder / "one.yaml").write_text(MATRIX)
    return folder


@pytest.fixture(scope="module")
def rows(copy):
    """A matrix with the method was run there, its page and figures made."""
    run_there(copy, [sys.executable, "-c", RUNS], COMMANDS.strip())


def test_its_rows_are_on_the_page_in_tables_and_figures(copy, rows):
    page = (copy / "page" / "index.html").read_text()
    assert "Column magnitude: an example" in page
    table = (copy / "page" / "leaderboard.md").read_text()
    places = [table.index(f"| {name}") for name in ("wanda 25", "sparsegpt 25", r"column\_magnitude 25")]
    assert places == sorted(places)  # it names no place: after those of its kind that do
    assert NAME in (copy / "figures" / "score_by_sparsity.csv").read_text()


def test_the_replicas_are_measured_and_on_the_page(copy, rows):
    scores = {}
    for file in copy.glob("results/one/*/run.json"):
        run = json.loads(file.read_text())
        scores[run["cell"]["variant"]["name"]] = run["scores"][0]
    dense, batch, dtype = (scores[name]["value"] for name in ("dense", "dense-batch", "dense-dtype"))
    assert batch == pytest.approx(dense, rel=1e-4)
    assert dtype == pytest.approx(dense, rel=0.05)
    assert dtype != dense  # bfloat16 rounds
    table = (copy / "page" / "leaderboard.md").read_text()
    assert len(re.findall(r"^\| dense", table, flags=re.M)) >= 3


def test_the_tests_of_methods_pass_with_it(copy):
    run_there(copy, [sys.executable, "-c", PROGRAM, *TESTS, "-k", CHOSEN])
    said = " ".join((copy / "docs" / "methods.md").read_text().split())
    assert re.search(
        rf"\*\*`{NAME}`\*\*, Column magnitude: .* Serves: all but GPT-OSS\. Source: an example\.", said
    )
