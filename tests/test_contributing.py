"""CONTRIBUTING's worked examples, added in place to a copy of the package and run there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
WHERE = TEXT.split("## What to add where\n", 1)[1].split("\n## ", 1)[0]
SECTIONS = dict(re.findall(r"^### An? (.*?)\n(.*?)(?=^### |\Z)", WHERE, flags=re.M | re.S))
COUNTS = dict(re.findall(r"^\| an? (.*?) \| (\d+) \|", WHERE, flags=re.M))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.M | re.S)
# Only the example's figure is drawn; of others, which take seconds, what they are drawn of is written.
RUNS = """
import sys
from pathlib import Path
from matplotlib.figure import Figure
from kick import cli

save = Figure.savefig

def saved(figure, file, **more):
    save(figure, file, **more) if Path(file).stem == "against_dense" else Path(file).touch()

Figure.savefig = saved
for line in sys.stdin.read().splitlines():
    try:
        cli.main(line.split())
    except SystemExit as ended:
        if ended.code:
            raise
"""
MATRIX = """
name: examples
model: smoke
tasks: [colour_mix, colour_mix_lower, kick_mini_perplexity]
limit: {kick_mini_perplexity: 2}
calibration: {sequences: 2, length: 64}
replicas: []
engine: {name: single}
variants:
  - {method: peak_input, sparsity: 0.5}
  - {method: wanda, sparsity: 0.5}
"""
# compiled files are copied too, which saves seconds, but for one that another process is writing
UNFINISHED = shutil.ignore_patterns("*.pyc.*")
LOWER_CASE = "{protocol: lower_case, title"
RUNNING = """
name: running
model: smoke
tasks: [colour_mix]
replicas: []
variants:
  - runtime: {method: strided, stride: 3}
"""
COMMANDS = """
run examples.yaml --executor shuffled --tasks tasks/colours
run running.yaml --executor inline --tasks tasks/colours
leaderboard results/examples --out page
figures results/examples --out figures
"""


def files(section):
    """What an example writes: path -> text; the path stands in the first line."""
    written = {}
    for language, text in BLOCK.findall(SECTIONS[section]):
        if language == "json":  # the data of the task before it
            written[str(Path(list(written)[-1]).with_suffix(".jsonl"))] = text
            continue
        head = text.split("\n", 1)[0]
        written[head.removeprefix("# ")] = text
    return written


def add_examples(folder):
    for section in SECTIONS:
        for name, text in files(section).items():
            file = folder / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the package with the examples in it, a matrix run there, its page and figures made."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("kick", "tasks"):
        shutil.copytree(ROOT / name, folder / name, ignore=UNFINISHED)
    add_examples(folder)
    task = (folder / "tasks" / "colours" / "colour_mix.yaml").read_text()
    lower = task.replace("task: colour_mix", "task: colour_mix_lower").replace("{title", LOWER_CASE)
    (folder / "tasks" / "colours" / "colour_mix_lower.yaml").write_text(lower)
    (folder / "examples.yaml").write_text(MATRIX)
    (folder / "running.yaml").write_text(RUNNING)
    run_there(folder, [sys.executable, "-c", RUNS], COMMANDS.strip())
    return folder


def run_there(folder, command, text=""):
    surroundings = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(
        command, cwd=folder, env=surroundings, input=text, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_method_and_the_task_are_measured_by_the_executor(copy):
    runs = [json.loads(file.read_text()) for file in copy.glob("results/examples/*/run.json")]
    scores = {
        (run["cell"]["variant"]["name"], score["metric"]): score for run in runs for score in run["scores"]
    }
    assert scores["peak_input-0.5", "acc"]["n"] == 3
    values = {scores[name, "perplexity"]["value"] for name in ("dense", "peak_input-0.5", "wanda-0.5")}
    assert len(values) == 3


def test_the_kind_of_task_asks_in_its_own_way(copy):
    asked = {}
    for file in copy.glob("results/examples/*/samples.parquet"):
        run = json.loads((file.parent / "run.json").read_text())
        asked[run["cell"]["task"]["name"]] = set(pd.read_parquet(file)["preview"])
    assert asked["colour_mix_lower"] == {text.lower() for text in asked["colour_mix"]}
    assert asked["colour_mix_lower"] != asked["colour_mix"]


def test_the_backend_answers_and_is_in_the_key(copy):
    runs = [json.loads(file.read_text()) for file in copy.glob("results/examples/*/run.json")]
    assert {run["provenance"]["engine"]["backend"] for run in runs} == {"single"}
    assert {run["cell"]["engine"] for run in runs} == {"single 1"}


def test_what_the_run_time_method_reads_is_counted(copy):
    runs = [json.loads(file.read_text()) for file in copy.glob("results/running/*/run.json")]
    counted = {run["cell"]["variant"]["name"]: run["compression"].get("run_time") for run in runs}
    assert counted.keys() == {"dense", "strided-stride=3"}
    assert counted["dense"] is None
    assert 0 < counted["strided-stride=3"]["prompt_keys_read"] < 1


def test_the_table_and_the_figure_are_written(copy):
    page = (copy / "page" / "leaderboard.md").read_text()
    assert re.search(r"### Verdicts per variant\n\n\| variant \|.*\n.*\n\| Peak", page, flags=re.I)
    assert {file.suffix for file in copy.glob("figures/against_dense.*")} == {".png", ".pdf", ".csv"}
    assert all(file.stat().st_size for file in copy.glob("figures/against_dense.*"))


def test_the_examples_keep_to_the_layers_and_to_the_style(copy):
    (copy / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "test_layers.py", copy / "tests")
    shutil.copy(ROOT / "pyproject.toml", copy)
    run_there(copy, [sys.executable, "-m", "pytest", "tests/test_layers.py", "-k", "not brings_no_torch"])
    names = [name for section in SECTIONS for name in files(section) if name.endswith(".py")]
    run_there(copy, [sys.executable, "-m", "ruff", "check", *names])


def test_the_numbers_of_files_are_those_of_the_examples():
    assert COUNTS.keys() == SECTIONS.keys()
    assert len(SECTIONS) == WHERE.count("\n### ")  # none twice
    for section, count in COUNTS.items():
        touched = [name for name in files(section) if not name.endswith(".jsonl")]
        assert len(touched) == int(count), (section, touched)
