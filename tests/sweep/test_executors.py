"""Executors: what a job does to its worker costs that job alone, on worker processes and on a real Ray."""

import json
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from kick.store import Store
from kick.sweep.executors import ignored, local, make_executor, places, process
from kick.sweep.executors.local import Local, default_workers, visible_gpus
from kick.sweep.executors.process import settings_for
from kick.sweep.loop import run_sweep
from tests.support.fake_sweep import MATRIX, FakeWork, coordinator, fake_jobs

ROOT = Path(__file__).parents[2]

TROUBLE = ("raise", "memory", "kill", "segfault", "exit", "hang", "known")
CAUSES = {
    "raise": "RuntimeError: the sum is not finite",
    "memory": "MemoryError: wanted 9 TiB",
    "kill": "the worker process died of signal 9 (SIGKILL): "
    "killed by hand, or by the system for want of memory",
    "segfault": "the worker process died of signal 11 (SIGSEGV)",
    "exit": "the worker process ended with status 7 in the middle of the job",
    "hang": "ran past its time limit of {limit:g} s and was ended",
    "known": "layer 3: the Hessian is not positive definite",
}


@dataclass
class Noting:
    """Work that notes in which process, and with which environment and caches, each job ran."""

    folder: str
    cache: dict = field(default_factory=dict)

    def __call__(self, job):
        self.cache["jobs"] = self.cache.get("jobs", 0) + 1
        names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
        seen = {name: os.environ.get(name) for name in names} | {"torch": "torch" in sys.modules}
        seen |= {"pid": os.getpid(), "jobs": self.cache["jobs"], "group": os.getpgrp()}
        Path(self.folder, job.variant.name).write_text(json.dumps(seen))
        time.sleep(0.2)


def noted(folder, jobs, how):
    try:
        outcomes = list(how.run(Noting(str(folder)), jobs))
    finally:
        how.close()
    assert [outcome.state for outcome in outcomes] == ["done"] * len(jobs)
    return [json.loads((folder / job.variant.name).read_text()) for job in jobs]


@pytest.fixture(scope="module")
def limit(tmp_path_factory):
    """Seconds within which a worker starts, on a busy machine too: four times what one has taken just now."""
    start = time.monotonic()
    noted(tmp_path_factory.mktemp("noted"), fake_jobs(1, tasks=1), Local(1, gpus=()))
    return max(3.0, 4 * (time.monotonic() - start))


def causes(names, limit):
    """What is said of each trouble."""
    return {name: CAUSES[name].format(limit=limit) for name in names}


def test_each_kind_of_trouble_costs_its_job_alone(tmp_path, limit):
    jobs, store = fake_jobs(3, tasks=1, trouble=TROUBLE), Store(tmp_path, MATRIX)
    summary = run_sweep(FakeWork(str(tmp_path)), jobs, store, Local(2, time_limit=limit, gpus=()))
    assert (summary.done, summary.failed, summary.status) == (3, len(TROUBLE), 1)
    failures = {failure.cell.variant.name: failure for failure in store.failures()}
    assert {name: failure.cause for name, failure in failures.items()} == causes(TROUBLE, limit)
    assert "about to die" in failures["kill"].log
    assert "Segmentation fault" in failures["segfault"].log
    assert "in misbehave" in failures["raise"].traceback
    assert all("claim.json" not in names for names in store.files.tree(MATRIX).values())


def test_work_is_sent_once_and_processes_share_out_threads_and_gpus(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    seen = noted(tmp_path, fake_jobs(6), Local(2, gpus=["3", "GPU-5"]))
    by_process = {}
    for one in seen:
        by_process.setdefault(one["pid"], []).append(one)
    assert len(by_process) == 2
    assert all(
        sorted(one["jobs"] for one in many) == list(range(1, len(many) + 1)) for many in by_process.values()
    )
    assert {many[0]["CUDA_VISIBLE_DEVICES"] for many in by_process.values()} == {"3", "GPU-5"}
    assert {one["OMP_NUM_THREADS"] for one in seen} == {str(max(1, len(os.sched_getaffinity(0)) // 2))}
    assert {one["torch"] for one in seen} == {False}, "threads are set before torch could be imported"
    assert os.getpgrp() not in {one["group"] for one in seen}, "Ctrl-C of the terminal does not reach them"


@dataclass
class Computing:
    """Work that brings a torch with it, which knows its number of threads, and notes them job by job."""

    folder: str

    def __setstate__(self, state):
        self.__dict__.update(state)
        known = SimpleNamespace(threads=0)
        known.set_num_threads = lambda count: vars(known).update(threads=count)
        sys.modules["torch"] = known

    def __call__(self, job):
        seen = {"threads": sys.modules["torch"].threads, "OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"]}
        Path(self.folder, job.variant.name).write_text(json.dumps(seen))


def test_dense_which_all_wait_for_has_the_idle_cores_and_no_other_job_has(tmp_path, monkeypatch):
    for module in (local, process):
        monkeypatch.setattr(module, "cores", lambda: 6)
    monkeypatch.setattr(process, "idle", lambda: 5)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    dense, *others = fake_jobs(4)

    def threads(*waves, gpus=()):
        how = Local(2, gpus=gpus)
        for wave in waves:
            assert [outcome.state for outcome in how.run(work, wave)] == ["done"] * len(wave)
        how.close()
        seen = {file.name: json.loads(file.read_text()) for file in tmp_path.iterdir()}
        assert {one["OMP_NUM_THREADS"] for one in seen.values()} == {"3"}  # what is no torch keeps its share
        return {name: one["threads"] for name, one in seen.items()}

    work = Computing(str(tmp_path))
    assert threads([dense], others) == {"dense": 5, "wanda-1": 3, "wanda-2": 3, "wanda-3": 3}
    assert threads([dense], others[:1])["wanda-1"] == 3, "the last one that runs is not alone by its nature"
    assert threads([dense], gpus=["0", "1"])["dense"] == 3
    monkeypatch.setattr(process, "idle", lambda: 1)
    assert threads([dense])["dense"] == 3, "a busy machine leaves each worker its share"
    monkeypatch.setattr(process, "idle", lambda: 6)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads([dense])["dense"] == 3, "a smaller number that the user set is kept"


def test_idle_cores_are_those_without_work(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 3, 5})
    monkeypatch.setattr(process.psutil, "cpu_percent", lambda seconds, percpu: [3, 0, 98, 40, 0, 100])
    assert process.idle() == 2  # 0.97 + 0.02 + 0.6 + 0 of the four that are ours


def test_threads_do_not_depend_on_the_jobs_and_a_smaller_number_is_kept(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert settings_for(0, 4, ())["OMP_NUM_THREADS"] == "4"
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert settings_for(0, 4, ())["OMP_NUM_THREADS"] == "2"
    assert default_workers(()) == 4
    assert default_workers(["0", "1", "2"]) == 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 3")
    assert visible_gpus() == ["2", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert visible_gpus() == []


def test_a_worker_keeps_few_compiled_kernels_or_as_many_as_the_user_says(monkeypatch):
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        monkeypatch.delenv(name, raising=False)
        assert int(settings_for(0, 1, ())[name]) <= 128
        monkeypatch.setenv(name, "700")
        assert settings_for(0, 1, ())[name] == "700"


def wait_for(line, process):
    """Read the coordinator's lines up to one that has the text."""
    for text in process.stdout:
        if line in text:
            return
    pytest.fail(f"{line!r} never came")


def children(pid):
    """The process ids of all that descend from a process."""
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def test_the_first_ctrl_c_keeps_all_answers_the_second_ends_at_once(tmp_path):
    options = {"items": 400, "pause": 0.02, "every": 1000, "workers": 1, "asked": str(tmp_path / "asked")}
    process = coordinator(tmp_path / "r", **options)
    wait_for('"start"', process)
    while not (tmp_path / "asked").exists():
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Ctrl-C again stops at once" in rest
    assert "the same command continues from here" in rest
    key = fake_jobs(1)[0].cells[0].key
    asked = len((tmp_path / "asked").read_text().splitlines())
    assert Store(tmp_path / "r", MATRIX).progress(key)[0] >= asked - 1, "only the one in the making is lost"

    process = coordinator(tmp_path / "r", **options)
    wait_for('"start"', process)
    workers = children(process.pid)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert time.monotonic() - start < 20
    time.sleep(0.2)
    assert not [
        pid
        for pid in workers
        if Path(f"/proc/{pid}/cmdline").exists()
        and b"kick.sweep.executors.process" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ], "no worker outlives it"


def test_a_job_that_heeds_no_interrupt_is_ended_after_its_grace(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "GRACE", 0.5)
    how, deaf = Local(1, gpus=()), tmp_path / "deaf"

    def stop():
        while not deaf.exists():
            time.sleep(0.01)
        how.stop()

    threading.Thread(target=stop).start()
    (outcome,) = list(how.run(Deaf(str(deaf)), fake_jobs(2)))
    how.close()
    assert outcome.state == "stopped"
    assert "did not stop within" in outcome.cause


@dataclass(frozen=True)
class Deaf:
    """Work that ignores Ctrl-C."""

    mark: str

    def __call__(self, job):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        Path(self.mark).touch()
        time.sleep(60)


# -------------------------------------------------------------------------------------- Ray


@pytest.fixture
def no_token(monkeypatch):
    from kick.sweep.executors.ray import LOOPBACK

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # where its workers find the fake
    monkeypatch.setenv(LOOPBACK, "0")  # before Ray is imported, here by the next line
    pytest.importorskip("ray", reason='LOUD: Ray is not installed (pip install "kick[ray]")')


def test_ray_starts_on_loopback_alone_and_survives_trouble(tmp_path, no_token, limit):
    trouble = ("raise", "kill", "hang")
    jobs, store = fake_jobs(3, tasks=1, trouble=trouble), Store(tmp_path, MATRIX)
    how = make_executor("ray", workers=2, time_limit=limit)
    import ray

    assert ray.get_runtime_context().gcs_address.startswith("127.0.0.1:")
    open_to_all = [line for line in listening() if not line.startswith(("127.", "[::ffff:127.", "[::1]"))]
    assert not open_to_all, "a Ray started here listens on 127.0.0.1 alone"
    summary = run_sweep(FakeWork(str(tmp_path)), jobs, store, how)
    assert (summary.done, summary.failed, summary.halted) == (3, 3, "")
    failures = {failure.cell.variant.name: failure.cause for failure in store.failures()}
    assert failures == causes(trouble, limit)
    assert not ray.is_initialized(), "what was started here ends here"


def listening():
    """Addresses on which this process's descendants listen."""
    import psutil

    own = {os.getpid(), *children(os.getpid())}
    found = [one for one in psutil.net_connections("tcp") if one.status == "LISTEN" and one.pid in own]
    return [f"[{one.laddr.ip}]" if ":" in one.laddr.ip else one.laddr.ip for one in found]


def test_a_setting_that_an_executor_has_no_use_for_is_said():
    """`--workers 2` with the inline executor was ignored without a word."""
    (said,) = ignored("inline", workers=2)
    assert (
        said
        == "workers: 2 has no effect, because the executor inline is this process, one job after the other"
    )
    assert ignored("inline", workers=None) == ignored("local", workers=2) == []


def test_how_many_jobs_run_at_once_is_a_fact_of_the_executor(monkeypatch):
    monkeypatch.setattr("kick.sweep.executors.process.os.sched_getaffinity", lambda _: range(16))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [places(name, None) for name in ("inline", "local", "ray")] == [1, 4, 4]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    assert [places(name, None) for name in ("inline", "local", "ray")] == [1, 3, 4]
    assert places("local", 5) == 5
