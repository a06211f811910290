"""Text from elsewhere as text that does nothing: controls and invisible marks are shown as code points."""

from __future__ import annotations

import sys
import unicodedata

# controls, formatting (direction marks), surrogates, private and unassigned ones, line and paragraph ends
ACTING = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def code_point(mark: str) -> str:
    """ "\u27e8U+001B\u27e9" for an escape."""
    return f"\u27e8U+{ord(mark):04X}\u27e9"


def plain(text: str, keep: str = "") -> str:
    """The text with every mark that would act in a terminal or hide shown as its code point.

    `keep`: such marks that stay, "\\n" for text of several lines.
    """
    if text.isprintable():
        return text
    return "".join(
        code_point(mark) if mark not in keep and unicodedata.category(mark) in ACTING else mark
        for mark in text
    )


def counted(count: float, noun: str) -> str:
    """ "1 job", "2 jobs"; the noun in the singular."""
    return f"{count:g} {noun}" if count == 1 else f"{count:g} {noun}s"


def say(text: str) -> None:
    """Print a line of progress or advice on standard error."""
    print(plain(text, keep="\n\t"), file=sys.stderr, flush=True)
