"""The site's pages that are not in docs/: documents of the root, committed leaderboards, the reference.

MkDocs calls `on_files` and `on_page_markdown`. The root's documents link as they do in the repository; their
links are rewritten here, so that one text serves both.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from posixpath import normpath, relpath

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
DOCUMENTS = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
}
# linked from the documents
SHOWN = ("leaderboards/*/index.html", "leaderboards/*/report.md")
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#\s:]+)(#[^)\s]*)?\)")
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)#\s:]+)\)")


def rooms() -> list[Path]:
    """The packages and modules directly in kick/, by name."""
    found = [path.parent for path in ROOT.glob("kick/*/__init__.py")]
    found += [path for path in ROOT.glob("kick/*.py") if path.stem != "__init__"]
    return sorted(found, key=lambda path: path.stem)


def summary(file: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "").split("\n")[0]


def module(file: Path) -> str:
    """kick/engine/__init__.py -> kick.engine"""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_page(room: Path) -> str:
    """A page with every module of a room, each told by its docstrings."""
    files = (
        [room] if room.suffix else [file for file in sorted(room.rglob("*.py")) if file.stem != "__main__"]
    )
    parts = [f"# kick.{room.stem}"]
    parts += [f"::: {module(file)}" for file in files if summary(file)]
    return "\n\n".join(parts) + "\n"


def contents_page() -> str:
    """The list of rooms with their first lines."""
    rows = ["# Python reference", "Made from the docstrings. Names that start with `_` are left out."]
    for room in rooms():
        file = room if room.suffix else room / "__init__.py"
        rows.append(f"- [kick.{room.stem}]({room.stem}.md): {summary(file)}")
    return "\n\n".join(rows[:2]) + "\n\n" + "\n".join(rows[2:]) + "\n"


def on_files(files, config):
    """Add the pages that are made here."""
    for source, page in DOCUMENTS.items():
        if (ROOT / source).exists():
            files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
    for pattern in SHOWN:
        for path in ROOT.glob(pattern):
            files.append(File.generated(config, str(path.relative_to(ROOT)), abs_src_path=str(path)))
    files.append(File.generated(config, "reference/index.md", content=contents_page()))
    for room in rooms():
        files.append(File.generated(config, f"reference/{room.stem}.md", content=room_page(room)))
    return files


def on_page_markdown(markdown, page, config, files):
    """The page with its links as the site has them."""
    pages = {page: source for source, page in DOCUMENTS.items()}
    here = pages.get(page.file.src_uri, f"docs/{page.file.src_uri}")  # where the text is in the repository
    if here.startswith("docs/reference/"):
        return markdown
    uri = page.file.src_uri
    markdown = IMAGE.sub(lambda found: f"![{found[1]}]({moved(found[2], here, uri)})", markdown)
    return LINK.sub(lambda found: link(found, here, uri, files), markdown)


def link(found: re.Match[str], here: str, uri: str, files) -> str:
    """A link of the repository's file `here` on the page `uri`; of a source file only its text stays."""
    text, target, anchor = found[1], found[2], found[3] or ""
    place = moved(target, here, uri)
    known = normpath(f"{Path(uri).parent.as_posix()}/{place}") in files.src_uris
    source = (ROOT / Path(here).parent / target).exists() and not target.endswith(".md")
    return text if source and not known else f"[{text}]({place}{anchor})"


def moved(target: str, here: str, uri: str) -> str:
    """A relative target of the repository's file `here`, seen from the site's page `uri`."""
    path = normpath(f"{Path(here).parent.as_posix()}/{target}")
    place = DOCUMENTS.get(path, path.removeprefix("docs/"))
    return relpath(place, Path(uri).parent.as_posix())
