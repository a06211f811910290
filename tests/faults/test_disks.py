"""Disks that are full, read-only or damaged: nothing is lost, and the message says what happened."""

import os
import subprocess
import sys
import tempfile

import pytest

from kick.store import Store, StoreError
from kick.sweep.executors.inline import Inline
from kick.sweep.loop import run_sweep
from tests.support.fake_sweep import MATRIX, FakeWork, contents, coordinator, fake_jobs

SWEEP = {"variants": 4, "tasks": 2, "items": 20, "every": 10, "workers": 2}


@pytest.fixture
def small_disk(tmp_path):
    """A tmpfs of 256 KiB; a function mounts it again with other options."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(*options):
        return subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(place)], capture_output=True)

    if os.name != "posix" or mount("-o", "size=256k").returncode:
        pytest.skip("LOUD: a file system can only be mounted by root, with the right to mount")
    yield place, lambda options: mount("-o", f"remount,{options}")
    subprocess.run(["umount", "-l", str(place)], check=True)


def finish(root, **options):
    """Run the sweep to its end; its exit status and all that it printed."""
    process = coordinator(root, **{**SWEEP, **options})
    out, errors = process.communicate(timeout=60)
    return process.returncode, out + errors


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return sweep_here(tmp_path_factory.mktemp("undisturbed"))


def test_a_disk_that_fills_up_ends_the_sweep_and_loses_nothing(small_disk, undisturbed, tmp_path):
    disk, remount = small_disk
    (disk / "ballast").write_bytes(b"x" * 200_000)
    log = tmp_path / "asked"
    status, text = finish(disk / "store", asked=str(log))
    assert status == 1
    assert "is full" in text
    assert "free some space and run the same command again" in text
    assert "Traceback" not in text
    store = Store(disk / "store", MATRIX)
    assert list(store.failures()) == [], "no cell is to blame"
    done = {result.key for result in store.runs()}
    assert done, "some fitted"
    assert all(store.done(key) for key in done)
    (disk / "ballast").unlink()
    remount("size=4m")
    before = len(log.read_text().splitlines())
    status, text = finish(disk / "store", asked=str(log))
    assert status == 0, text
    assert contents(disk / "store") == undisturbed
    later = {line.split()[1] for line in log.read_text().splitlines()[before:]}
    assert not later & done, "what was stored is not asked again"


def test_a_read_only_store_is_refused_before_anything_runs_and_can_be_read(small_disk):
    disk, remount = small_disk
    remount("size=4m")
    assert finish(disk / "store")[0] == 0
    key = fake_jobs(1)[0].cells[0].key
    (disk / "store" / MATRIX / key / "run.json").unlink()
    remount("ro")
    status, text = finish(disk / "store")
    assert status == 2
    assert "cannot be written" in text
    assert "Read-only file system" in text
    assert "--out" in text
    assert "Traceback" not in text
    store = Store(disk / "store")
    assert len(list(store.runs())) == 7
    assert len([one for one in store.states() if one.state == "done"]) == 7
    with pytest.raises(StoreError, match="stays readable"):
        store.fail(key, "x")


def test_a_folder_of_somebody_else_is_refused():
    """As an ordinary user, whom permissions bind."""
    if os.geteuid():
        pytest.skip("LOUD: only root can become somebody else")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        code = (
            "import os; from kick.store import Store, StoreError\n"
            "os.setgid(65534); os.setuid(65534)\n"
            f"try: Store({folder!r} + '/x', 'm').check_writable()\n"
            "except StoreError as error: print(error)"
        )
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Permission denied" in found.stdout, found.stderr
    assert "--out" in found.stdout


@pytest.mark.parametrize("harm", ["truncate", "flip", "empty", "remove"])
@pytest.mark.parametrize("name", ["samples.parquet", "run.json"])
def test_damaged_cells_and_no_others_are_measured_again(tmp_path, undisturbed, name, harm):
    root, log = tmp_path / "store", tmp_path / "asked"
    sweep_here(root)
    key = fake_jobs(2)[1].cells[0].key
    victim = root / MATRIX / key / name
    data = victim.read_bytes()
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]
    victim.write_bytes({"truncate": data[:middle], "flip": flipped}.get(harm, b""))
    if harm == "remove":
        victim.unlink()
    assert sweep_here(root, str(log)) == undisturbed
    assert {line.split()[1] for line in log.read_text().splitlines()} == {key}


def sweep_here(root, log=""):
    """The same sweep in this process, which is quicker; what the store then holds."""
    work = FakeWork(str(root), items=SWEEP["items"], every=SWEEP["every"], asked=log)
    jobs = fake_jobs(SWEEP["variants"], SWEEP["tasks"])
    assert run_sweep(work, jobs, Store(root, MATRIX), Inline()).status == 0
    return contents(root)
