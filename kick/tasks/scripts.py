"""Words of texts in any script: marks stay with their letters, and scripts without blanks go by the letter.

Chinese, Japanese, Thai, Lao, Khmer and Burmese put no blanks between words. Each of their characters counts
as a word, as the evaluations of MLQA and CMRC do: no dictionary decides a score.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

_DENSE = re.compile(
    "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\U00020000-\U0003ffff]"
)


def pieces(word: str) -> list[str]:
    """A word without blanks as words: itself, or its characters where the script has no blanks."""
    if not _DENSE.search(word):
        return [word]
    found: list[str] = []
    dense = False  # whether the last piece is a character of its own
    for character in word:
        if found and unicodedata.category(character) in ("Mn", "Mc"):
            found[-1] += character
        elif _DENSE.match(character):
            found.append(character)
            dense = True
        elif found and not dense:
            found[-1] += character
        else:
            found.append(character)
            dense = False
    return found


def split(text: str) -> list[str]:
    """The words of a text by its blanks, and by the character where its script has none."""
    return [piece for word in text.split() for piece in pieces(word)]


class Blanks(dict):
    """For `str.translate`: characters of some categories as blanks, all others as they are."""

    def __init__(self, kept: str = "", gone: str = ""):
        """kept, gone: first letters of the Unicode categories that stay, or that go; one of the two."""
        super().__init__()
        self.kept, self.gone = kept, gone

    def __missing__(self, code: int) -> int:
        kind = unicodedata.category(chr(code))[0]
        self[code] = 32 if kind in self.gone or (self.kept and kind not in self.kept) else code
        return self[code]


_LETTERS = Blanks(kept="LNM")


def tokens(text: str) -> list[str]:
    """Runs of letters, their marks and numbers, in lower case; for ASCII those of the rouge-score package."""
    return split(unicodedata.normalize("NFC", text.lower()).translate(_LETTERS))


def latin(text: str) -> bool:
    """Whether a text has Latin letters, or no letters at all: rules made for English can look at it."""
    letters = [character for character in text if character.isalpha()]
    return not letters or any(_is_latin(character) for character in letters)


@cache
def _is_latin(character: str) -> bool:
    return unicodedata.name(character, "").startswith("LATIN")
