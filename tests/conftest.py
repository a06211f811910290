"""What the whole suite shares: one finished run of the preset `smoke`, and quiet surroundings."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tests share the machine
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

pytest_plugins = ["tests.support.made_up"]


@pytest.fixture(scope="session")
def smoke_results(tmp_path_factory):
    """The folder of results of one run of `smoke`; tests read it and never write."""
    from kick.sweep import run

    out = tmp_path_factory.mktemp("smoke") / "results"
    options = run.RunOptions(out=str(out), executor="inline", view="json")
    _, summary = run.run("smoke", options, ["kick", "run", "smoke"], lambda text: None)
    assert summary.status == 0
    return out


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are written as empty files: drawing takes most of the time, and their tables do not need it."""
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda drawn, file, **_: Path(file).touch())


@pytest.fixture
def forgotten():
    """Afterwards no plugin of the test is in other tests' tables."""
    from kick import plugins, registry

    yield
    for name in [name for name in sys.modules if name.startswith(plugins.PREFIX)]:
        registry.forget(name)
        del sys.modules[name]


def pytest_terminal_summary(terminalreporter):
    """Say loudly what was not tested because something that the system lacks would be needed."""
    skipped = terminalreporter.stats.get("skipped", [])
    for reason in sorted({str(one.longrepr[2]) for one in skipped if "NO BROWSER" in str(one.longrepr)}):
        count = sum(reason in str(one.longrepr) for one in skipped)
        terminalreporter.write_line(f"{count} tests of the page: {reason}", red=True, bold=True)
