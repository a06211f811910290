"""docs/methods.md says what the methods say of themselves."""

import runpy
from pathlib import Path

from kick.compress import describe
from kick.compress.method import methods

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "methods.md").read_text("utf-8")


def test_the_tables_are_those_that_the_methods_make():
    make = runpy.run_path(str(DOCS / "_site" / "methods.py"))["written"]
    assert make(PAGE) == PAGE, "run `make docs/methods.md` and commit the page"


def test_a_row_says_what_its_method_says():
    (row,) = [line for line in PAGE.splitlines() if line.startswith("| `gptq` |")]
    facts = describe("gptq")
    assert row.split(" | ")[1:4] == ["GPTQ", facts["doc"], "calibration"]
    assert "`bits`, `group_size` -1, `symmetric` false" in row
    assert row.endswith(f"| all | {methods['gptq'].paper} |")
