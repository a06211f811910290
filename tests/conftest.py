"""What the whole suite shares: one finished run of the preset `smoke`, and quiet surroundings."""

import os

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
