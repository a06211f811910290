"""A Ray cluster of three real nodes, all on 127.0.0.1, that loses a node, and one that loses its head."""

import logging
import time

import pytest

from kick.store import Store
from kick.sweep.executors.inline import Inline
from kick.sweep.executors.ray import LOOPBACK
from kick.sweep.loop import run_sweep
from tests.support.fake_sweep import HERE, MATRIX, FakeWork, contents, coordinator, fake_jobs

SWEEP = {"variants": 4, "tasks": 1, "items": 30, "every": 5}


@pytest.fixture
def cluster(monkeypatch):
    """A head without processors and two nodes with one each; ends with the test."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv(LOOPBACK, "0")
    monkeypatch.setenv("PYTHONPATH", f"{HERE.parents[1]}")
    monkeypatch.setenv("RAY_health_check_period_ms", "1000")  # a dead node is seen in seconds
    monkeypatch.setenv("RAY_health_check_failure_threshold", "3")
    pytest.importorskip("ray", reason='LOUD: Ray is not installed (pip install "kick[ray]")')
    from ray.cluster_utils import Cluster

    logging.getLogger("ray").setLevel(logging.ERROR)
    here = {"node_ip_address": "127.0.0.1", "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={**here, "num_cpus": 0})
    nodes = [made.add_node(num_cpus=1, node_ip_address="127.0.0.1") for _ in range(2)]
    yield made, nodes
    made.shutdown()


@pytest.fixture
def undisturbed(tmp_path):
    root = tmp_path / "undisturbed"
    work = FakeWork(str(root), items=SWEEP["items"], every=SWEEP["every"])
    run_sweep(work, fake_jobs(SWEEP["variants"], SWEEP["tasks"]), Store(root, MATRIX), Inline())
    return contents(root)


def begin(tmp_path, address):
    """A coordinator on the cluster, the log of what it asked, and the file for which two cells wait by now.

    Each has a chunk on disk and two more answers that are not: nothing depends on who is how quick.
    """
    log, gate = tmp_path / "asked", tmp_path / "gate"
    options = {**SWEEP, "asked": str(log), "gate": str(gate), "executor": "ray", "address": address}
    process = coordinator(tmp_path / "store", **options)
    dense, last = fake_jobs(1, 1)[0].cells[0].key, SWEEP["every"] + 1
    while True:
        assert process.poll() is None, process.communicate()
        lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        waiting = {key for word, key, index in lines if word == "asked" and int(index) == last}
        if len(waiting - {dense}) == 2:
            return process, log, gate
        time.sleep(0.1)


def kept_and_asked_again(log):
    kept, again = {}, []
    for line in log.read_text().splitlines():
        word, key, index = line.split()
        if word == "kept":
            kept[key] = int(index)
        elif int(index) <= kept.get(key, -1):
            again.append(line)
    return again


def test_a_lost_node_costs_what_its_chunks_had_not_kept(tmp_path, cluster, undisturbed):
    made, nodes = cluster
    process, log, gate = begin(tmp_path, made.address)
    made.remove_node(nodes[1], allow_graceful=False)
    told = next((line for line in process.stderr if "was lost with its node" in line), "")
    gate.touch()  # not before: what ran on the node may outlive it for a moment, and would finish its cell
    out, errors = process.communicate(timeout=180)
    assert process.returncode == 0, out + errors
    assert "another one continues it" in told
    assert contents(tmp_path / "store") == undisturbed
    assert kept_and_asked_again(log) == []
    assert list(Store(tmp_path / "store", MATRIX).failures()) == [], "no cell is to blame"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_lost_head_ends_the_sweep_with_a_word_and_it_goes_on_elsewhere(tmp_path, cluster, undisturbed):
    made, _ = cluster
    process, log, _ = begin(tmp_path, made.address)
    made.remove_node(made.head_node, allow_graceful=False)
    start = time.monotonic()
    out, errors = process.communicate(timeout=120)
    print(f"the sweep ended {time.monotonic() - start:.0f} s after its head")
    assert process.returncode == 1
    assert "the head of the Ray cluster at 127.0.0.1" in out, errors
    assert "run the same command again on another cluster" in out
    assert list(Store(tmp_path / "store", MATRIX).failures()) == [], "no cell is to blame"
    options = {**SWEEP, "asked": str(log), "workers": 2}
    second = coordinator(tmp_path / "store", **options)
    out, errors = second.communicate(timeout=120)
    assert second.returncode == 0, out + errors
    assert contents(tmp_path / "store") == undisturbed
    assert kept_and_asked_again(log) == []
