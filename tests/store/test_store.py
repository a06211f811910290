"""The store: whole or absent whatever happens, one writer or many, on a disk, in memory and on S3."""

import hashlib
import json
import math
import os
import random
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from kick.errors import KickError
from kick.records import Response
from kick.store import Store, StoreError, cells
from kick.store.samples import response_from_json, response_to_json, to_parquet
from tests.support.store_parts import CELL, OTHER, RESULT, SAMPLES, Crash, CrashingFiles

KEY = CELL.key


@pytest.fixture(params=["disk", "memory"])
def root(request, tmp_path):
    return str(tmp_path / "results") if request.param == "disk" else f"memory://{tmp_path.name}/results"


def test_what_is_put_comes_back_equal(root):
    store = Store(root, "demo")
    assert not store.done(KEY)
    assert store.problem(KEY) == "missing"
    stored = store.put(RESULT, SAMPLES)
    assert store.done(KEY)
    assert store.result(KEY) == stored == next(Store(root).runs())
    assert stored.samples == {
        "file": "samples.parquet",
        "rows": len(SAMPLES),
        "sha256": hashlib.sha256(store.files.read(f"demo/{KEY}/samples.parquet")).hexdigest(),
    }
    back = Store(root).samples(KEY)
    assert [one.responses for one in back] == [one.responses for one in SAMPLES]
    assert [one.item for one in back] == [one.item for one in SAMPLES]
    assert back[1].scores["acc"] == 1.0
    assert math.isnan(back[0].scores["f1"]), "a missing score is NaN"
    items, groups, scores = store.arrays(KEY)
    assert store.scores(KEY)[0] == items
    assert (items, groups) == ([one.item for one in SAMPLES], [one.group for one in SAMPLES])
    assert math.isnan(scores["f1"][0])


def test_numbers_that_json_does_not_have_are_null_in_run_json(root):
    store = Store(root, "demo")
    store.put(replace(RESULT, compression={"loss": math.nan, "worst": math.inf}), SAMPLES)
    text = store.files.read(f"demo/{KEY}/run.json").decode()
    assert json.loads(text, parse_constant=pytest.fail)["compression"] == {"loss": None, "worst": None}


def test_a_response_survives_json_exactly():
    response = Response(
        logprob=-math.inf, greedy=False, tokens=(3, 1), values={"fdt": 0.1, "kl_max": math.inf}
    )
    data = json.loads(json.dumps(response_to_json(response)), parse_constant=pytest.fail)
    assert response_from_json(data) == response
    assert response_to_json(Response()) == {}


def test_equal_samples_give_equal_bytes():
    assert to_parquet(SAMPLES) == to_parquet(list(SAMPLES))


def test_a_matrix_folder_can_be_read_as_a_root(tmp_path):
    Store(tmp_path, "demo").put(RESULT, SAMPLES)
    store = Store(tmp_path / "demo")
    assert store.result(KEY).key == KEY
    assert [one.state for one in store.states()] == ["done"]
    store.put(RESULT, SAMPLES[:1])  # as rescoring does
    assert sorted(os.listdir(tmp_path)) == ["demo"]
    assert len(Store(tmp_path, "demo").samples(KEY)) == 1


# -------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("name", ["samples.parquet", "run.json"])
def test_a_flipped_bit_is_seen_wherever_it_is(root, name):
    store = Store(root, "demo")
    stored = store.put(RESULT, SAMPLES)
    path = f"demo/{KEY}/{name}"
    whole = store.files.read(path)
    chance = random.Random(0)
    for _ in range(25):
        place, bit = chance.randrange(len(whole)), chance.randrange(8)
        data = bytearray(whole)
        data[place] ^= 1 << bit
        store.files.write(path, bytes(data))
        if name == "run.json" and store.done(KEY):  # a blank, or the name "checksum": it says the same
            assert store.result(KEY) == stored
            continue
        assert not store.done(KEY)
        assert name in store.problem(KEY)
        with pytest.raises(KickError, match=r"is damaged.*measures it again"):
            store.samples(KEY)
    store.files.write(path, whole)
    assert store.done(KEY)


@pytest.mark.parametrize("name", ["samples.parquet", "run.json"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_seen_and_written_anew(root, name, share, caplog):
    store = Store(root, "demo")
    store.put(RESULT, SAMPLES)
    path = f"demo/{KEY}/{name}"
    whole = store.files.read(path)
    store.files.write(path, whole[: int(len(whole) * share)])
    assert not store.done(KEY)
    assert [one.state for one in store.states(verify=True)] == ["damaged"]
    if name == "run.json":
        assert list(store.runs()) == []
        assert "is damaged and left out" in caplog.text
    store.put(RESULT, SAMPLES)
    assert store.done(KEY)


def test_samples_gone_or_from_elsewhere(root):
    store = Store(root, "demo")
    store.put(RESULT, SAMPLES)
    store.files.delete(f"demo/{KEY}/samples.parquet")
    assert store.problem(KEY) == "samples.parquet is missing beside run.json"
    store.put(RESULT, SAMPLES)
    store.files.write(f"demo/{OTHER.key}/run.json", store.files.read(f"demo/{KEY}/run.json"))
    assert f"is of cell {KEY}, but lies in the folder of {OTHER.key}" in store.problem(OTHER.key)


def test_a_path_in_a_foreign_run_json_leads_nowhere(tmp_path):
    store = Store(tmp_path, "demo")
    stored = store.put(RESULT, SAMPLES)
    evil = replace(stored, samples={**stored.samples, "file": "../../../../etc/passwd"})
    store.files.write(f"demo/{KEY}/run.json", cells.render_run(evil))
    assert len(store.samples(KEY)) == len(SAMPLES), "the name in it is never opened"
    for name in ("../x", "a/b", "", ".", "x" * 300):
        with pytest.raises(KickError, match="cannot name a folder"):
            store.samples(name)
        with pytest.raises(KickError, match="cannot name a folder"):
            Store(tmp_path, name)


@pytest.mark.parametrize("first", [True, False])
def test_cut_off_at_any_step_the_cell_is_whole_or_absent(tmp_path, first):
    """A crash before each single file operation of `put`, on an empty cell and on a stored one."""
    new = SAMPLES[:2]
    for step in range(30):
        root = tmp_path / str(step)
        before = Store(root, "demo")
        if not first:
            before.put(RESULT, SAMPLES)
        store = Store(root, "demo")
        before.fail(KEY, "no memory")
        with before.partial(KEY, 9) as partial:
            partial.add(0, Response())
        store.files = CrashingFiles(store.files, step)
        try:
            store.put(RESULT, new)
        except Crash:
            pass
        else:
            break
        after = Store(root, "demo")
        if after.done(KEY):
            assert len(after.samples(KEY)) in ({2} if first else {2, len(SAMPLES)})
        else:
            assert first, "what was stored stays stored"
        after.put(RESULT, new)
        assert len(after.samples(KEY)) == 2
    else:
        pytest.fail("it never got through")
    assert step == (4 if first else 5)


def test_writers_of_one_cell_at_once_leave_one_whole(tmp_path):
    versions = [SAMPLES[:1], SAMPLES[:2], SAMPLES]
    failures = []

    def write(samples):
        try:
            for _ in range(10):
                Store(tmp_path, "demo").put(RESULT, samples)
        except StoreError as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(one,)) for one in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = Store(tmp_path, "demo")
    assert store.done(KEY) or failures, "a writer whose result did not stay whole was told"
    store.put(RESULT, SAMPLES)
    assert store.done(KEY)


# -------------------------------------------------------------------------------------- failures, states


def test_failures_are_counted_and_go_when_the_cell_is_done(root):
    store = Store(root, "demo")
    store.fail(KEY, "out of memory", CELL, "Traceback", "the last lines")
    store.fail(KEY, "out of memory again", CELL)
    (failure,) = store.failures()
    assert (failure.cause, failure.attempts, failure.cell) == ("out of memory again", 2, CELL)
    (state,) = store.states()
    assert (state.state, state.note) == ("failed", "out of memory again")
    store.put(RESULT, SAMPLES)
    assert list(store.failures()) == []
    assert store.failure(KEY) is None
    store.files.write(f"demo/{OTHER.key}/failed.json", b"{")
    assert "cannot be read" in next(store.failures()).cause


def test_states_tell_running_from_given_up(root):
    store = Store(root, "demo")
    with store.partial(KEY, 10) as partial:
        partial.add(0, Response(text="x"))
    (state,) = store.states()
    assert (state.state, state.answered, state.asked) == ("started", 1, 10)
    claim = store.claim(KEY)
    (state,) = store.states()
    assert state.state == "running"
    assert f"process {os.getpid()}" in state.note
    store.release(claim)
    store.put(RESULT, SAMPLES)
    assert [(one.state, one.matrix, one.key) for one in Store(root).states()] == [("done", "demo", KEY)]


# -------------------------------------------------------------------------------------- chunks


def test_answers_are_kept_in_chunks_and_a_damaged_one_is_asked_again(root, caplog):
    store = Store(root, "demo")
    with store.partial(KEY, 10, every=4) as partial:
        for index in range(10):
            partial.add(index, Response(logprob=-index / 3))
    names = store.files.names(f"demo/{KEY}/partial")
    assert sorted(name.split(".")[0] for name in names) == ["2", "4", "4"]
    assert store.progress(KEY) == (10, 10)
    again = store.partial(KEY, 10)
    assert again.answers == partial.answers
    path = f"demo/{KEY}/partial/{names[0]}"
    data = bytearray(store.files.read(path))
    data[-3] ^= 1
    store.files.write(path, bytes(data))
    again = store.partial(KEY, 10)
    assert len(again.answers) == 10 - int(names[0].split(".")[0])
    assert again.damaged == [names[0]]
    assert "asked again" in caplog.text


def test_answers_to_other_requests_are_not_used(root):
    store = Store(root, "demo")
    with store.partial(KEY, 4, fingerprint="these requests") as partial:
        partial.add(0, Response(text="x"))
    assert store.partial(KEY, 4, fingerprint="those requests").answers == {}
    assert len(store.partial(KEY, 4, fingerprint="these requests").answers) == 1


def test_an_interrupt_keeps_what_is_answered(root):
    store = Store(root, "demo")

    def answer():
        with store.partial(KEY, 10) as partial:
            partial.add(0, Response(text="x"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer()
    assert len(store.partial(KEY, 10).answers) == 1


# -------------------------------------------------------------------------------------- index


def test_the_index_follows_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr("kick.store.index.SMALL", 2)
    store = Store(tmp_path, "demo")
    made = [replace(RESULT, cell=cell, key=cell.key) for cell in (CELL, OTHER)]
    for one in made:
        store.put(one, SAMPLES)
    keys = {one.key for one in made}
    assert {one.key for one in store.runs()} == keys
    assert (tmp_path / "demo" / "index.parquet").exists()
    store.put(replace(made[0], peak_memory=77), SAMPLES)
    assert {one.peak_memory for one in store.runs()} == {0, 77}, "a changed run.json is read anew"
    (tmp_path / "demo" / "index.parquet").write_bytes(b"PAR1 not at all")
    assert {one.key for one in store.runs()} == keys
    assert {one.key for one in Store(tmp_path).runs()} == keys
    store.files.delete_folder(f"demo/{OTHER.key}")
    assert {one.key for one in store.runs()} == {KEY}


# -------------------------------------------------------------------------------------- refusals


def test_unknown_kinds_of_store_are_refused():
    with pytest.raises(KickError, match="cannot be opened"):
        Store("nosuch://bucket/results")


def test_no_torch_is_imported():
    names = "kick.store, kick.sweep.loop, kick.sweep.progress, kick.sweep.executors"
    code = f"import sys, {names}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
