"""`kick compress` and `kick study`, killed at random moments: half of the soak (`make soak`).

A command is a fork of this process, which has imported all that the command needs: with the imports each kill
would take several seconds of one core. From `kick.cli.main` on, all is as in a process of its own.
"""

import contextlib
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from tqdm import tqdm

from kick import cli
from kick.store import Store
from kick.study.components import MATRIX
from tests.support import soak
from tests.support.fake_sweep import contents

ENDING = (signal.SIGTERM, signal.SIGINT)
CALIBRATION = ("--sequences", "2", "--length", "32")
COMPRESS = ("compress", "smoke", "--method", "wanda", "--sparsity", "0.5", "--method", "rtn", "--bits", "4")
STUDY = ("study", "components", "smoke", "--method", "magnitude", "--sparsity", "0.5", "--prompts", "2")
STUDY = (*STUDY, "--limit", "2", "--executor", "inline")


class Command:
    """A `kick` command in a fork of this process."""

    def __init__(self, log, *arguments):
        self.status = None
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # until the fork is a command
        self.pid = os.fork()
        if self.pid == 0:
            self._become(log, [str(one) for one in arguments])
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @staticmethod
    def _become(log, arguments):
        status = 70
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
            tqdm.set_lock(threading.RLock())  # its own one is shared by all forks, and a killed one keeps it
            stream = open(log, "a")  # noqa: SIM115
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
            sys.stdout = sys.stderr = stream
            cli.main(arguments)
            status = 0
        except KeyboardInterrupt:
            status = 130
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        finally:
            with contextlib.suppress(ValueError):
                sys.stdout.flush()
            os._exit(status)

    def ended(self):
        """Whether it has ended."""
        if self.status is None:
            reaped, code = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(code) if reaped else None
        return self.status is not None

    def wait(self):
        """Its exit status, below 0 for a signal."""
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def killed(self, seconds, sent):
        """Whether it was still at work after so many seconds and got the signal; it has ended then."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.ended():
                return False
            time.sleep(0.005)
        if self.ended():
            return False
        os.kill(self.pid, sent)
        self.wait()
        return True


class Striker:
    """Counts kills by signal; says when and by what the next one comes."""

    def __init__(self, seed, seconds):
        self.chance, self.seconds, self.kills = random.Random(seed), seconds, Counter()
        self.start = time.monotonic()

    def strike(self, command):
        """Kill a command at a random moment; the signal, or None where it ended first."""
        sent = self.chance.choice(soak.SIGNALS)
        if not command.killed(self.chance.uniform(0, self.seconds), sent):
            assert command.status == 0, "nobody killed it"
            self.seconds *= 0.98  # the machine is less busy now
            return None
        self.kills[sent.name] += 1
        return sent

    def told(self, **figures):
        """Print what came of it."""
        seconds = time.monotonic() - self.start
        print(
            dict(self.kills), ", ".join(f"{name} {one}" for name, one in figures.items()), f"{seconds:.0f} s"
        )


def timed(*arguments):
    """Seconds that a command takes that nobody kills."""
    start = time.monotonic()
    assert Command(*arguments).wait() == 0, Path(arguments[0]).read_text()
    return time.monotonic() - start


def files(folder):
    """The bytes of each file of a checkpoint, but of a lock that nobody holds; of the manifest without the
    seconds it took."""
    found = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    found.pop("kick/lock", None)
    found["kick/manifest.json"] = re.sub(rb'"seconds": [\d.e-]+', b"", found["kick/manifest.json"])
    return found


def compress_killed(tmp_path, kills, seed):
    """`kick compress` goes on where a killed one was: its folder is no model before it is whole."""
    log, made = tmp_path / "log", tmp_path / "made"
    made.mkdir()
    timed(log, *COMPRESS, *CALIBRATION, "--out", tmp_path / "first")  # imports all that is needed once
    seconds = timed(log, *COMPRESS, *CALIBRATION, "--out", tmp_path / "whole")
    right, out = files(tmp_path / "whole"), made / "checkpoint"
    striker, finished, continued = Striker(seed, seconds), 0, 0
    while sum(striker.kills.values()) < kills:
        continued += (out / "kick" / "work" / "progress.json").exists()
        sent = striker.strike(Command(log, *COMPRESS, *CALIBRATION, "--out", out))
        if (out / "config.json").exists() and (out / "kick" / "work" / "progress.json").exists():
            timed(log, *COMPRESS, *CALIBRATION, "--out", out)  # killed as it cleaned up
        if sent is None or (out / "config.json").exists():
            assert files(out) == right, "byte for byte"
            shutil.rmtree(out)
            finished += 1
        assert set(os.listdir(made)) <= {"checkpoint"}, "nothing is left beside it"
    timed(log, *COMPRESS, *CALIBRATION, "--out", out)
    assert files(out) == right
    striker.told(commands="kick compress", whole=finished + 1, half_written=0, continued=continued)


def study_killed(tmp_path, kills, seed):
    """`kick study` until it is done, killed meanwhile: what is stored stays, the end is the same."""
    log = tmp_path / "log"
    timed(log, *STUDY, *CALIBRATION, "--out", tmp_path / "first")
    seconds = timed(log, *STUDY, *CALIBRATION, "--out", tmp_path / "whole")
    right = contents(tmp_path / "whole", MATRIX)
    striker, studies, out, stored = Striker(seed, seconds / 3), 0, tmp_path / "study", {}
    while sum(striker.kills.values()) < kills:
        command = Command(log, *STUDY, *CALIBRATION, "--out", out)
        ended = striker.strike(command) is None
        now = {file: file.stat().st_mtime_ns for file in out.rglob("run.json")}
        assert stored.items() <= now.items(), "a stored cell is neither lost nor measured again"
        stored = now
        if ended:
            assert contents(out, MATRIX) == right, "the scores and samples, byte for byte"
            shutil.rmtree(out)
            studies, stored = studies + 1, {}
    timed(log, *STUDY, *CALIBRATION, "--out", out)
    assert contents(out, MATRIX) == right
    assert {state.state for state in Store(out).states(verify=True)} == {"done"}
    hidden = [one for one in out.rglob(".*") if one.is_file() and ".hearts" not in one.parts]
    striker.told(
        commands="kick study", studies=studies + 1, cells=len(right) // 2, lost=0, hidden_files=len(hidden)
    )


@pytest.fixture(scope="module", autouse=True)
def _imported(tmp_path_factory):
    """All modules that the commands need, imported here once: forks have them."""
    folder = tmp_path_factory.mktemp("imported")
    for arguments in (COMPRESS, STUDY):
        with contextlib.suppress(SystemExit):
            cli.main([*arguments, *CALIBRATION, "--out", str(folder / arguments[0])])
    assert len(list(folder.iterdir())) == 2


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("killed", [compress_killed, study_killed])
def test_killed_at_many_moments(tmp_path, killed):
    killed(tmp_path, soak.KILLS // 4, soak.SEED)
