"""The matrices of LLM-KICK: what they come to, on kick's own tables but for model and hub."""

from dataclasses import replace

import pytest

from kick import tasks
from kick.matrix.load import load
from kick.matrix.plan import plan
from kick.matrix.rates import Rates
from kick.matrix.sources import own_sources
from tests.support.llm_kick import mirror
from tests.support.small_tables import Asked

SHARES = [f"{n / 20:g}" for n in range(1, 17)]


@pytest.fixture(scope="module")
def sources():
    """kick's own, with the tiny model whatever the name."""
    own = own_sources()
    return replace(own, resolve=lambda name, revision, dtype: own.resolve("smoke", None, "float32"))


def test_the_small_matrix_has_dense_and_eight_variants_and_a_limit_for_every_task(sources):
    matrix = load("llm_kick_small")
    found = plan(matrix, data_root=mirror(), sources=sources, rates=Rates())
    assert found.variants[0].name == "dense"
    assert len([v for v in found.variants if v.recipe]) == 8
    assert [v.name for v in found.variants if v.replica] == ["dense-batch", "dense-dtype"]
    assert all(cell.task.limit for cell in found.cells)
    asked = {cell.task.name.removesuffix("_fast") for cell in found.cells}
    assert asked == set(tasks.index.expand(["llm_kick"]))


def test_the_papers_matrix_has_the_papers_levels(sources):
    hub = replace(
        sources,
        tasks=lambda names, root: {name: Asked(name, name) for name in tasks.index.expand(names)},
        corpus=lambda name, root: "0" * 64,
        enough=lambda model, spec, root: None,
        fits=lambda spec, recipe: None,
    )
    matrix = load("llm-kick")
    found = plan(matrix, sources=hub, rates=Rates())
    assert matrix.model.startswith("lmsys/vicuna-7b")
    spec = next(v.calibration for v in found.variants if v.calibration)
    assert (spec.corpus, spec.sequences, spec.length, spec.seed) == ("c4", 128, 2048, 0)
    names = [variant.name for variant in found.variants]
    for method in ("magnitude", "wanda", "sparsegpt"):
        assert [n for n in names if n.startswith(method)] == [
            f"{method}-{level}" for level in (*SHARES, "1:2", "2:4", "4:8")
        ]
    assert [
        variant.recipe[0].options.get("bits") for variant in found.variants if "gptq" in variant.name
    ] == [8, 4, 3, 2]
    assert {"dense-batch", "dense-dtype"} <= set(names)
    assert len({cell.task.name for cell in found.cells}) == len(tasks.index.expand(matrix.tasks)) == 17
