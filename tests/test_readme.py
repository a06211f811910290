"""The README's worked examples are run as they stand there."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.M | re.S)


def block(language, word):
    """The one code block of that language that holds `word`."""
    found = [text for name, text in BLOCKS if name == language and word in text]
    assert len(found) == 1, f"README has {len(found)} {language} blocks with {word!r}"
    return found[0]


def load(tmp_path, name, source):
    file = tmp_path / f"{name}.py"
    file.write_text(source)
    spec = importlib.util.spec_from_file_location(f"readme_{name}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_method_prunes_what_is_asked(tmp_path):
    from kick import compress
    from kick.model import blocks, linears, resolve
    from kick.model import load as load_model

    file = ROOT / "kick" / "compress" / "methods" / "column_magnitude.py"
    if not file.exists():  # else this is a copy of the package that has it in the table
        load(tmp_path, "column_magnitude", block("python", "class ColumnMagnitude"))
    model, _ = load_model(resolve("smoke"))
    before = [linear.weight.clone() for part in blocks(model) for linear in linears(part)]
    compress.compress(model, [compress.canonical("column_magnitude", {"sparsity": 0.5})], [])
    after = [linear.weight for part in blocks(model) for linear in linears(part)]
    for old, new in zip(before, after, strict=True):
        assert (new == 0).sum(dim=1).eq(old.shape[1] // 2).all()
        kept = (old.abs() / old.abs().mean(dim=0, keepdim=True)).masked_fill(new == 0, float("inf"))
        gone = (old.abs() / old.abs().mean(dim=0, keepdim=True)).masked_fill(new != 0, 0)
        assert (gone.amax(dim=1) <= kept.amin(dim=1)).all()


@pytest.fixture
def my_tasks(tmp_path):
    """A folder with README's task and its data."""
    folder = tmp_path / "my_tasks"
    folder.mkdir()
    (folder / "opposites.yaml").write_text(block("yaml", "task: opposites"))
    (folder / "opposites.jsonl").write_text(block("json", '"opposite"'))
    return folder


def test_the_task_scores_an_answer_as_models_give_it(my_tasks):
    from kick import tasks
    from kick.records import Response, TaskSpec
    from kick.tasks import evaluate

    task = tasks.load(["opposites"], None, [my_tasks])["opposites"]
    items = task.items(TaskSpec("opposites"), None)
    answers = [[Response(text=text, count=2)] for text in (" Cold", " up")]  # a blank first, as after "is"
    found = evaluate.score(task, items, answers)
    assert [sample.scores["exact_match"] for sample in found] == [1.0, 0.0]


def test_the_task_runs_in_a_matrix(tmp_path, my_tasks, monkeypatch, capsys):
    from kick import cli

    text = "name: m\nmodel: smoke\ntasks: [opposites]\nvariants: [dense]\nreplicas: []\n"
    (tmp_path / "m.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", "m.yaml", "--tasks", "my_tasks", "--executor", "inline"])
    assert not ended.value.code, capsys.readouterr().err
    (run,) = (tmp_path / "results" / "m").glob("*/run.json")
    scores = {score["metric"]: score["n"] for score in json.loads(run.read_text())["scores"]}
    assert scores == {"exact_match": 2, "answer_tokens": 2, "unfinished": 2}


def test_the_lines_of_python_run(tmp_path, monkeypatch, capsys):
    from kick.sweep.executors.inline import Inline

    # in this process: three workers would each import torch anew
    monkeypatch.setattr("kick.sweep.run.make_executor", lambda *_, **__: Inline())
    monkeypatch.chdir(tmp_path)
    module = load(tmp_path, "from_python", block("python", "kick.compress_model("))
    told = capsys.readouterr().out
    assert "6 cells: 6 to do" in told
    assert "LlamaForCausalLM'> 0.5" in told
    assert (module.ran.status, module.ran.done, module.found.b_label) == (0, 6, "wanda 50 %")
    assert set(module.frame["variant"]) == {"dense", "wanda-0.5", "rtn-4bit-g32"}


def test_the_figure_draws(tmp_path):
    import pandas as pd

    module = load(tmp_path, "spread", block("python", '@figure("spread"'))
    drawn = module.spread(pd.DataFrame({"value": [0.1, 0.4, 0.5], "task": ["a", "a", "b"]}))
    assert len(drawn.axes[0].lines[0].get_xdata()) == 3


def test_the_matrix_plans():
    from kick.matrix import plan
    from kick.matrix.load import parse

    planned = plan.plan(parse(block("yaml", "name: my-matrix"), "README.md"))
    names = [variant.name for variant in planned.variants]
    assert names[0] == "dense"
    assert {"wanda-2:4", "gptq-4bit-g32", "wanda-0.5+rtn-4bit-g32"} <= set(names)
    assert len(names) == 1 + 8 + 2 + 1 + 2  # dense, pruned, gptq, recipe, replicas


@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_commands_named_first_exist(target):
    assert f"make {target}" in README
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.M)


def test_the_commands_of_the_table_exist():
    helped = subprocess.run(
        [sys.executable, "-m", "kick.cli", "--help"], capture_output=True, text=True, timeout=60
    ).stdout
    for name in re.findall(r"^\| `kick ([\w-]+)", README, flags=re.M):
        assert re.search(rf"\b{name}\b", helped), name


def test_the_page_on_matrix_files_has_every_key_default_and_preset():
    from kick.matrix import schema

    page = (ROOT / "docs" / "matrix.md").read_text()
    for part, title in (
        (schema.Matrix, "# A matrix file"),
        (schema.CalibrationKeys, "## `calibration`"),
        (schema.EngineKeys, "## `engine`"),
        (schema.JudgeKeys, "## `judge`"),
    ):
        table = page.split(title, 1)[1].split("\n## ", 1)[0]
        rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
        found = {}
        for names, defaults, *_ in rows:
            names = re.findall(r"`(\w+)`", names)
            values = defaults.split(", ") if len(names) > 1 else [defaults]
            found |= dict(zip(names, values, strict=True))
        assert found.keys() == part.model_fields.keys(), title
        for name, field in part.model_fields.items():
            told = found[name].strip("`")
            if field.is_required():
                assert told == "required", name
            elif isinstance(field.default, bool):
                assert told == str(field.default).lower(), name
            elif isinstance(field.default, str):
                assert told == field.default, name
            elif isinstance(field.default, (int, float)):
                assert float(told) == field.default, name
            elif name == "replicas":
                assert told == f"[{', '.join(field.default)}]"
            elif isinstance(field.default, tuple):  # a value stands for a list of one
                assert told == ", ".join(field.default), name
            else:
                assert told in ("none", "see below", "the task's own", "auto"), name
    presets = {path.stem for path in (ROOT / "kick" / "matrix" / "presets").glob("*.yaml")}
    assert set(re.findall(r"^\| `([\w-]+)` \|", page.split("## Presets", 1)[1], flags=re.M)) == presets
    variables = set(re.findall(r"KICK_[A-Z_]+", page))
    code = "\n".join(path.read_text() for path in (ROOT / "kick").rglob("*.py"))
    assert variables == set(re.findall(r"KICK_[A-Z_]+", code))
