"""The methods as Markdown lists, one per kind: `kick methods --markdown` and docs/methods.md."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

HEADS = {
    "prune": "Pruning: shares and n:m",
    "structure": "Structured pruning: the model becomes smaller",
    "quantize": "Quantization",
    "compensate": "Compensation",
    "recover": "Recovery: training after pruning",
    "runtime": "At run time: `runtime:` of a variant",
}
COLUMNS = 100  # a line of the documents has no more; a table's rows would
BLANK = "\u00a0"  # in place of the blanks of an option with its default, which stay on one line


def markdown(described: Sequence[Mapping[str, Any]]) -> str:
    """The lists of methods, as `kick.compress` and `kick.runtime.method` describe them, in their order."""
    parts = []
    for kind, head in HEADS.items():
        entries = [_entry(one) for one in described if one["kind"] == kind]
        if entries:
            parts.append(f"### {head}\n\n" + "\n".join(entries) + "\n")
    return "\n".join(parts)


def _entry(one: Mapping[str, Any]) -> str:
    """One method: name, title, what it does, needs, options with their defaults, architectures, source.

    A run-time method has neither needs nor architectures.
    """
    needs = [*one.get("needs", ())]
    needs += [word for fact, word in (("trains", "training"), ("task_data", "task data")) if one.get(fact)]
    options = ", ".join(_option(option).replace(" ", BLANK) for option in one["options"])
    said = [f"**`{one['name']}`**, {one['title']}: {one['doc']}"]
    said += [f"Needs: {', '.join(needs)}."] if needs else []
    said += ["Feeds its errors forward."] if one.get("feeds_forward") else []
    said += [f"Options: {options}."] if options else []
    said += [f"Serves: {one['serves']}."] if "serves" in one else []
    said += [f"Source: {one['paper']}."]
    lines = textwrap.wrap(
        " ".join(said),
        COLUMNS,
        initial_indent="- ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines).replace(BLANK, " ")


def _option(option: Mapping[str, Any]) -> str:
    if option["required"]:
        return f"`{option['name']}`"
    default = option["default"]
    text = f"{default:g}" if isinstance(default, float) else str(default)
    return f"`{option['name']}` {text.lower() if isinstance(default, bool) else text}"
