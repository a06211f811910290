"""Programs that a model wrote, run in processes of their own that can compute and nothing else.

    allow(CONFINED)                               once per process, for those that it starts too
    run(["def f(): return 1", "assert f() == 1"])     -> Ended(parsed=True, done=2, overtime=False)

What a model writes is hostile text. It is run only if the user allows it (`--allow-code`, or
KICK_ALLOW_CODE) and with bubblewrap (`bwrap`): no network, no file but Python's and the system's libraries,
these read-only, no process of others to see, nothing that can be written. The limits of processor time,
memory, processes and wall time hold beside that; what is left when a program ends is killed with it. If
bubblewrap does not work, code is refused, unless the user says `--unconfined`: then the limits are all there
is, the program can read what the user can and make empty files, call the network, and a process that leaves
its group outlives its time.

The kernel is shared, and the marks that say how far a program came are as secret as memory of one process
can be: a program that was written to fake a pass could. Run no code here that you expect to attack.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Literal

from kick.errors import CellFailed, KickError

VARIABLE = "KICK_ALLOW_CODE"
CONFINED, UNCONFINED = "confined", "unconfined"
CPU_SECONDS = 5
# counts only if a program sleeps or starts others: processor time does not depend on load
WALL_SECONDS = 30.0
MEMORY_BYTES = 2**30
PROCESSES = 16
NOBODY = 65534
INSIDE = "/python"  # where a confined program sees Python
_MOST = 4096  # bytes of marks that are read

# What Python runs first, in the process that is confined. It is text, since the program must not be executed
# in a process of kick. FSIZE 0: no file can grow, wherever it is. A process of root's has no limit of
# processes, so it becomes nobody.
_DRIVER = """
import json, os, resource, sys, types
cpu, memory, processes, nobody, pipe = map(int, sys.argv[1:])
asked = json.load(sys.stdin)
for name, most in dict(CPU=cpu, AS=memory, NPROC=processes, FSIZE=0, CORE=0, NOFILE=64).items():
    resource.setrlimit(getattr(resource, "RLIMIT_" + name), (most, most))
if nobody and os.getuid() == 0:
    os.setgroups([])
    os.setgid(nobody)
    os.setuid(nobody)
os.write(pipe, asked["marks"][0].encode())
compile(asked["parts"][0], "program", "exec")
os.write(pipe, asked["marks"][1].encode())
space = types.ModuleType("program")
sys.modules["program"] = space
for part, mark in zip(asked["parts"], asked["marks"][2:]):
    exec(compile(part, "program", "exec"), vars(space))
    os.write(pipe, mark.encode())
os._exit(0)
"""


@dataclass(frozen=True)
class Ended:
    """How far a program came: whether its first part parses, the parts that ran without an error, whether it
    was ended by a limit of time."""

    parsed: bool
    done: int
    overtime: bool


def allow(how: str) -> None:
    """Let this process and those that it starts run programs; "" leaves the environment as it is."""
    if how:
        os.environ[VARIABLE] = how


def allowed() -> Literal["", "confined", "unconfined"]:
    """How programs may be run, "" for not at all. Raises KickError for another value of the variable."""
    how = os.environ.get(VARIABLE, "")
    if how == CONFINED:
        return "confined"
    if how == UNCONFINED:
        return "unconfined"
    if how:
        raise KickError(f"{VARIABLE}: got {how!r}; expected: {CONFINED} or {UNCONFINED}")
    return ""


def check() -> None:
    """Raises KickError if programs may not be run, or cannot be confined here."""
    how = allowed()
    if not how:
        raise KickError(
            "it runs programs that the model wrote, which was not allowed; add --allow-code, with "
            "bubblewrap (bwrap) installed"
        )
    _check_works(how)


@cache
def _check_works(how: str) -> None:
    """Raises KickError if a harmless program does not come to its end, or sees what it must not."""
    if how == CONFINED and shutil.which("bwrap") is None:
        raise KickError(
            "it runs programs that the model wrote, and bubblewrap (bwrap), which confines them, is not "
            "installed; install it, or add --unconfined to run them with limits alone"
        )
    with tempfile.NamedTemporaryFile(prefix="kick-code-") as file:  # kick's own may be among the libraries
        seen = f"import os\nassert not os.path.exists({file.name!r})"
        parts = [
            "import hashlib, math, re, typing",
            "assert math.sqrt(4) == 2",
            *([seen] if how == CONFINED else []),
        ]
        works = _whole(parts, how)
    if not works:
        raise KickError(
            "it runs programs that the model wrote, and a harmless one does not run, or is not confined: "
            f"{'bubblewrap' if how == CONFINED else 'a process with limits'} does not work on this machine"
        )


def _whole(parts: Sequence[str], how: str) -> bool:
    try:
        return _run(parts, how).done == len(parts)
    except CellFailed:
        return False


def run(parts: Sequence[str]) -> Ended:
    """Run the parts of a program one after another, in one Python.

    Python is this one, without site packages. Raises KickError if that is not allowed or does not work,
    CellFailed if a program could not be started.
    """
    check()
    return _run(parts, allowed())


def _run(parts: Sequence[str], how: str) -> Ended:
    marks = [secrets.token_hex(16) for _ in range(len(parts) + 2)]
    reader, writer = os.pipe()
    asked = json.dumps({"parts": list(parts), "marks": marks})
    try:
        with tempfile.TemporaryDirectory(prefix="kick-code-") as folder:
            overtime = _ended_by_time(_command(how, writer), asked, writer, folder)
        os.set_blocking(reader, False)
        written = _read(reader)
    finally:
        os.close(reader)
        os.close(writer)
    done = 0
    while done < len(marks) and written.startswith(marks[done], done * len(marks[0])):
        done += 1
    if not done:
        raise CellFailed("a program was not started: this machine has no process or memory left for it")
    return Ended(done > 1, max(0, done - 2), overtime)


def _read(reader: int) -> str:
    try:
        return os.read(reader, _MOST).decode("ascii", "replace")
    except BlockingIOError:  # nothing was written
        return ""


def _ended_by_time(command: Sequence[str], asked: str, writer: int, folder: str) -> bool:
    """Run a command to its end, with what it started; whether a limit of time ended it."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env={},
        pass_fds=(writer,),
        start_new_session=True,
    )
    try:
        process.communicate(asked.encode("utf-8", "surrogatepass"), timeout=WALL_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    finally:
        _kill(process)
    return process.returncode in _OUT_OF_TIME


# as a process's status, and as bubblewrap and a shell give it on
_OUT_OF_TIME = {code for number in (signal.SIGXCPU, signal.SIGKILL) for code in (-number, 128 + number)}


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End all of the process's group; of a sandbox nothing outlives its first process."""
    with suppress(ProcessLookupError):  # all have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _command(how: str, writer: int) -> list[str]:
    """Python with the driver, in a sandbox or with limits alone."""
    python, root = os.path.realpath(sys.executable), os.geteuid() == 0
    nobody = NOBODY if root and how == CONFINED else 0
    limits = [CPU_SECONDS, MEMORY_BYTES, PROCESSES, nobody, writer]
    program = ["-I", "-S", "-c", _DRIVER, *map(str, limits)]
    if how == UNCONFINED:
        return [python, *program]
    base = os.path.realpath(sys.base_prefix)
    return [*_sandbox(base, root), "--", f"{INSIDE}/{os.path.relpath(python, base)}", *program]


def _sandbox(base: str, root: bool) -> list[str]:
    """bubblewrap with Python's files (`base`) alone. Root becomes nobody inside, who could not enter a folder
    of root's: so Python is at a place of its own. Others are in a name space of users."""
    mounts = ["--ro-bind", "/usr", "/usr", "--ro-bind", base, INSIDE]
    for name in ("/lib", "/lib32", "/lib64", "/bin"):
        if os.path.islink(name):
            mounts += ["--symlink", os.readlink(name), name]
        elif os.path.isdir(name):
            mounts += ["--ro-bind", name, name]
    apart = [f"--unshare-{name}" for name in ("pid", "net", "ipc", "uts")] if root else ["--unshare-all"]
    as_root = ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"] if root else []
    return [
        shutil.which("bwrap") or "bwrap",
        *apart,
        *as_root,
        *mounts,
        *("--proc", "/proc", "--dev", "/dev", "--remount-ro", "/", "--chdir", "/"),
        *("--clearenv", "--setenv", "LD_LIBRARY_PATH", f"{INSIDE}/lib"),
        *("--die-with-parent", "--new-session"),
    ]
