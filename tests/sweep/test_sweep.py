"""What is pending, in which order, and how each cell is settled; in this process, with fake work."""

import io
import json
import os
import signal
import threading
import time
from dataclasses import dataclass, replace

import pytest

from kick.errors import KickError
from kick.store import Store, StoreError
from kick.sweep.contract import Outcome
from kick.sweep.executors import make_executor
from kick.sweep.executors.inline import Inline
from kick.sweep.loop import describe, order, pending, run_sweep
from kick.sweep.progress import show
from tests.support.fake_sweep import MATRIX, FakeWork, fake_answer, fake_jobs, fake_result


def run(root, jobs, work=None, how=None, **options):
    events = []
    work = work or FakeWork(str(root))
    store = Store(root, MATRIX)
    summary = run_sweep(work, jobs, store, how or Inline(), on_event=events.append, **options)
    return summary, events


def kinds(events):
    return [event.kind for event in events]


def started(events):
    return [event.job.variant.name for event in events if event.kind == "start"]


# -------------------------------------------------------------------------------------- pending, order


def test_the_dense_job_goes_first_then_the_longest():
    jobs = fake_jobs(5)
    names = [job.variant.name for job in order(reversed(jobs))]
    assert names == ["dense", "wanda-4", "wanda-3", "wanda-2", "wanda-1"]
    assert order(jobs) == order(reversed(jobs)), "whatever order they come in"


def test_done_cells_are_not_pending_and_a_job_shrinks_with_its_cells(tmp_path):
    store, jobs = Store(tmp_path, MATRIX), fake_jobs(3)
    for cell in (*jobs[0].cells, jobs[2].cells[0]):
        store.put(*fake_result(cell, [fake_answer(cell.key, 0)]))
    left = pending(jobs, store)
    assert [(job.variant.name, len(job.cells), job.cost) for job in left] == [
        ("wanda-1", 2, 1.0),
        ("wanda-2", 1, 1.0),
    ]
    store.files.write(f"{MATRIX}/{jobs[0].cells[0].key}/samples.parquet", b"damaged")
    assert pending(jobs, store)[0].cells == jobs[0].cells[:1], "a damaged cell is done again"


def test_failed_cells_wait_for_retry_failed(tmp_path):
    store, jobs = Store(tmp_path, MATRIX), fake_jobs(2)
    store.fail(jobs[1].cells[0].key, "no memory")
    assert [len(job.cells) for job in pending(jobs, store)] == [2, 1]
    assert [len(job.cells) for job in pending(jobs, store, retry_failed=True)] == [2, 2]


# -------------------------------------------------------------------------------------- run_sweep


def test_a_sweep_does_all_and_a_second_one_nothing(tmp_path):
    jobs = fake_jobs(3)
    summary, events = run(tmp_path, jobs)
    assert (summary.total, summary.done, summary.status) == (6, 6, 0)
    assert started(events) == ["dense", "wanda-2", "wanda-1"]
    assert kinds(events)[0] == "plan"
    assert kinds(events)[-1] == "end"
    store = Store(tmp_path, MATRIX)
    assert all(state.state == "done" for state in store.states(verify=True))
    assert all("claim.json" not in names for names in store.files.tree(MATRIX).values())
    summary, events = run(tmp_path, jobs)
    assert (summary.before, summary.done, summary.status) == (6, 0, 0)
    assert started(events) == []


def test_one_bad_job_is_recorded_and_the_others_run(tmp_path):
    jobs = fake_jobs(2, trouble=("raise", "known"))
    summary, _ = run(tmp_path, jobs)
    assert (summary.done, summary.failed, summary.status) == (4, 4, 1)
    causes = {failure.cell.variant.name: failure for failure in Store(tmp_path, MATRIX).failures()}
    assert causes["known"].cause == "layer 3: the Hessian is not positive definite"
    assert causes["raise"].cause == "RuntimeError: the sum is not finite"
    assert "misbehave" in causes["raise"].traceback
    summary, events = run(tmp_path, jobs)
    assert (summary.failed_before, summary.failed, summary.status) == (4, 0, 1)
    assert started(events) == []
    assert "4 failed" in describe(summary)
    summary, events = run(tmp_path, jobs, retry_failed=True)
    assert (summary.failed, summary.status) == (4, 1)
    assert {failure.attempts for failure in Store(tmp_path, MATRIX).failures()} == {2}


def test_a_failed_cell_that_works_later_is_done(tmp_path):
    jobs = fake_jobs(2)
    Store(tmp_path, MATRIX).fail(jobs[1].cells[0].key, "no memory")
    summary, _ = run(tmp_path, jobs, retry_failed=True)
    assert summary.status == 0
    assert list(Store(tmp_path, MATRIX).failures()) == []


@dataclass(frozen=True)
class Recording:
    """Work that records one cell's failure itself and goes on, as a worker may."""

    work: FakeWork

    def __call__(self, job):
        store = Store(self.work.root, MATRIX)
        store.fail(job.cells[0].key, "its own cause")
        self.work(replace(job, cells=job.cells[1:]))


def test_a_failure_that_the_work_recorded_itself_is_kept(tmp_path):
    jobs = fake_jobs(1)
    summary, _ = run(tmp_path, jobs, Recording(FakeWork(str(tmp_path))))
    assert (summary.done, summary.failed) == (1, 1)
    (failure,) = Store(tmp_path, MATRIX).failures()
    assert failure.cause == "its own cause"


def test_work_that_stores_nothing_fails_after_a_second_try(tmp_path):
    summary, events = run(tmp_path, fake_jobs(1, tasks=1), work=print)
    assert summary.failed == 1
    assert kinds(events).count("start") == 2
    assert next(Store(tmp_path, MATRIX).failures()).cause == "the worker ended without storing a result"


class Crashing:
    """An executor whose worker dies in the first cell that is called bad, again and again."""

    def __init__(self, bad):
        self.bad, self.jobs = bad, []

    def run(self, work, jobs, started=None):
        for job in jobs:
            self.jobs.append(len(job.cells))
            good = []
            for cell in job.cells:
                if cell.task.name in self.bad:
                    break
                good.append(cell)
            if good:
                work(replace(job, cells=tuple(good)))
            state = "done" if len(good) == len(job.cells) else "failed"
            yield Outcome(job, state, cause="died", crashed=state == "failed")

    def stop(self):
        pass

    close = stop


def test_a_crash_costs_the_cell_it_happened_in(tmp_path):
    summary, _ = run(tmp_path, fake_jobs(1, tasks=4), how=Crashing({"task_1"}))
    assert (summary.done, summary.failed) == (3, 1)
    (failure,) = Store(tmp_path, MATRIX).failures()
    assert failure.cell.task.name == "task_1"


def test_a_job_that_crashes_before_any_cell_is_given_up_after_a_second_try(tmp_path):
    how = Crashing({f"task_{number}" for number in range(9)})
    summary, _ = run(tmp_path, fake_jobs(1, tasks=9), how=how)
    assert summary.failed == 9
    assert how.jobs == [9, 8], "not once for each cell"


# -------------------------------------------------------------------------------------- interrupts


@dataclass(frozen=True)
class Interrupting:
    """Work that gets Ctrl-C in the middle of its third answer."""

    work: FakeWork

    def __call__(self, job):
        store = Store(self.work.root, MATRIX)
        with store.partial(job.cells[0].key, 8, every=100) as partial:
            for index in range(3):
                partial.add(index, fake_answer(job.cells[0].key, index))
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        pytest.fail("it was not interrupted")


def test_ctrl_c_keeps_what_is_answered_and_says_how_to_go_on(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    jobs = fake_jobs(2)
    summary, events = run(tmp_path, jobs, Interrupting(FakeWork(str(tmp_path))))
    assert signal.getsignal(signal.SIGINT) is before
    assert summary.interrupted
    assert (summary.left, summary.failed, summary.status) == (4, 0, 1)
    assert "the same command continues from here" in events[-1].message
    assert any("Ctrl-C again stops at once" in event.message for event in events if event.kind == "stop")
    assert Store(tmp_path, MATRIX).progress(jobs[0].cells[0].key) == (3, 8)
    asked = tmp_path / "asked"
    assert run(tmp_path, jobs, FakeWork(str(tmp_path), asked=str(asked)))[0].status == 0
    assert f"asked {jobs[0].cells[0].key} 0\n" not in asked.read_text()


# -------------------------------------------------------------------------------------- a store that refuses


@dataclass(frozen=True)
class Full:
    """Work that meets a full disk."""

    def __call__(self, job):
        raise StoreError("the disk under /results is full")


def test_a_full_disk_ends_the_sweep_and_blames_no_cell(tmp_path):
    summary, events = run(tmp_path, fake_jobs(3), Full())
    assert summary.halted == "the disk under /results is full"
    assert (summary.failed, summary.left, summary.status) == (0, 6, 1)
    assert len(started(events)) == 1
    assert list(Store(tmp_path, MATRIX).failures()) == []


def test_an_executor_that_is_closed_ends_the_sweep(tmp_path):
    how = Inline()
    how.close()
    summary, _ = run(tmp_path, fake_jobs(2), how=how)
    assert "took no job" in summary.halted
    assert summary.left == 4


# -------------------------------------------------------------------------------------- two coordinators


def test_two_coordinators_on_one_store_share_the_cells(tmp_path):
    jobs, asked, summaries = fake_jobs(6), tmp_path / "asked", []
    work = FakeWork(str(tmp_path / "r"), pause=0.01, asked=str(asked))

    def coordinate():
        summaries.append(run(tmp_path / "r", jobs, work)[0])

    threads = [threading.Thread(target=coordinate) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [summary.status for summary in summaries] == [0, 0]
    lines = asked.read_text().splitlines()
    assert len(lines) == len(set(lines)) == 12 * (8 + 2), "nothing was asked twice"


# -------------------------------------------------------------------------------------- progress, executors


def test_json_lines_tell_every_cell(tmp_path):
    jobs, stream = fake_jobs(2, trouble=("known",)), io.StringIO()
    store = Store(tmp_path, MATRIX)
    with show(jobs, store, "json", stream) as view:
        run_sweep(FakeWork(str(tmp_path)), jobs, store, Inline(), on_event=view)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert {line["key"] for line in lines if line["event"] == "done"} == {
        c.key for j in jobs[:2] for c in j.cells
    }
    assert {line["message"] for line in lines if line["event"] == "failed"} == {
        "layer 3: the Hessian is not positive definite"
    }
    assert lines[-1]["cells"] == {"done": 4, "failed": 2}
    assert all("time" in line for line in lines)


@pytest.mark.parametrize("how", ["lines", "live", "auto"])
def test_people_see_what_was_done_and_what_failed(tmp_path, how):
    jobs, stream = fake_jobs(2, trouble=("known",)), io.StringIO()
    store = Store(tmp_path, MATRIX)
    with show(jobs, store, how, stream) as view:
        run_sweep(FakeWork(str(tmp_path)), jobs, store, Inline(), on_event=view)
    text = stream.getvalue()
    assert "4 of 6 cells done" in text
    assert "known task_0: " in text
    assert "not positive definite" in text


def test_progress_is_read_off_the_chunks(tmp_path):
    jobs, store = fake_jobs(1), Store(tmp_path, MATRIX)
    view = show(jobs, store, "lines", io.StringIO())
    from kick.sweep.contract import Event

    view(Event("start", job=jobs[0], worker="here"))
    board = view._board
    with store.partial(jobs[0].cells[0].key, 10, every=1) as partial:
        partial.add(0, fake_answer("", 0))
        board.look()
        time.sleep(0.05)
        partial.add(1, fake_answer("", 1))
    board.look()
    one = board.running["dense"]
    assert (one.answered, one.asked) == (2, 10)
    assert 0 < one.rate <= 20.5
    assert one.left == pytest.approx(8 / one.rate, rel=0.2)


@pytest.mark.parametrize(
    ("name", "options", "word"),
    [
        ("locale", {}, "did you mean 'local'"),
        ("local", {"workers": 0}, "at least 1"),
        ("local", {"time_limit": 0.0}, "more than 0"),
    ],
)
def test_wrong_executors_are_refused(name, options, word):
    with pytest.raises(KickError, match=word):
        make_executor(name, **options)
