"""The command line: exit statuses, what goes to which stream, and no traceback for what a user can mend."""

import json
import os
import shutil

import pytest

from kick import cli
from kick.store import Store


@pytest.fixture
def kick(capsys):
    """Runs the command line here; gives (status, standard output, standard error)."""

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(one) for one in arguments])
        told = capsys.readouterr()
        return ended.value.code or 0, told.out, told.err

    return run


def matrix(tmp_path, text):
    file = tmp_path / "m.yaml"
    file.write_text(text)
    return file


def test_a_finished_matrix_is_not_run_again(kick, smoke_results, tmp_path):
    results = shutil.copytree(smoke_results, tmp_path / "results")
    before = {file: file.stat().st_mtime_ns for file in results.rglob("run.json")}
    status, out, err = kick("run", "smoke", "--out", results, "--executor", "inline")
    assert status == 0
    assert "6 of 6 cells done (0 now)" in err
    assert out.startswith("variant\t")
    assert before == {file: file.stat().st_mtime_ns for file in results.rglob("run.json")}


def test_progress_as_json_lines(kick, tmp_path):
    status, out, _ = kick(
        "run", "smoke", "--out", tmp_path, "--executor", "inline", "--log-json", "--limit", 2
    )
    events = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert sum(event.get("event") == "done" for event in events) == 6


def test_plan_tells_what_is_done_and_what_is_stale(kick, smoke_results, tmp_path):
    results = shutil.copytree(smoke_results, tmp_path / "results")
    status, out, _ = kick("plan", "smoke", "--out", results, "--json")
    assert status == 0
    report = json.loads(out)
    assert [cell["state"] for cell in report["cells"]] == ["done"] * 6
    assert report["stale"] == []
    _, out, _ = kick("plan", "smoke", "--out", results, "--limit", 3)
    assert "6 cells: 3 done, 3 to do" in out or "to do" in out
    assert "stale" in out


def test_a_variant_that_gets_a_name_is_renamed_and_not_run_again(kick, smoke_results, tmp_path):
    from kick.matrix.load import PRESETS

    results = shutil.copytree(smoke_results, tmp_path / "results")
    text = (PRESETS / "smoke.yaml").read_text()
    assert "group_size: 32" in text
    file = matrix(tmp_path, text.replace("group_size: 32", "group_size: 32\n    name: Four bits"))
    status, out, err = kick("run", file, "--out", results, "--executor", "inline")
    assert (status, "2 stored cells renamed" in err, "6 of 6 cells done (0 now)" in err) == (0, True, True)
    assert "Four bits\t" in out
    _, out, _ = kick("status", results, "--json")
    assert {state["variant"] for state in json.loads(out)} == {"dense", "wanda-0.5", "Four bits"}
    status, out, _ = kick("compare", results / "smoke", "dense", "four bits", "--json")
    assert (status, json.loads(out)["b_label"]) == (0, "Four bits")


def test_results_keep_what_their_task_files_say_for_readers(smoke_results):
    said = {one.cell.task.name: one.about for one in Store(smoke_results / "smoke").runs()}
    assert said["kick_mini_mcq"] == {
        "title": "Multiple choice by likelihood",
        "family": "mcr_qa",
        "primary": "acc",
        "asks": "loglikelihood",
    }


def test_status_of_a_folder(kick, smoke_results):
    status, out, _ = kick("status", smoke_results, "--json")
    states = json.loads(out)
    assert status == 0
    assert {state["state"] for state in states} == {"done"}
    assert {state["variant"] for state in states} == {"dense", "wanda-0.5", "rtn-4bit-g32"}


def test_a_failed_cell_makes_status_1_and_is_told(kick, tmp_path):
    """A window longer than the model's: perplexity fails, multiple choice is done all the same."""
    text = (
        "name: m\nmodel: smoke\ntasks: [kick_mini_mcq, too_long]\nlimit: {kick_mini_mcq: 2, too_long: 1}\n"
        "variants: [dense]\nreplicas: []\n"
    )
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "too_long.yaml").write_text(
        "task: too_long\ncustom_dataset: !function kick.tasks.data.embedded\n"
        "dataset_kwargs: {file: perplexity}\ntest_split: test\noutput_type: loglikelihood_rolling\n"
        'doc_to_text: ""\ndoc_to_target: text\n'
        "metadata: {version: 1, kick: {protocol: perplexity, seqlen: 4096}}\n"
    )
    out_folder = tmp_path / "results"
    status, out, err = kick(
        "run", matrix(tmp_path, text), "--out", out_folder, "--tasks", folder, "--executor", "inline"
    )
    assert status == 1
    assert "1 failed" in err
    assert "Traceback" not in err
    _, out, _ = kick("status", out_folder)
    assert "a window of tokens" in out
    assert "1 done, 1 failed" in out or "1 failed, 1 done" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "dmo"], ["unknown preset 'dmo'", "'demo'"]),
        (["plan", "nowhere.yaml"], ["nowhere.yaml"]),
        (["status", "nowhere"], ["nowhere"]),
        (["leaderboard", "nowhere", "--out", "x"], ["nowhere"]),
        (["figures", "nowhere", "--out", "x"], ["nowhere"]),
        (["compare", "nowhere", "a", "b"], ["nowhere"]),
        (["rescore", "nowhere"], ["nowhere"]),
        (["reproduce", "nowhere"], ["RESULTS/KEY"]),
        (
            ["compress", "smoke", "--out", "x", "--method", "wnda"],
            ["unknown method 'wnda'", "'wanda'", "--plugins"],
        ),
        (["compress", "smoke", "--out", "x", "--method", "wanda", "--sparsty", "0.5"], ["sparsity"]),
        (["compress", "smoke", "--out", "x"], ["--method is missing"]),
        (
            ["compress", "smoke", "--out", "x", "--bits", "4", "--method", "rtn"],
            ["--method must come first"],
        ),
        (["compress", "smok", "--out", "x", "--method", "rtn", "--bits", "4"], ["unknown model", "'smoke'"]),
        (
            ["compress", "smoke", "--out", "x", "--method", "rtn", "--bits", "4", "--bits", "3"],
            ["--bits is given twice for rtn"],
        ),
        (
            ["compress", "smoke", "--out", "x", "--method", "wanda", "--sparsity", "[0.5"],
            ["--sparsity: got '[0.5'", "not a valid list"],
        ),
        (
            ["compress", "smoke", "--out", "x", "--length", "1", "--method", "wanda", "--sparsity", "0.5"],
            ["--length: got 1", "at least 2"],
        ),
        (
            ["compress", "smoke", "--out", "x", "--corpus", "c5", "--method", "rtn", "--bits", "4"],
            ["unknown calibration corpus 'c5'", "'c4'"],
        ),
        (
            ["compress", "smoke", "--out", "file/x", "--method", "rtn", "--bits", "4"],
            ["file/x cannot be written", "give a folder"],
        ),
        (  # a seed is the method's own, and this one has none
            ["compress", "smoke", "--out", "x", "--method", "rtn", "--bits", "4", "--seed", "1"],
            ["rtn", "seed"],
        ),
        (
            ["study", "components", "smoke", "--method", "owl", "--sparsity", "0.5"],
            ["owl cannot be given a share", "it chooses the shares itself", "wanda"],
        ),
        (
            ["compress", "nowhere", "--out", "x", "--method", "smoothquant"],  # before a model is looked for
            ["activations", "not a plain checkpoint", "kick run"],
        ),
        (["run", "smoke", "--executor", "slurm"], ["unknown executor 'slurm'", "local"]),
        (["run", "smoke", "--tasks", "nowhere"], ["nowhere"]),
        (["run", "smoke", "--out", "file"], ["file is a file", "folder"]),
        (["plan", "smoke", "--out", "file"], ["file is a file", "folder"]),
        (["run", "smoke", "--limit", "0"], ["limit", "0"]),
        (["run", "smoke", "--workers", "0"], ["workers", "0"]),
    ],
)
def test_wrong_usage_is_told_in_a_line_with_status_2(kick, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    status, out, err = kick(*arguments)
    assert status == 2, (out, err)
    assert "Traceback" not in err
    assert err.startswith("kick: ")
    for word in words:
        assert word in err
    assert not (tmp_path / "x").exists()


def test_an_empty_cache_variable_is_one_that_is_not_set(kick, monkeypatch):
    """By its standard; the hub's library would take it for the folder where the user stands."""
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert kick("--version")[0] == 0
    assert "XDG_CACHE_HOME" not in os.environ


def test_debug_shows_the_traceback():
    from kick.errors import KickError

    with pytest.raises(KickError, match="unknown preset"):
        cli.main(["--debug", "run", "dmo"])


def test_typos_of_options_are_refused(kick):
    status, _, err = kick("run", "smoke", "--worker", "2")
    assert status == 2
    assert "--workers" in err


@pytest.mark.parametrize("command", ["methods", "tasks", "doctor"])
def test_what_there_is_as_json(kick, command):
    status, out, _ = kick(command, "--json")
    assert status == 0
    assert len(json.loads(out)) > 5


def test_compress_saves_what_transformers_loads(kick, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM

    from kick.compress import single

    monkeypatch.setattr(single, "PAUSE", 0.0)
    folder = tmp_path / "pruned"
    status, out, err = kick(
        "compress", "smoke", "--method", "wanda", "--sparsity", "2:4", "--sequences", 2, "--length", 64,
        "--out", folder,
    )  # fmt: skip
    assert status == 0, err
    assert json.loads(out)["logit_difference"] <= 1e-3
    assert [line for line in err.splitlines() if "blocks" in line] == [
        f"kick: {done} of 4 blocks done" for done in range(1, 5)
    ]
    model = AutoModelForCausalLM.from_pretrained(folder)
    weight = model.model.layers[0].self_attn.q_proj.weight
    assert (weight.view(weight.shape[0], -1, 4) == 0).sum(-1).eq(2).all()


def test_a_methods_own_seed_is_heard():
    from kick.cli.compress import steps

    (step,) = steps(["--method", "random", "--sparsity", "0.5", "--seed", "3"])
    assert step.options == {"sparsity": 0.5, "seed": 3}


def test_what_fails_for_a_known_reason_is_told_in_a_line_with_status_1(kick, tmp_path):
    from kick.model import load, resolve

    model, tokenizer = load(resolve("smoke"))
    model.model.layers[1].mlp.up_proj.weight[3, 5] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    tokenizer.save_pretrained(tmp_path / "broken")
    status, _, err = kick(
        "compress", tmp_path / "broken", "--method", "wanda", "--sparsity", "0.5", "--sequences", 2,
        "--length", 64, "--out", tmp_path / "made",
    )  # fmt: skip
    assert status == 1
    assert err.splitlines()[-1] == "kick: the weight of model.layers.1.mlp.up_proj has NaN or infinity in it"
    assert "Traceback" not in err
    assert sorted(one.name for one in tmp_path.iterdir()) == ["broken"]


def test_rescoring_changes_nothing_when_nothing_changed(kick, smoke_results, tmp_path):
    results = shutil.copytree(smoke_results, tmp_path / "results")
    before = {file.parent.name: json.loads(file.read_text())["scores"] for file in results.rglob("run.json")}
    status, out, _ = kick("rescore", results)
    assert status == 0
    assert "6 cells scored again" in out
    after = {file.parent.name: json.loads(file.read_text())["scores"] for file in results.rglob("run.json")}
    assert before == after


def test_a_cell_is_reproduced(kick, smoke_results):
    run = next(smoke_results.rglob("run.json"))
    status, out, _ = kick("reproduce", run.parent)
    assert status == 0
    assert "answers that differ" in out


def test_a_changed_scoring_rescores_instead_of_asking_again(kick, smoke_results, tmp_path):
    """Keys change with the scoring; `kick run` then moves the answers and asks no model."""
    from kick.sweep.rescore import rescore_stale
    from kick.sweep.run import RunOptions, prepare

    results = shutil.copytree(smoke_results, tmp_path / "results")
    planned, store = prepare("smoke", RunOptions(out=str(results)))
    task = planned.tasks["kick_mini_mcq"]
    task.scoring = "another"
    cells = [cell for cell in planned.cells if cell.task.name == "kick_mini_mcq"]
    from dataclasses import replace

    new = [replace(cell, task=replace(cell.task, scoring="another")) for cell in cells]
    others = [cell for cell in planned.cells if cell.task.name != "kick_mini_mcq"]
    every = [*new, *others]
    planned = replace(planned, cells=tuple(every), keys=tuple(cell.key for cell in every))
    assert rescore_stale(planned, store) == 3
    assert all(store.done(cell.key) for cell in new)
    for old, fresh in zip(cells, new, strict=True):
        assert store.result(fresh.key).scores == store.result(old.key).scores
        assert store.result(fresh.key).provenance["rescored"]["from"] == old.key
