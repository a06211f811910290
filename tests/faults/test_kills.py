"""Kill -9 of workers and coordinators at random moments, several coordinators, and clocks that jump back."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from kick.store import Store
from kick.sweep.executors.inline import Inline
from kick.sweep.loop import run_sweep
from tests.support import soak
from tests.support.fake_sweep import MATRIX, FakeWork, contents, coordinator, fake_jobs

SWEEP = {"variants": 5, "tasks": 2, "items": 30, "every": 5}
CLOCK = Path(__file__).parent / "jumping_clock"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """What the store holds after a sweep that nothing disturbs."""
    root = tmp_path_factory.mktemp("uninterrupted")
    work = FakeWork(str(root), items=SWEEP["items"], every=SWEEP["every"])
    jobs = fake_jobs(SWEEP["variants"], SWEEP["tasks"])
    assert run_sweep(work, jobs, Store(root, MATRIX), Inline()).status == 0
    return contents(root)


def asked_again(log):
    """The items that were asked after a chunk with them was kept, and how often items were asked in all."""
    seen, kept, again, total = {}, {}, [], 0
    for line in Path(log).read_text().splitlines():
        word, key, index = line.split()
        if word == "kept":
            kept.setdefault(key, set()).update(seen.get(key, ()))
        else:
            total += 1
            seen.setdefault(key, set()).add(index)
            again += [line] if index in kept.get(key, ()) else []
    return again, total


def workers_of(process):
    """The worker processes of a coordinator."""
    with contextlib.suppress(psutil.NoSuchProcess):
        found = psutil.Process(process.pid).children()
        return [one for one in found if "kick.sweep.executors.process" in " ".join(one.cmdline())]
    return []


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def wait_for_work(log, process):
    """Until a worker has asked something more, or the coordinator has ended."""
    size = log.stat().st_size if log.exists() else 0
    wait_until(lambda: process.poll() is not None or (log.exists() and log.stat().st_size > size))


class Killer:
    """Runs the sweep again and again, and kills a worker or the coordinator at random moments meanwhile."""

    def __init__(self, folder, seed, signals=(signal.SIGKILL,)):
        self.folder, self.chance, self.signals = folder, random.Random(seed), signals
        self.kills = Counter()  # by victim and signal

    def sweep(self, kills):
        """One sweep to its end, killed up to `kills` times in all; the log of what was asked."""
        root, log = self.folder / "store", str(self.folder / "asked")
        for _ in range(200):
            process = coordinator(root, **SWEEP, pause=0.02, workers=2, asked=log, retry_failed=True)
            self._harass(process, kills, Path(log))
            process.communicate(timeout=60)
            if process.returncode == 0:
                return root, log
        pytest.fail("it never ended")
        return None

    def _harass(self, process, kills, log):
        while process.poll() is None and sum(self.kills.values()) < kills:
            if self.chance.random() < 0.8:  # else it may hit the coordinator as it starts
                wait_for_work(log, process)
            time.sleep(self.chance.uniform(0.0, 0.5))
            victims = workers_of(process)
            if process.poll() is not None or not victims:
                continue
            sent = self.chance.choice(self.signals)
            if self.chance.random() < 0.5:
                with contextlib.suppress(psutil.NoSuchProcess):
                    self.chance.choice(victims).send_signal(sent)
                    self.kills["worker", sent.name] += 1
            else:
                self.kills["coordinator", sent.name] += 1
                process.send_signal(sent)
                process.wait(timeout=60)
                psutil.wait_procs(victims, timeout=30)


def harassed(tmp_path, uninterrupted, kills, killer):
    """Sweeps killed `kills` times in all, each of which must end with what an undisturbed one stores."""
    asked = sweeps = 0
    start = time.monotonic()
    while sum(killer.kills.values()) < kills:
        sweeps += 1
        killer.folder = tmp_path / str(sweeps)
        killer.folder.mkdir()
        root, log = killer.sweep(kills)
        assert contents(root) == uninterrupted, "the scores and samples, byte for byte"
        again, total = asked_again(log)
        assert again == [], "no answered chunk is asked again"
        assert {state.state for state in Store(root).states(verify=True)} == {"done"}
        asked += total
        shutil.rmtree(killer.folder)
    least = sweeps * SWEEP["variants"] * SWEEP["tasks"] * SWEEP["items"]
    print(f"kills {dict(killer.kills)}, sweeps {sweeps}, items {least}, asked {asked}, twice {asked - least}")
    print(f"kept answers lost 0, {time.monotonic() - start:.0f} s")
    assert asked - least <= (kills + sweeps) * 2 * SWEEP["every"], "a kill costs a chunk a worker at most"


def test_killed_at_a_few_moments(tmp_path, uninterrupted):
    harassed(tmp_path, uninterrupted, 4, Killer(tmp_path, int.from_bytes(os.urandom(4))))


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_killed_at_many_moments(tmp_path, uninterrupted):
    """Half of the soak's kills: workers and coordinators, seven of ten by SIGKILL."""
    harassed(tmp_path, uninterrupted, soak.KILLS // 2, Killer(tmp_path, soak.SEED, soak.SIGNALS))


def test_a_second_coordinator_takes_over_from_a_killed_one(tmp_path, uninterrupted):
    root, log = tmp_path / "store", str(tmp_path / "asked")
    options = {**SWEEP, "workers": 1, "asked": log}
    first = coordinator(root, **options, pause=0.5)
    wait_until(lambda: Path(log).exists())
    second = coordinator(root, **options)
    for line in second.stdout:
        if '"wait"' in line:  # it saw that the first was at work
            break
    first.kill()
    out, errors = second.communicate(timeout=60)
    first.communicate()
    assert second.returncode == 0, out + errors
    assert contents(root) == uninterrupted
    assert asked_again(log)[0] == []


def test_two_coordinators_that_live_do_no_cell_twice(tmp_path, uninterrupted):
    root, log = tmp_path / "store", str(tmp_path / "asked")
    both = [coordinator(root, **SWEEP, pause=0.005, workers=1, asked=log) for _ in range(2)]
    for one in both:
        one.communicate(timeout=60)
    assert [one.returncode for one in both] == [0, 0]
    assert contents(root) == uninterrupted
    again, total = asked_again(log)
    assert (again, total) == ([], 10 * SWEEP["items"])


def test_a_clock_that_jumps_back_changes_nothing(tmp_path, uninterrupted):
    """Every process of two coordinators, one of them killed, reads a clock that goes back an hour a look."""
    root, log = tmp_path / "store", str(tmp_path / "asked")
    clock = {"PYTHONPATH": str(CLOCK)}
    options = {**SWEEP, "pause": 0.01, "workers": 1, "asked": log}
    first = coordinator(root, clock, **options)
    wait_until(lambda: Path(log).exists())
    time.sleep(0.5)
    first.kill()
    second = coordinator(root, clock, **options)
    out, errors = second.communicate(timeout=60)
    first.communicate()
    assert second.returncode == 0, out + errors
    code = "import time; assert time.time() - 3000 > time.time()"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **clock}, check=True)
    assert contents(root) == uninterrupted
    assert asked_again(log)[0] == []


def test_a_stopped_worker_that_wakes_up_again_does_no_harm(tmp_path, uninterrupted):
    """SIGSTOP for a while, as when a machine sleeps: the job goes on where it was."""
    root = tmp_path / "store"
    process = coordinator(root, **SWEEP, pause=0.01, workers=2)
    wait_until(lambda: workers_of(process))
    time.sleep(0.8)
    asleep = workers_of(process)
    for one in asleep:
        os.kill(one.pid, signal.SIGSTOP)
    time.sleep(0.7)
    for one in asleep:
        os.kill(one.pid, signal.SIGCONT)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert contents(root) == uninterrupted
