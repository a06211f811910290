"""What a machine does to a command: signals, streams that hold ASCII only, caches that cannot be written."""

import io
import os
import shutil
import signal
import subprocess
import sys

import pytest

from kick import cli
from kick.compress.checkpoint import check_out
from kick.engine.encode import TokenCache
from kick.matrix import rates
from kick.model.source import locate
from kick.store import Store
from kick.store.processes import mark

TASK = """task: größe
custom_dataset: !function kick.tasks.data.embedded
dataset_kwargs: {file: factoid}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: answer
metadata: {version: 1, kick: {title: "日本"}}
"""


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(one) for one in arguments])
    return ended.value.code or 0


def test_sigterm_while_a_checkpoint_is_saved_leaves_what_it_can_go_on_with(tmp_path, monkeypatch):
    from kick.compress.streamed import travel

    seen = []

    def stop(source, folder):
        seen.append([one.name for one in tmp_path.iterdir()])
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()

    monkeypatch.setattr(travel, "copy", stop)
    before = signal.getsignal(signal.SIGTERM)
    status = run("compress", "smoke", "--method", "magnitude", "--sparsity", 0.5, "--out", tmp_path / "x")
    assert status == 128 + signal.SIGTERM
    assert seen[0] == ["x"]
    assert [one.name for one in (tmp_path / "x").iterdir()] == ["kick"]  # from where it can go on
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_stream_of_ascii_shows_other_marks_as_escapes(tmp_path, monkeypatch):
    (tmp_path / "t.yaml").write_text(TASK, "utf-8")
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert run("tasks", "--tasks", tmp_path) == 0
    sys.stdout.flush()
    assert rb"gr\xf6\xdfe" in written.getvalue()
    assert rb"\u65e5\u672c" in written.getvalue()


@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    """A folder of the tiny model, and a cache folder that cannot be made: there is a file in its place."""
    folder = shutil.copytree(locate("smoke"), tmp_path / "model")
    (tmp_path / "full").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "full"))
    return folder


def test_a_cache_that_cannot_be_written_costs_no_cell(tmp_path, no_cache, caplog):
    (tmp_path / "m.yaml").write_text(
        f"name: m\nmodel: {no_cache}\ntasks: [kick_mini_mcq]\nlimit: 2\nreplicas: []\n"
        "calibration: {sequences: 2, length: 32, propagate: dense}\n"
        "variants: [{method: wanda, sparsity: 0.5}]\n"
    )
    assert run("run", tmp_path / "m.yaml", "--out", tmp_path / "results", "--executor", "inline") == 0
    assert len(list(Store(tmp_path / "results", "m").runs())) == 2
    assert "cannot be written" in caplog.text
    assert rates.load_rates() == rates.Rates()


def test_a_damaged_file_of_tokens_is_left_alone(tmp_path, caplog):
    (tmp_path / "tokens-x.sqlite").write_text("this is not a database, and long enough to be looked at " * 20)
    cache = TokenCache("x", tmp_path)
    cache.put([(b"a", (1, 2))])
    assert cache.get([b"a", b"b"]) == [(1, 2), None]
    assert "not a database" in caplog.text


def test_statistics_of_which_a_block_was_lost_are_not_complete(tmp_path):
    import torch

    from kick.compress.calibrate.statistics import InputNorm
    from kick.compress.calibrate.stored import Memory

    cpu = torch.device("cpu")
    memory = Memory(tmp_path / "kept")
    (tmp_path / "kept").write_text("")  # in the folder's place
    memory.put(InputNorm, 0, 2, {"up": InputNorm(4, cpu)})
    (tmp_path / "kept").unlink()
    memory.put(InputNorm, 1, 2, {"up": InputNorm(4, cpu)})
    assert memory.get(InputNorm, 1, cpu) is None


def test_what_killed_commands_left_beside_a_checkpoint_is_removed_by_the_next(tmp_path):
    """Only folders of a process of this machine that is gone; names are those that `save` gives."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    out = tmp_path / "check.point"
    place = mark(os.getpid()).partition("-")[0]
    gone = tmp_path / f".check.point-{mark(dead.pid)}-x1_y2z"
    stay = [
        tmp_path / f".check.point-{mark(os.getpid())}-abc",  # at work
        tmp_path
        / f".check.point-{'0' * 6 if place != '0' * 6 else '1' * 6}-{dead.pid}-abc",  # another machine's
        tmp_path / f".check.point2-{mark(dead.pid)}-abc",  # of another checkpoint
        tmp_path / ".check.point-mine",
    ]
    for folder in (gone, *stay):
        (folder / "checkpoint").mkdir(parents=True)
    check_out(out)
    assert not gone.exists()
    assert all((folder / "checkpoint").is_dir() for folder in stay)
    assert len(list(tmp_path.iterdir())) == len(stay)
