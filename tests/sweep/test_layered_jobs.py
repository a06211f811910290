"""A matrix by the engine 'layered' stores the cells that the default engine stores."""

import pytest

from kick import api, paths
from kick.errors import KickError
from kick.matrix.load import load
from kick.store import Store

MATRIX = """
name: {name}
model: smoke
tasks: [kick_mini_mcq, kick_mini_perplexity]
limit: {{kick_mini_mcq: 6, kick_mini_perplexity: 2}}
calibration: {{corpus: kick_mini_calibration, sequences: 2, length: 64}}
variants:
  - method: wanda
    sparsity: 0.5
  - method: gptq
    bits: 4
    group_size: 32
replicas: []
engine: {engine}
"""


def scores(folder, name):
    store = Store(folder, name)
    found = {}
    for run in store.runs():
        for score in run.scores:
            found[run.cell.variant.label, run.cell.task.name, score.metric] = score.value
    return found, {run.key for run in store.runs()}, list(store.runs())


@pytest.mark.slow  # the real model, twice; tests/engine/test_layered.py has small ones
def test_scores_and_keys_are_those_of_the_engine_in_memory(tmp_path):
    texts = {
        "layered": MATRIX.format(name="m", engine="{name: layered, memory: 100MB}"),
        "packed": MATRIX.format(name="m", engine="{name: packed}"),
    }
    found = {}
    for name, text in texts.items():
        ran = api.run(text, out=str(tmp_path / name))
        assert (ran.failed, ran.done) == (0, 6)
        found[name] = scores(str(tmp_path / name), "m")
    assert found["layered"][1] == found["packed"][1], "the same cells"
    assert found["layered"][0] == pytest.approx(found["packed"][0], rel=1e-5)
    for run in found["layered"][2]:
        assert run.provenance["engine"]["backend"] == "layered"
        assert run.provenance["engine"]["passes"] == 1, "all cells of a variant in one pass"
    by_key = [{run.key: run.compression["footprint"] for run in found[name][2]} for name in texts]
    assert by_key[0] == by_key[1]
    assert not list((paths.cache_root() / "layered").glob("*")), "the compressed weights are gone"


@pytest.mark.parametrize(
    ("engine", "message"),
    [("{name: packed, memory: 4GB}", "engine named layered"), ("{name: layered, memory: 4}", "4GB")],
)
def test_a_budget_that_nobody_obeys_is_refused(engine, message):
    with pytest.raises(KickError, match=message):
        load(MATRIX.format(name="m", engine=engine))
