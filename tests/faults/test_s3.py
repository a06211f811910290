"""A store on S3: a real server (moto's) on 127.0.0.1, with conditional puts and several writers."""

import logging
import os
import threading
import time

import pytest

from kick.store import Store, StoreError
from kick.sweep.executors.inline import Inline
from kick.sweep.loop import run_sweep
from tests.support.fake_sweep import MATRIX, FakeWork, contents, coordinator, fake_jobs
from tests.support.store_parts import CELL, OTHER, RESULT, SAMPLES

pytest.importorskip("s3fs", reason="LOUD: s3fs is not installed")
pytest.importorskip("moto.server", reason="LOUD: moto's server is not installed")
from tests.support.s3_server import BUCKET, s3_server

SWEEP = {"variants": 2, "tasks": 1, "items": 15, "every": 5}


@pytest.fixture(scope="module")
def server():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    before = dict(os.environ)
    with s3_server() as environment:
        os.environ.update(environment)
        yield environment
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def root(server, request):
    return f"s3://{BUCKET}/{request.node.name.replace('[', '-').rstrip(']')}"


def test_one_of_many_conditional_puts_wins(root):
    stores, barrier, won = [Store(root, "demo") for _ in range(6)], threading.Barrier(6), []

    def put(number):
        barrier.wait()
        if stores[number].files.create("taken", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert stores[0].files.read("taken") == str(won[0]).encode()


def test_a_cell_is_put_replaced_damaged_and_listed(root):
    store = Store(root, "demo")
    assert not store.done(CELL.key)
    assert list(store.states()) == []
    claim = store.claim(CELL.key)
    assert claim
    assert Store(root, "demo").claim(CELL.key) is None
    with store.partial(CELL.key, 10) as partial:
        partial.add(0, SAMPLES[0].responses[0])
    assert store.progress(CELL.key) == (1, 10)
    assert next(store.states()).state == "running"
    stored = store.put(RESULT, SAMPLES)
    store.release(claim)
    assert store.files.names(f"demo/{CELL.key}") == ["run.json", "samples.parquet"]
    assert Store(root).result(CELL.key) == stored
    store.put(RESULT, SAMPLES[:1])
    assert len(Store(root).samples(CELL.key)) == 1
    assert store.files.names(f"demo/{CELL.key}") == ["run.json", "samples.parquet"]
    store.fail(OTHER.key, "no memory", OTHER)
    assert [(one.key, one.state) for one in Store(root).states()] == sorted(
        [(CELL.key, "done"), (OTHER.key, "failed")]
    )
    whole = store.files.read(f"demo/{CELL.key}/samples.parquet")
    store.files.write(f"demo/{CELL.key}/samples.parquet", whole[:-1])
    assert "does not match the checksum" in store.problem(CELL.key)
    assert store.done_among([CELL.key, OTHER.key]) == set()


def test_coordinators_that_share_a_bucket_and_one_is_killed(root, server, tmp_path):
    """The second goes on where the first was killed, and nothing that was kept is asked again."""
    alone = tmp_path / "alone"
    jobs = fake_jobs(SWEEP["variants"], SWEEP["tasks"])
    work = FakeWork(str(alone), items=SWEEP["items"], every=SWEEP["every"])
    run_sweep(work, jobs, Store(alone, MATRIX), Inline())
    log = tmp_path / "asked"
    options = {**SWEEP, "pause": 0.05, "workers": 1, "asked": str(log)}
    first = coordinator(root, server, **options)
    while not log.exists() or "kept" not in log.read_text():
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    first.kill()
    second = coordinator(root, server, **options)
    out, errors = second.communicate(timeout=120)
    first.communicate()
    assert second.returncode == 0, out + errors
    assert contents(root) == contents(alone)
    kept, again = {}, []
    for line in log.read_text().splitlines():
        word, key, index = line.split()
        if word == "kept":
            kept[key] = int(index)
        elif int(index) <= kept.get(key, -1):
            again.append(line)
    assert again == []


def test_a_server_that_goes_away_ends_the_sweep_with_a_word_about_it(tmp_path):
    with s3_server() as environment:
        log = tmp_path / "asked"
        options = {**SWEEP, "items": 4000, "pause": 0.05, "workers": 1, "asked": str(log)}
        process = coordinator(f"s3://{BUCKET}/r", {**environment, "AWS_MAX_ATTEMPTS": "2"}, **options)
        while not log.exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    assert "cannot be reached" in out
    assert "run the same command again when it is back" in out


def test_a_bucket_that_is_not_there(server):
    with pytest.raises(StoreError, match="bucket does not exist"):
        Store("s3://no-such-bucket/results", "demo").check_writable()
