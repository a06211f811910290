"""The methods as Markdown tables, one per kind: `kick methods --markdown` and docs/methods.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HEADS = {
    "prune": "Pruning: shares and n:m",
    "structure": "Structured pruning: the model becomes smaller",
    "quantize": "Quantization",
    "compensate": "Compensation",
}
COLUMNS = ("method", "title", "what it does", "needs", "options (default)", "serves", "source")


def markdown(described: Sequence[Mapping[str, Any]]) -> str:
    """The tables of methods, as `kick.compress.describe` describes them, in their order."""
    parts = []
    for kind, head in HEADS.items():
        rows = [_row(one) for one in described if one["kind"] == kind]
        if rows:
            lines = [_line(COLUMNS), "|" + "---|" * len(COLUMNS), *rows]
            parts.append(f"### {head}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _row(one: Mapping[str, Any]) -> str:
    needs = [*one["needs"]]
    needs += [word for fact, word in (("trains", "training"), ("task_data", "task data")) if one[fact]]
    options = ", ".join(_option(option) for option in one["options"])
    shown = (f"`{one['name']}`", one["title"], one["doc"], ", ".join(needs) or "-", options or "-")
    return _line((*shown, one["serves"], one["paper"]))


def _option(option: Mapping[str, Any]) -> str:
    if option["required"]:
        return f"`{option['name']}`"
    default = option["default"]
    text = f"{default:g}" if isinstance(default, float) else str(default)
    return f"`{option['name']}` {text.lower() if isinstance(default, bool) else text}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
