"""docs/methods.md says what the table of methods says."""

from pathlib import Path

import pytest

from kick.compress import describe
from kick.compress.method import methods

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


@pytest.mark.parametrize("name", list(methods))
def test_each_method_has_its_row(name):
    (row,) = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| `{name}` |")]
    facts = describe(name)
    assert facts["doc"] in row
    assert facts["paper"] in row
    assert all(need in row for need in facts["needs"])
    for item in facts["options"]:
        default = str(item["default"]).lower() if isinstance(item["default"], bool) else item["default"]
        written = f"`{item['name']}`" if item["required"] else f"`{item['name']}` {default}"
        assert written.removesuffix(".0") in row
