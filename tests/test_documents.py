"""Documents: widths, words, links, the list of rooms, the checker of the built site."""

import ast
import re
import runpy
import shlex
from pathlib import Path

import pytest

from tests.test_layers import FLOORS, MODULES, room, walked

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
COLUMNS = 100
LINK = re.compile(r"\]\(([^)#\s:]*)(#[^)\s]*)?\)")

BANNED = {  # -> what the field writes
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\bheld against\b": "compared with",
    r"\bto be had\b": "available",
    r"(?<![Tt]here )\b(is|are) no (?!longer|larger|smaller|better|worse|more|less)\w": "is not a",
    r"\bis wanted\b|; wanted:|\bwanted[,.;]": "expected, needed",
    r"\bstand(s|ing)? (in (?!for)|on|at|as|with|by|elsewhere|nowhere|there)\b": "is, occurs",
    r"\bgoes\.": "is pruned, is removed",
    r"\bunder way\b": "in progress, running",
    r"\b(seconds|items|bits|requests) an? (cell|task|weight|second|group|item)\b": "per",
    r"\bmay be found\b|\bcan be had\b": "is available",
}

ASKED = ("or is no language gets", "a grade is no")  # what a judge is told: other words ask it anew


def banned(text):
    """Each phrase of a text that the field does not write, with what it writes."""
    for phrase, better in BANNED.items():
        for found in re.finditer(phrase, text):
            around = text[max(found.start() - 40, 0) : found.end() + 20]
            if not any(one in around for one in ASKED):
                yield f"{around!r}: write {better!r}"


check = runpy.run_path(str(ROOT / "docs" / "_site" / "check.py"))


def anchors(page):
    """The anchors of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
    heads = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for target, anchor in LINK.findall(page.read_text("utf-8")):
        file = page.parent / target if target else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor and file.suffix == ".md":
            assert anchor[1:] in anchors(file), f"{page.name} links to {target}{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_line_is_wider_than_a_hundred_columns(page):
    assert [line for line in page.read_text("utf-8").splitlines() if len(line) > COLUMNS] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_words_are_those_of_the_field(page):
    text = " ".join(re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S).split())
    assert [*banned(text)] == []


ROOMS = tuple(sorted(path.name for path in (ROOT / "kick").iterdir() if (path / "__init__.py").exists()))
CODE = [
    *(ROOT / "kick").glob("*.py"),
    *(file for name in ROOMS for file in (ROOT / "kick" / name).rglob("*.py")),
]


def test_messages_and_docstrings_have_the_words_of_the_field():
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}: {wrong}"
        for file in sorted(CODE)
        for node in walked(file)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for wrong in banned(" ".join(node.value.split()))
    ]
    assert found == []


def test_the_architecture_lists_the_rooms_from_the_ground_up():
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    listed = re.findall(r"^\| `(\w+)` \|", text, flags=re.M)
    there = {room(module) for module in MODULES} - {""}
    assert listed == [name for name in FLOORS if name in there]


PAGE = '<a href="b.html#there">b</a><h2 id="here">A</h2><a href="#here">a</a>{}'


@pytest.mark.parametrize(
    ("extra", "wrong"),
    [
        ("", []),
        ('<a href="c.html">c</a>', ["a.html links to c.html, which does not exist"]),
        ('<a href="#nowhere">c</a>', ["a.html links to #nowhere, an anchor that does not exist"]),
        ('<a href="https://example.org">c</a>', []),
        ('<script src="https://example.org/x.js"></script>', ["a.html needs https://example.org/x.js"]),
        ('<link rel="stylesheet" href="//fonts.org/x.css">', ["a.html needs //fonts.org/x.css"]),
    ],
)
def test_the_check_of_the_site_finds_what_is_broken(tmp_path, extra, wrong):
    (tmp_path / "a.html").write_text(PAGE.format(extra))
    (tmp_path / "b.html").write_text('<h2 id="there">B</h2>')
    assert check["problems"](tmp_path) == wrong


def test_the_check_of_the_site_finds_fonts_from_elsewhere(tmp_path):
    (tmp_path / "s.css").write_text("@import url('https://fonts.org/x.css');")
    assert check["problems"](tmp_path) == ["s.css fetches a file from elsewhere"]


def commands():
    """Each `kick ...` line of a code block in a document, as the words of a shell."""
    for page in PAGES:
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text("utf-8"), flags=re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True) if "kick " in line else []
                if words[:1] == ["kick"] and words[1:2] != ["lm-eval"]:
                    yield pytest.param(words[1:], id=f"{page.name}: {line[:60]}")


@pytest.mark.parametrize("words", commands())
def test_the_commands_exist_with_their_options(words):
    from typer.main import get_command

    from kick.cli import app

    command = get_command(app)
    while hasattr(command, "commands"):
        assert words[0] in command.commands, words
        command = command.commands[words.pop(0)]
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    free = command.name == "compress"  # takes the options of the methods too
    assert free or {word for word in words if word.startswith("--")} <= known


def test_no_text_cites_a_document_that_a_reader_does_not_have():
    absent = re.compile(r"\b(PROTOCOL|DESIGN|SPEED|TRAPS|SEEDS|HOUSE|EARLY|STYLE)\b")
    files = [
        *PAGES,
        *(file for part in ("kick", "tests", "tasks", "benchmarks") for file in (ROOT / part).rglob("*.py")),
    ]
    found = [str(file) for file in files if file != Path(__file__) and absent.search(file.read_text("utf-8"))]
    assert not found
