"""An index over a folder of leaderboards: a page that links to each and says what it shows."""

from __future__ import annotations

from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from markupsafe import escape

from kick.errors import KickError
from kick.printable import plain
from kick.report.leaderboard import HERE, policy

FILES = (
    "index.html",
    "report.md",
    "leaderboard.csv",
    "leaderboard.md",
    "leaderboard.tex",
    "leaderboard.json",
)


@dataclass(frozen=True)
class Entry:
    """A folder under the index: its title, what it shows, and the files that it has."""

    name: str
    title: str
    shows: str
    files: tuple[str, ...]


class _Head(HTMLParser):
    """The text of the first h1 and of the first paragraph of class "lead"."""

    def __init__(self, text: str):
        super().__init__()
        self.title, self.lead, self._in = "", "", ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "h1" and not self.title:
            self._in = "title"
        elif tag == "p" and dict(attrs).get("class") == "lead" and not self.lead:
            self._in = "lead"

    def handle_endtag(self, tag: str) -> None:
        if tag in ("h1", "p"):
            self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in:
            setattr(self, self._in, getattr(self, self._in) + data)


def entries(folder: Path) -> list[Entry]:
    """The folders under `folder` with a page or a report, by name. Raises KickError if there are none."""
    found = (
        [made for one in sorted(folder.iterdir()) if one.is_dir() and (made := _entry(one))]
        if (folder.is_dir())
        else []
    )
    if not found:
        raise KickError(
            f"{folder} holds no leaderboard; `kick leaderboard RESULTS --out {folder}/NAME` makes one"
        )
    return found


def _entry(folder: Path) -> Entry | None:
    files = tuple(name for name in FILES if (folder / name).is_file())
    if "index.html" in files:
        head = _Head((folder / "index.html").read_text("utf-8", errors="replace"))
        return Entry(folder.name, plain(head.title), plain(head.lead), files)
    if "report.md" in files:
        first, *rest = (folder / "report.md").read_text("utf-8", errors="replace").strip().split("\n\n")
        return Entry(
            folder.name, plain(first.lstrip("# ")), plain(rest[0].split(". ")[0]) if rest else "", files
        )
    return None


def build(folder: str | Path) -> Path:
    """Write the index.html of a folder of leaderboards; returns its path."""
    folder = Path(folder)
    style = (HERE / "leaderboard.css").read_text("utf-8")
    items = "\n".join(map(_item, entries(folder)))
    text = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy(style, ""))}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<title>Leaderboards</title>\n"
        f"<style>{style}</style>\n</head>\n<body>\n<header><h1>Leaderboards</h1>\n"
        '<p class="lead">One file each, with no network; tables beside it.</p></header>\n'
        f"<main>\n{items}\n</main>\n<footer><p>Made by kick site.</p></footer>\n</body>\n</html>\n"
    )
    page = folder / "index.html"
    page.write_text(text, encoding="utf-8", errors="replace")
    return page


def _item(one: Entry) -> str:
    links = ", ".join(f'<a href="{escape(one.name)}/{name}">{name}</a>' for name in one.files)
    return (
        f'<section><h2><a href="{escape(one.name)}/{one.files[0]}">{escape(one.name)}</a></h2>\n'
        f'<p>{escape(one.title)}. {escape(one.shows)}</p>\n<p class="quiet">{links}</p></section>'
    )
