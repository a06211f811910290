"""The page in a real browser: a link gives its view back, model text stays text, nothing is requested.

The browser is the system's Chromium, headless, without a driver: the page's own script acts by the address.
Skipped where there is none.
"""

import re
import shutil
import subprocess

import pytest

from kick.analysis.frame import read
from kick.report.leaderboard import render
from tests.support.synthetic import DENSE, FakeStore, fill, pruned

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="NO BROWSER: chromium is not installed")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    ours = [DENSE, pruned("wanda", 0.3), pruned("wanda", 0.5), pruned("magnitude", 0.5)]
    store = fill(FakeStore(), ours, ["kick_mini_factoid", "kick_mini_perplexity"], n=12)
    return render(read([store]), tmp_path_factory.mktemp("page"))[0]


@pytest.fixture(scope="module")
def seen(page, tmp_path_factory):
    """(document, messages) of the page at an address: what the browser made of it, and its complaints."""
    profile = tmp_path_factory.mktemp("profile")

    def visit(link: str) -> tuple[str, str]:
        command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        command += [
            "--enable-logging=stderr",
            "--virtual-time-budget=2000",
            "--dump-dom",
            f"{page.as_uri()}{link}",
        ]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return ran.stdout, "\n".join(line for line in ran.stderr.splitlines() if "CONSOLE" in line)

    return visit


def rows(document: str) -> list[str]:
    """The labels of the overview's rows that are shown."""
    body = re.search(r'<table class="grid overview">.*?<tbody>(.*?)</tbody>', document, re.S)[1]
    found = re.findall(r"<tr([^>]*)>", body)
    return [re.search(r'data-label="([^"]*)"', one)[1] for one in found if not re.search(r"\bhidden", one)]


def test_a_link_keeps_a_view_and_nothing_is_complained_of(seen):
    document, messages = seen("#s0-words=wanda")
    assert set(rows(document)) == {"dense", "wanda 30 %", "wanda 50 %"}
    assert "3 of 4 rows" in document
    assert messages == "", "no script error, no request that the policy refused"
    assert document.count("<script") == 2, "model text made no element"


def test_a_link_opens_one_task_in_full(seen):
    document, messages = seen("#s0-view=0")
    assert re.search(r'<table class="grid detail"><caption>Closed-book facts: ', document)
    assert "95 % interval of the gap" in document
    assert messages == ""
