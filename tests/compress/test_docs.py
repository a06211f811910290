"""docs/methods.md says what the methods say of themselves."""

import re
import runpy
from pathlib import Path

from kick.compress import describe
from kick.compress.method import methods

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "methods.md").read_text("utf-8")


def test_the_lists_are_those_that_the_methods_make():
    make = runpy.run_path(str(DOCS / "_site" / "methods.py"))["written"]
    assert make(PAGE) == PAGE, "run `make docs/methods.md` and commit the page"


def test_an_entry_says_what_its_method_says():
    (entry,) = re.findall(r"^- \*\*`gptq`\*\*, .*\n(?:  .*\n)*", PAGE, flags=re.M)
    said = " ".join(entry.split())
    facts = describe("gptq")
    needs = "Needs: calibration. Feeds its errors forward."
    assert f"GPTQ: {facts['doc']} {needs} Options: `bits`, `group_size` -1, `symmetric` false" in said
    assert said.endswith(f" Serves: all. Source: {methods['gptq'].paper}.")
