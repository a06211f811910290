"""docs/tutorial.md is done as it stands there: its files are written, its commands run, outputs compared."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from kick import cli

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.M | re.S)
VARYING = [  # numbers with decimals, keys, times, what a verdict says of them, blanks and lines of a table
    (r"[+\u2212-]?\b\d[\d,]*\.\d+\b", "0"),
    (r"\b[0-9a-f]{16}\b", "KEY"),
    (r"\b\d+ s\b", "0 s"),
    (r"\b(matching|worse|better|undecided|inside the noise)\b", "VERDICT"),
    (r"(?<=[0\]]) [=?~\u25b2\u25bc](?=\s|$)", ""),
    (r"[\u2500 \t]+", " "),
]


def blocks(text):
    """(language, text) of each code block, in order."""
    return BLOCK.findall(text)


def perform(text, folder):
    """Write the files of a tutorial and run its commands there: (command, status, output) of each."""
    commands = []
    for language, block in blocks(text):
        if language in ("python", "yaml", "csv"):
            head, rest = block.split("\n", 1)
            file = folder / head.removeprefix("# ")
            file.parent.mkdir(exist_ok=True)
            file.write_text(rest if language == "csv" else block)
        elif language == "console":
            commands.append(shlex.split(block.split("\n", 1)[0].removeprefix("$ "))[1:])
    # the files are there before the first command, and a run is in the process that the test has
    words = [[*one, "--executor", "inline"] if one[0] == "run" else one for one in commands]
    with contextlib.chdir(folder):
        return [(command, *told(one)) for command, one in zip(commands, words, strict=True)]


def told(words):
    """(status, output) of a command."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            cli.main(words)
            status = 0
        except SystemExit as ended:
            status = ended.code or 0
    return status, out.getvalue()


def same(shown, got):
    """Whether an output is the one shown, `...` standing for any lines, varying numbers aside."""
    parts = [re.escape(plain(part)) for part in re.split(r"^\.\.\.\n", shown, flags=re.M)]
    return re.fullmatch(r"[\s\S]*?".join(parts), plain(got)) is not None


def plain(text):
    for pattern, instead in VARYING:
        text = re.sub(pattern, instead, text)
    return "\n".join(line.strip() for line in text.splitlines() if line.strip()) + "\n" if text else ""


@pytest.fixture(scope="module")
def tutorial():
    return (ROOT / "docs" / "tutorial.md").read_text("utf-8")


@pytest.mark.usefixtures("forgotten")
def test_the_tutorial_works_as_it_stands(tutorial, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    shown = [text.split("\n", 1)[1] for language, text in blocks(tutorial) if language == "console"]
    for (command, status, got), expected in zip(perform(tutorial, tmp_path), shown, strict=True):
        assert status == 0, (command, got)
        assert same(expected, got), f"{command}: docs/tutorial.md shows\n{expected}\nand it printed\n{got}"
    for language, text in blocks(tutorial):
        if language == "markdown":
            file, expected = text.split("\n", 1)
            assert plain(expected) in plain((tmp_path / file.removeprefix("# ")).read_text())
    assert {file.suffix for file in (tmp_path / "figures").glob("forest.*")} == {".png", ".pdf", ".csv"}


def test_an_output_that_says_something_else_is_noticed():
    assert same("a 1.5 [0.1 to 2.0] ?\n...\nend\n", "a   1.7 [0.2 to 3.0] =\nb\nend\n")
    assert not same("10 cells: 10 to do\n", "10 cells: 9 to do\n")
    assert not same("a\n...\nend\n", "a\nb\nend\nmore\n")
