"""Docstrings as Markdown: the aligned lists of our modules become lists."""

from __future__ import annotations

import re

from griffe import Docstring, Extension

ENTRY = re.compile(r"^(\S+(?: \S+){0,3}?) {2,}(\S.*)$")


def listed(text: str) -> str:
    """`name    what it is` lines become list items; a line that goes on, indented, stays with its item."""
    lines, inside = [], False
    for line in text.split("\n"):
        entry = ENTRY.match(line)
        if entry:
            lines += [] if inside else [""]
            line = f"- `{entry[1]}`: {entry[2]}"
        elif inside and line.startswith("  "):
            line = f"  {line.strip()}"
        elif inside:
            lines.append("")
        inside = bool(entry) or (inside and line.startswith("  "))
        lines.append(line)
    return "\n".join(lines)


class Aligned(Extension):
    """Rewrites each docstring as it is read."""

    def on_object(self, *, obj, **kwargs) -> None:
        """Change the text of one module's, class's or function's docstring."""
        if isinstance(obj.docstring, Docstring):
            obj.docstring.value = listed(obj.docstring.value)
