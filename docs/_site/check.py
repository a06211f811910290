"""Checks a built site: every link and anchor inside it exists, and no page needs a file from elsewhere.

python docs/_site/check.py site
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ASSETS = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
PASSIVE = {"canonical", "prev", "next", "alternate"}  # <link rel=...> that a browser does not fetch
FOREIGN_CSS = re.compile(r"(?:@import\s*(?:url\()?|url\()\s*['\"]?(https?:)?//")


class Page(HTMLParser):
    """What a page links to, what it needs, and the anchors that it has."""

    def __init__(self, text: str):
        super().__init__()
        self.links: set[str] = set()
        self.assets: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.add(values["href"])
        asset = values.get(ASSETS.get(tag, ""), "")
        if asset and not (tag == "link" and values.get("rel") in PASSIVE):
            self.assets.add(asset)


def local(link: str) -> bool:
    """Whether a link stays within the site."""
    parts = urlsplit(link)
    return not parts.scheme and not parts.netloc


def problems(site: Path) -> list[str]:
    """One line for each broken link, missing anchor, and file from elsewhere."""
    pages = {file: Page(file.read_text("utf-8")) for file in sorted(site.rglob("*.html"))}
    found = []
    for file, page in pages.items():
        where = file.relative_to(site)
        found += [f"{where} needs {asset}" for asset in sorted(page.assets) if needs_net(asset)]
        for link in sorted(filter(local, page.links | page.assets)):
            path, anchor = unquote(urlsplit(link).path), unquote(urlsplit(link).fragment)
            target = (file.parent / path).resolve() if path else file
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() and where.name != "404.html":
                found.append(f"{where} links to {link}, which does not exist")
            elif anchor and target in pages and anchor not in pages[target].anchors | {"__top"}:
                found.append(f"{where} links to {link}, an anchor that does not exist")
    for sheet in sorted(site.rglob("*.css")):
        if FOREIGN_CSS.search(sheet.read_text("utf-8")):
            found.append(f"{sheet.relative_to(site)} fetches a file from elsewhere")
    return found


def needs_net(asset: str) -> bool:
    """Whether an asset is neither of the site nor inside the page itself."""
    return not local(asset) and urlsplit(asset).scheme != "data"


if __name__ == "__main__":
    wrong = problems(Path(sys.argv[1]).resolve())
    print(*wrong, sep="\n", end="\n" if wrong else "")
    sys.exit(1 if wrong else 0)
