"""Plugins: files imported by path, each once, their faults told as one line; a method in a run."""

import json
import os
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from kick import cli, compress, meaning, plugins, registry
from kick.compress.method import methods
from kick.errors import CellFailed, KickError
from kick.records import ModelSpec, Variant
from kick.sweep.planned import check_code

METHOD = """
from dataclasses import dataclass
from kick.compress.method import method, option
from kick.compress.sequential import walk
from _shared import FACTOR

@method("{name}", title="Shrunk weights", paper="Nobody, 2031", kind="prune")
@dataclass(frozen=True)
class Shrunk:
    "Weights are made smaller."
    by: float = option("how much", 0.5)

    def __call__(self, model, calibration):
        for block in walk(model, calibration):
            for linear in block.linears:
                linear.weight.mul_(self.by * FACTOR)
"""


def written(folder, name, factor=1.0):
    """A folder with a method of that name and what it shares with others."""
    folder.mkdir(exist_ok=True)
    (folder / "_shared.py").write_text(f"FACTOR = {factor}\n")
    file = folder / "shrunk.py"
    file.write_text(METHOD.format(name=name))
    return file


def edited(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    later = time.time_ns() + 10**9
    os.utime(file, ns=(later, later))


@pytest.fixture(autouse=True)
def _no_plugin_of_another_test():
    yield
    for name in [*sys.modules]:
        if name.startswith(plugins.PREFIX) or name in ("_shared", "_helper"):
            registry.forget(name)
            del sys.modules[name]


@pytest.fixture
def kick(capsys):
    """Runs the command line here; gives (status, standard output, standard error)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(one) for one in arguments])
        told = capsys.readouterr()
        return ended.value.code or 0, told.out, told.err

    return run


def test_a_file_is_imported_once_and_again_when_it_or_its_neighbour_changed(tmp_path):
    file = written(tmp_path, "once")
    plugins.load([tmp_path])
    first = methods["once"]
    assert meaning.digest(first.cls) == first.digest
    assert plugins.load([tmp_path, file]) == (str(tmp_path), str(file))
    assert methods["once"] is first
    edited(file, 'option("how much", 0.5)', 'option("how much", 0.6)')
    plugins.load([file])
    assert methods["once"].cls().by == 0.6
    assert methods["once"].digest != first.digest
    edited(file, "once", "renamed")
    plugins.load([file])
    assert "once" not in methods
    edited(file, "renamed", "once")
    plugins.load([file])
    edited(tmp_path / "_shared.py", "1.0", "2.0")
    second = methods["once"]
    plugins.load([file])
    assert methods["once"].cls.__call__.__globals__["FACTOR"] == 2.0
    assert methods["once"].digest != second.digest


def test_nothing_is_left_on_the_path_and_no_compiled_file_beside_the_users(tmp_path):
    before = list(sys.path)
    plugins.load([written(tmp_path, "clean")])
    assert sys.path == before
    assert not list(tmp_path.glob("__pycache__/shrunk*"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\ny = (\n", r"broken\.py:2: SyntaxError: '\(' was never closed"),
        ("import math\nimport nowhere_to_be_found\n", r"broken\.py:2: ModuleNotFoundError: .*nowhere_to_be"),
        ("import math\n\nmath.sqrt(-1)\n", r"broken\.py:3: ValueError: "),
        ("class Own(Exception): ...\nraise Own('one\\ntwo')\n", r"broken\.py:2: Own: one two$"),
        ("import _helper\n", r"_helper\.py:2: ZeroDivisionError: division by zero$"),
        (
            METHOD.replace("from _shared import FACTOR", "").format(name="twice") * 2,
            r"broken\.py:\d+: the method name 'twice' is taken by .*broken\.py",
        ),
        (
            METHOD.replace("from _shared import FACTOR", "").format(name="wanda"),
            r"broken\.py:\d+: the method name 'wanda' is taken by kick\.compress\.methods\.wanda",
        ),
        (
            METHOD.replace("from _shared import FACTOR", "").replace("prune", "prone").format(name="a"),
            r"broken\.py:\d+: TypeError: .* kind 'prone'; expected one of",
        ),
    ],
)
def test_a_broken_file_is_one_line_with_its_own_line(tmp_path, kick, text, told):
    (tmp_path / "_helper.py").write_text("x = 0\ny = 1 / x\n")
    (tmp_path / "broken.py").write_text(text)
    status, out, err = kick("methods", "--plugins", tmp_path / "broken.py")
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    with pytest.raises(KickError, match=told):
        plugins.load([tmp_path / "broken.py"])
    assert "wanda" in methods
    assert methods["wanda"].cls.__module__ == "kick.compress.methods.wanda"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("absent", "'absent' does not exist"),
        ("empty", "no Python file in the folder 'empty'"),
        ("text.txt", "'text.txt' is not a Python file"),
    ],
)
def test_a_path_that_is_not_one_of_plugins(tmp_path, monkeypatch, kick, name, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("")
    status, _, err = kick("plan", "smoke", "--plugins", name)
    assert status == 2
    assert told in err
    assert len(err.splitlines()) == 1


def test_two_folders_with_helpers_of_one_name_are_not_mixed_up(tmp_path):
    plugins.load([written(tmp_path / "one", "of_one", 2.0)])
    with pytest.raises(KickError, match=r"two/_shared\.py and .*one/_shared\.py .* rename"):
        plugins.load([written(tmp_path / "two", "of_two", 3.0)])


def test_installed_packages_take_part_by_an_entry_point(monkeypatch):
    called = []

    def broken():
        raise ImportError("no torch of that kind")

    def points(group):
        assert group == "kick.plugins"
        return [SimpleNamespace(name="good", load=lambda: called.append(1), dist=None), bad]

    bad = SimpleNamespace(name="bad", load=broken, dist=SimpleNamespace(name="its-package"))
    monkeypatch.setattr(plugins, "entry_points", points)
    with pytest.raises(KickError, match=r"'bad' of its-package: .*plugins\.py:\d+: ImportError: no"):
        plugins.load([])
    assert called


def test_kick_methods_lists_it(tmp_path, kick):
    status, out, _ = kick("methods", "--plugins", written(tmp_path, "listed"), "--json")
    (one,) = [one for one in json.loads(out) if one["name"] == "listed"]
    assert status == 0
    assert (one["title"], one["paper"], one["kind"]) == ("Shrunk weights", "Nobody, 2031", "prune")


def test_a_method_edited_after_the_plan_is_refused_by_the_worker():
    step = compress.canonical("wanda", {"sparsity": 0.5})
    planned = Variant("wanda-0.5", ModelSpec("smoke"), (step,))
    check_code(planned)
    with pytest.raises(CellFailed, match="the code of wanda changed after this run was planned"):
        check_code(replace(planned, recipe=(replace(step, digest="0" * 16),)))


SHOWN = """
from matplotlib.figure import Figure

from kick.report import select, tables
from kick.report.figures import figure

@figure("dots_of_ones_own", "Dots", select.headlines)
def dots(rows):
    drawn = Figure()
    drawn.subplots().plot(rows["value"], rows["task"], "o")
    return drawn

@tables.table("counts_of_ones_own", "How many items")
def counts(frame):
    rows = select.headlines(frame)
    cells = tuple((row["label"], str(row["n"])) for row in select.records(rows))
    return tables.Table("How many items", ("variant", "n"), cells, rows)
"""


def test_figures_and_tables_of_ones_own_are_written(tmp_path, kick, smoke_results):
    (tmp_path / "shown.py").write_text(SHOWN)
    common = (smoke_results, "--plugins", tmp_path / "shown.py", "--out", tmp_path / "out")
    status, _, err = kick("figures", *common)
    assert status == 0, err
    assert (tmp_path / "out" / "dots_of_ones_own.png").exists()
    status, _, err = kick("leaderboard", *common)
    assert status == 0, err
    assert "How many items" in (tmp_path / "out" / "leaderboard.md").read_text()


MATRIX = """
name: own
model: smoke
tasks: [kick_mini_perplexity]
limit: 2
replicas: []
variants:
  - {{method: {name}, by: 0.5}}
"""


def scores(folder):
    """perplexity by variant of the finished cells of a store"""
    found = {}
    for file in folder.rglob("run.json"):
        run = json.loads(file.read_text())
        name = run["cell"]["variant"]["name"]
        values = {score["metric"]: score["value"] for score in run["scores"]}
        found.setdefault(name, []).append((values, run))
    return found


def test_an_edited_method_gives_new_numbers_and_the_plan_says_why(tmp_path, kick, monkeypatch):
    file = written(tmp_path / "mine", "resized")
    matrix = tmp_path / "m.yaml"
    matrix.write_text(MATRIX.format(name="resized"))
    out = tmp_path / "results"
    common = (matrix, "--plugins", file, "--out", out)
    status, _, err = kick("run", *common, "--executor", "inline")
    assert status == 0, err
    (first,) = scores(out)["resized"]
    status, _, err = kick("run", *common, "--executor", "inline")
    assert "(0 now)" in err
    edited(file, "self.by * FACTOR", "self.by * FACTOR * 2")
    status, told, _ = kick("plan", *common)
    assert status == 0
    assert "resized's code changed" in told
    status, _, err = kick("run", *common, "--workers", 1)  # in a worker process, which loads it too
    assert status == 0, err
    assert "(1 now)" in err
    found = scores(out)
    dense = found["dense"][0][0]
    (again,) = [one for one in found["resized"] if one[1]["key"] != first[1]["key"]]
    assert again[0] == dense  # by 0.5 x 2: nothing is changed any more
    assert first[0] != dense
    monkeypatch.delitem(methods._items, "resized")  # as where nobody names the file
    status, _, err = kick("reproduce", out / "own" / again[1]["key"])
    assert status == 2
    assert "the method 'resized' (Shrunk weights; Nobody, 2031), which is not available here" in err
    assert "--plugins PATH" in err
    monkeypatch.undo()
    status, told, _ = kick("reproduce", out / "own" / again[1]["key"], "--plugins", file)
    assert (status, "0 of 2" in told) == (0, True), told
