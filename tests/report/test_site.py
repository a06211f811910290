"""The index over leaderboards: a link to each page, what it shows, and nothing that a name could make act."""

import re
from pathlib import Path

import pytest

from kick.cli import main
from kick.errors import KickError
from kick.report.site import build

LEADERBOARDS = Path(__file__).parents[2] / "leaderboards"


def test_each_folder_is_linked_with_its_sentence(tmp_path, capsys):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "index.html").write_text(
        '<h1>What &lt;b&gt; does</h1><p class="lead">6 variants.</p><p>no</p>'
    )
    (tmp_path / "demo" / "leaderboard.csv").write_text("a\n")
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "report.md").write_text("# Claims of papers\n\nMeasured on x. More.\n")
    (tmp_path / "empty").mkdir()
    main_ended(["site", str(tmp_path)])
    assert capsys.readouterr().out.strip() == str(tmp_path / "index.html")
    page = (tmp_path / "index.html").read_text("utf-8")
    assert '<a href="demo/index.html">demo</a>' in page
    assert "What &lt;b&gt; does. 6 variants." in page
    assert '<a href="demo/leaderboard.csv">' in page
    assert "Claims of papers. Measured on x" in page
    assert "empty" not in page.partition("<main>")[2]
    assert build(tmp_path).read_text("utf-8") == page, "the index itself is not an entry"


def main_ended(arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert not ended.value.code


def test_hostile_names_are_text_and_an_empty_folder_is_refused(tmp_path):
    evil = tmp_path / '"><img src=x>'
    evil.mkdir()
    (evil / "index.html").write_text("<h1>t</h1>")
    assert "<img" not in build(tmp_path).read_text("utf-8")
    with pytest.raises(KickError, match="kick leaderboard"):
        build(tmp_path / "absent")


@pytest.mark.parametrize("page", sorted(LEADERBOARDS.glob("*/index.html")), ids=lambda page: page.parent.name)
def test_committed_pages_name_no_folder_of_the_machine_that_measured(page):
    (commands,) = re.findall(r"<dt>command</dt><dd>([^<]*)", page.read_text("utf-8"))
    assert commands.startswith("kick ")
    assert re.findall(r"(?:^|[ =])[/~]", commands) == []
