"""Claims: one of many has a cell, the dead lose theirs, and no clock that jumps takes one from the living."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from kick.store import Store
from kick.store.claims import Heart, Watch, look
from kick.store.processes import mark
from tests.support.store_parts import CELL, OTHER

KEY = CELL.key


@pytest.fixture(params=["disk", "memory"])
def root(request, tmp_path):
    return str(tmp_path / "results") if request.param == "disk" else f"memory://{tmp_path.name}/results"


def test_one_of_many_gets_the_claim(root):
    barrier, got = threading.Barrier(8), []

    def take():
        barrier.wait()
        got.append(Store(root, "demo").claim(KEY))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (claim,) = [one for one in got if one]
    store = Store(root, "demo")
    store.release(claim)
    assert store.claim(KEY) is not None


def test_a_claim_of_a_dead_process_is_taken_over_at_once(tmp_path):
    code = f"from kick.store import Store; Store({str(tmp_path)!r}, 'demo').claim({KEY!r})"
    subprocess.run([sys.executable, "-c", code], check=True)
    store = Store(tmp_path, "demo")
    assert "claim.json" in store.files.names(f"demo/{KEY}")
    assert next(store.states()).state == "started"
    assert store.claim(KEY) is not None
    assert store.claim(KEY) is None, "the process is this one, and lives"


def _from_elsewhere(store):
    claim = store.claim(KEY)
    path = f"demo/{KEY}/claim.json"
    data = json.loads(store.files.read(path)) | {"machine": "elsewhere:1"}
    store.files.write(path, json.dumps(data).encode())
    return claim


def test_an_owner_elsewhere_is_dead_when_its_heart_stands_still(root, monkeypatch):
    """By this process's monotonic clock alone: the wall clock jumps back by an hour at each look."""
    hours = iter(range(10_000, 0, -1))
    monkeypatch.setattr(time, "time", lambda: next(hours) * 3600.0)
    store = Store(root, "demo")
    watch, claim = Watch(store.files, stale=0.6), _from_elsewhere(store)
    with Heart(store.files, claim, interval=0.1):
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            assert not watch.free(claim.folder), "its heart beats"
            time.sleep(0.05)
    assert not watch.free(claim.folder)
    time.sleep(0.7)
    assert watch.free(claim.folder)
    assert store.claim(KEY) is not None
    assert store.files.names("demo/.hearts") == []


def test_two_observers_of_a_dead_owner_do_not_take_each_others_claim(root):
    store = Store(root, "demo")
    _from_elsewhere(store)
    first, second = Watch(store.files, stale=0.0), Watch(store.files, stale=0.0)
    for watch in (first, second):
        watch.free(f"demo/{KEY}")
    assert first.free(f"demo/{KEY}")
    mine = store.claim(KEY)
    second.free(f"demo/{KEY}")
    assert look(store.files, f"demo/{KEY}")["owner"] == mine.owner


def test_one_heart_beats_for_all_claims_of_an_owner(root):
    store = Store(root, "demo")
    many = [store.claim(cell.key, "sweep", "me") for cell in (CELL, OTHER)]
    with Heart(store.files, many[0], interval=0.05):
        time.sleep(0.4)
        assert store.files.names("demo/.hearts") == ["me"]
        assert json.loads(store.files.read("demo/.hearts/me"))["beat"] >= 2
    assert store.files.names("demo/.hearts") == []


def test_a_claim_that_was_taken_over_is_not_given_back(root):
    store = Store(root, "demo")
    claim = store.claim(KEY)
    store.files.write(f"{claim.folder}/claim.json", b'{"owner": "another"}')
    store.release(claim)
    assert look(store.files, claim.folder)["owner"] == "another"


def test_a_claim_of_a_dead_worker_of_the_same_sweep_is_taken_over(root):
    store = Store(root, "demo")
    store.claim(KEY, "sweep-1")
    assert store.claim(KEY, "sweep-2") is None
    assert store.claim(KEY, "sweep-1") is not None


def test_rests_of_a_killed_writer_are_cleared_by_the_next_owner(tmp_path):
    folder = tmp_path / "demo" / KEY
    folder.mkdir(parents=True)
    names = [f".samples.parquet.{one}.abcd.tmp" for one in (mark(2**22 - 1), mark(os.getpid()), "ffffff-1")]
    for name in names:
        (folder / name).write_bytes(b"half")
    assert Store(tmp_path, "demo").claim(KEY)
    assert sorted(os.listdir(folder)) == sorted([*names[1:], "claim.json"]), "the living may still rename"
