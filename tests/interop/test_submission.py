"""Results from elsewhere: sound ones become a leaderboard, others are refused with the reason."""

import hashlib
import json
import shutil
from dataclasses import replace

import pytest

from kick.cli import main
from kick.errors import KickError
from kick.interop import submission
from kick.store import Store
from kick.store.json_files import RUN, render_run
from tests.support.synthetic import DENSE, pruned, result, samples

FACTS = "kick_mini_factoid"


def put(store, one, n=12, **changes):
    found = samples(FACTS, one, n)
    return store.put(replace(result(FACTS, one, found, "theirs"), **changes), found)


@pytest.fixture
def theirs(tmp_path):
    store = Store(tmp_path / "results")
    for one in (DENSE, pruned("wanda", 0.5)):
        put(store, one)
    return store


def again(store, run):
    """Write a run.json as whoever can compute its checksum."""
    (place,) = (path for path in store.files.stamps("", RUN) if run.key in path)
    store.files.write(place, render_run(run))


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["site", *map(str, arguments)])
    return ended.value.code or 0


def test_sound_results_become_a_leaderboard_in_the_index(theirs, tmp_path, capsys):
    into = tmp_path / "leaderboards"
    assert run("submit", theirs.root, "--into", into) == 0
    out = capsys.readouterr()
    assert "2 cells checked" in out.err
    assert "kick_mini_factoid has another digest here" in out.err, "the made-up cells have none"
    assert str(into / "index.html") in out.out
    assert '<a href="theirs/index.html">' in (into / "index.html").read_text("utf-8")
    record = json.loads((into / "theirs" / "submission.json").read_text("utf-8"))
    for key, checksum in record["cells"].items():
        data = (tmp_path / "results" / "theirs" / key / "samples.parquet").read_bytes()
        assert hashlib.sha256(data).hexdigest() == checksum
    assert len(record["cells"]) == 2
    assert "has another digest here" in (into / "theirs" / "index.html").read_text("utf-8")
    assert run("submit", theirs.root, "--into", into) == 2
    assert "is there already" in capsys.readouterr().err
    assert run("submit", theirs.root, "--into", into, "--name", "../up") == 2
    assert "invalid name" in capsys.readouterr().err
    assert not (tmp_path / "up").exists()


def test_the_check_writes_nothing_and_the_folder_alone_still_builds(theirs, tmp_path, capsys):
    into = tmp_path / "leaderboards"
    assert run("submit", theirs.root, "--into", into, "--check") == 0
    assert not into.exists()
    submission.submit(theirs.root, into, "mine")
    (into / "index.html").unlink()
    capsys.readouterr()
    assert run(into) == 0
    assert capsys.readouterr().out.strip() == str(into / "index.html")


def test_a_changed_score_is_refused_even_with_its_checksum(theirs, tmp_path, capsys):
    (cell,) = (one for one in theirs.runs() if not one.cell.variant.dense)
    better = [
        replace(one, value=one.value + 0.1) if one.metric == "exact_match" else one for one in cell.scores
    ]
    again(theirs, replace(cell, scores=tuple(better)))
    assert run("submit", theirs.root, "--into", tmp_path / "into") == 2
    err = capsys.readouterr().err
    assert f"theirs/{cell.key}: exact_match is" in err
    assert "but its items give" in err
    assert "Traceback" not in err
    assert not (tmp_path / "into").exists()


def test_a_key_that_is_not_of_its_contents_is_refused(theirs):
    (cell,) = (one for one in theirs.runs() if not one.cell.variant.dense)
    recipe = (replace(cell.cell.variant.recipe[0], options={"sparsity": 0.9}),)
    other = replace(cell.cell, variant=replace(cell.cell.variant, recipe=recipe))
    again(theirs, replace(cell, cell=other))
    (reason,) = submission.check(theirs.root).refused
    assert reason == f"theirs/{cell.key}: its key is not that of what it says was measured, {other.key}"
    again(theirs, replace(cell, cell=other, key_version=1))
    found = submission.check(theirs.root)
    assert found.refused == ()
    assert "1 key of version 1: they cannot be computed again" in found.notes


def test_damaged_cells_and_nothing_to_compare_with_are_refused(theirs, tmp_path):
    dense, other = sorted(theirs.runs(), key=lambda one: not one.cell.variant.dense)
    file = tmp_path / "results" / "theirs" / other.key / "samples.parquet"
    file.write_bytes(file.read_bytes()[:-1])
    (reason,) = submission.check(theirs.root).refused
    assert "does not match its checksum" in reason
    put(theirs, other.cell.variant)
    shutil.rmtree(tmp_path / "results" / "theirs" / dense.key)
    assert submission.check(theirs.root).refused == (
        "theirs: no dense model, so there is nothing to compare with",
    )


def test_a_variant_with_other_items_is_refused(theirs):
    one = pruned("magnitude", 0.5)
    found = [replace(sample, item=f"other-{n}") for n, sample in enumerate(samples(FACTS, one, 12))]
    theirs.put(result(FACTS, one, found, "theirs"), found)
    (reason,) = submission.check(theirs.root).refused
    assert "none of its items were asked of the dense model" in reason


def test_what_is_not_results_is_told(tmp_path):
    with pytest.raises(KickError, match="not a folder of results"):
        submission.check(tmp_path / "absent")
    with pytest.raises(KickError, match="no cell"):
        submission.check(tmp_path)
