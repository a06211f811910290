"""One set of made-up results, its frame and its page, for the tests of analysis and report."""

import pytest

from kick.analysis.frame import read
from kick.records import Step
from kick.report.leaderboard import render
from tests.support import synthetic
from tests.support.synthetic import BATCH, DENSE, DTYPE, FakeStore, fill, pruned, quantized, variant

FEW = (
    DENSE,
    BATCH,
    DTYPE,
    *(pruned("magnitude", level) for level in (0.3, 0.5)),
    *(pruned("wanda", level) for level in (0.3, 0.5, "2:4")),
    pruned("wanda", 0.5, seed=1),
    *(quantized("gptq", bits) for bits in (8, 4)),
    variant("wanda-rtn", Step("wanda", {"sparsity": 0.5}), Step("rtn", {"bits": 4, "group_size": 32})),
)


@pytest.fixture(scope="session")
def store():
    return fill(FakeStore(), FEW, n=60)


@pytest.fixture(scope="session")
def report(store):
    return read([store])


@pytest.fixture(scope="session")
def frame(report):
    return report.frame


@pytest.fixture(scope="session")
def folder(report, tmp_path_factory):
    out = tmp_path_factory.mktemp("leaderboard")
    render(report, out, title="A title with <b>marks</b>", notes=["a note"])
    return out


@pytest.fixture(scope="session")
def page(folder):
    return (folder / "index.html").read_text("utf-8")


__all__ = ["synthetic"]
