"""docs/methods.md says what the methods say of themselves."""

import re
import runpy
from pathlib import Path

from kick.compress import describe
from kick.compress.method import methods
from tests.support.architectures import ARCHITECTURES, WIDER
from tests.support.pairs import refusal

DOCS = Path(__file__).parents[2] / "docs"
SHALLOW = {
    ("mka", "gemma2"),
    ("laco", "qwen3_5"),
}  # of three blocks no two neighbours are alike: see the page
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
    assert said.endswith(f" Serves: all but GPT-OSS. Source: {methods['gptq'].paper}.")


def test_what_a_method_says_it_serves_is_what_the_table_says():
    titles = runpy.run_path(str(DOCS / "_site" / "methods.py"))["TITLES"]
    mixtures = {"Mixtral", "Qwen3-MoE", "GPT-OSS", "DeepSeek-V3"}
    for name, entry in methods.items():
        if not entry.cls.__module__.startswith("kick."):
            continue
        serves = entry.serves.removeprefix("mixtures of experts: ").replace(" and ", ", ")
        serves = serves.replace(";", ",").removesuffix(" (attention)")
        named = set(serves.removeprefix("all but ").split(", "))
        if "mixtures of experts" in named:
            named = named - {"mixtures of experts"} | mixtures
        served = {
            titles[one]
            for one in [*ARCHITECTURES, *WIDER]
            if not refusal(name, one) or (name, one) in SHALLOW
        }
        expected = set(titles.values()) - named if serves.startswith("all but ") else named
        assert served == expected, name
