"""What other variants lose if something of the dense model is lost: the cells that compare with it alone."""

import shutil

import kick
from kick.engine.engine import Engine
from kick.errors import CellFailed
from kick.store import Store
from kick.sweep.worker import Worker

MATRIX = {
    "name": "lost",
    "model": "smoke",
    "tasks": ["kick_mini_mcq", "kick_mini_fidelity"],
    "limit": {"kick_mini_mcq": 3, "kick_mini_fidelity": 2},
    "variants": ["dense", {"method": "magnitude", "sparsity": 0.5}],
    "replicas": [],
}


def run(root):
    options = kick.RunOptions(out=str(root), executor="inline", view="json", retry_failed=True)
    kick.run(MATRIX, options=options)
    return Store(str(root), "lost")


def ended(store):
    """Variants and tasks of the cells that are done, and why the others failed."""
    done = {(one.cell.variant.name, one.cell.task.name) for one in store.runs()}
    return done, [one.cause for one in store.failures()]


def test_a_failed_fidelity_cell_of_dense_costs_the_fidelity_cells_alone(tmp_path, monkeypatch):
    def fidelity(self, requests, finish):
        raise CellFailed("out of order")

    with monkeypatch.context() as broken:
        broken.setattr(Engine, "_fidelity", fidelity)
        store = run(tmp_path)
        done, causes = ended(store)
    assert done == {("dense", "kick_mini_mcq"), ("magnitude-0.5", "kick_mini_mcq")}
    assert sorted("compares with it" in cause for cause in causes) == [False, True]
    done, causes = ended(run(tmp_path))
    assert (len(done), causes) == (4, [])


def test_a_lost_reference_that_cannot_be_made_again_costs_the_fidelity_cells_alone(tmp_path, monkeypatch):
    store = run(tmp_path)
    scores = {one.key: one.scores for one in store.runs()}
    pruned = [one.key for one in store.runs() if not one.cell.variant.dense]
    loading = Worker._model

    def again():
        for key in pruned:
            shutil.rmtree(tmp_path / "lost" / key)
        for folder in (tmp_path / "lost").glob(".reference*"):
            shutil.rmtree(folder)
        return run(tmp_path)

    def refused(self, variant, seconds):
        if variant.dense:
            raise MemoryError("no room for a second model")
        return loading(self, variant, seconds)

    with monkeypatch.context() as full:
        full.setattr(Worker, "_model", refused)
        done, causes = ended(again())
    assert ("magnitude-0.5", "kick_mini_mcq") in done
    assert causes == ["out of memory: no room for a second model"]
    store = again()
    assert {one.key: one.scores for one in store.runs()} == scores
