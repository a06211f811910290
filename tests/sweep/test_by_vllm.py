"""A matrix on the engine 'vllm' from file to stored cells, with the stand-in for vLLM of tests/support."""

import sys
from pathlib import Path

import pytest

from kick import RunOptions, api
from kick.engine.vllm.served import Served
from kick.engine.vllm.where import Installed
from kick.store import Store
from kick.sweep import by_vllm, reproduce

STAND_IN = Path(__file__).parents[1] / "support" / "vllm_stand_in.py"
MATRIX = """
name: served
model: smoke
tasks: [kick_mini_mcq, kick_mini_factoid, kick_mini_fidelity]
limit: {{kick_mini_mcq: 3, kick_mini_factoid: 2, kick_mini_fidelity: 2}}
variants: [{{method: rtn, bits: 4, group_size: 32}}]
replicas: []
engine: {{name: {engine}}}
"""


@pytest.fixture
def stand_in(monkeypatch):
    here = Installed(sys.executable, "0.0.0")
    for place in ("kick.engine.backend", "kick.engine.vllm.served", "kick.sweep.by_vllm"):
        monkeypatch.setattr(f"{place}.installed", lambda: here)
    seen = []

    def serve(folder, *args, **options):
        seen.append(folder)
        return Served(folder, *args, server=STAND_IN, **options)

    monkeypatch.setattr(by_vllm, "Served", serve)
    return seen


def scores(root):
    found = {}
    for run in Store(str(root), "served").runs():
        for score in run.scores:
            found[run.cell.variant.name, run.cell.task.name, score.metric] = score.value
    return found


def test_a_matrix_has_the_scores_of_the_default_engine(stand_in, tmp_path):
    for engine in ("vllm", "packed"):
        ran = api.run(
            MATRIX.format(engine=engine), out=str(tmp_path / engine), options=RunOptions(executor="inline")
        )
        assert (ran.failed, ran.done) == (0, 6)
    assert scores(tmp_path / "vllm") == pytest.approx(scores(tmp_path / "packed"), abs=1e-3, nan_ok=True)
    assert len(stand_in) == 2, "a process per variant"
    runs = list(Store(str(tmp_path / "vllm"), "served").runs())
    assert {run.cell.engine for run in runs} == {"vllm 1 0.0.0"}
    assert {run.provenance["engine"]["starts"] for run in runs} == {1}
    assert not {run.key for run in runs} & {
        run.key for run in Store(str(tmp_path / "packed"), "served").runs()
    }
    assert [folder.exists() for folder in stand_in] == [True, False], (
        "the checkpoint that was made is removed"
    )


def test_a_cell_is_asked_again_on_the_engine_that_answered_it(stand_in, tmp_path):
    api.run(MATRIX.format(engine="vllm"), out=str(tmp_path), options=RunOptions(executor="inline"))
    before = len(stand_in)
    (cell,) = (
        run
        for run in Store(str(tmp_path), "served").runs()
        if run.cell.variant.dense and run.cell.task.name == "kick_mini_mcq"
    )
    assert reproduce.reproduce(f"{tmp_path}/served/{cell.key}").equal
    assert len(stand_in) == before + 1


def test_a_process_that_crashes_is_a_failed_cell_with_the_tail_of_its_log(stand_in, tmp_path, monkeypatch):
    def crashing(folder, *args, **options):
        return Served(Path(f"{folder}#crash"), *args, server=STAND_IN, **options)

    monkeypatch.setattr(by_vllm, "Served", crashing)
    ran = api.run(MATRIX.format(engine="vllm"), out=str(tmp_path), options=RunOptions(executor="inline"))
    assert (ran.failed, ran.done) == (6, 0)
    causes = [failure.cause for failure in Store(str(tmp_path), "served").failures()]
    assert sum("the machine is on fire" in cause for cause in causes) == 5, "one lacks dense's cell"
    assert sum("and this one compares with it" in cause for cause in causes) == 1
