"""Stored results as lm-eval's files: what lm-eval itself writes of the same model, read by lm-eval's code."""

import json
from pathlib import Path

import lm_eval.tasks
import pytest
from datasets import load_dataset
from lm_eval import utils as theirs
from lm_eval.evaluator import simple_evaluate
from lm_eval.loggers import EvaluationTracker

import kick
from kick import cli
from kick.engine.lm_eval_model import KickLM
from tests.support import small_tasks

LIMIT = 5


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(the folder of task files, the stored results, the folder of exported files)."""
    folder = tmp_path_factory.mktemp("export")
    tasks = small_tasks.write(folder / "tasks")
    names = (*small_tasks.TASKS, "kick_mini_perplexity")
    limit = {"tiny_numbers": LIMIT, "kick_mini_perplexity": 1}
    options = kick.RunOptions(
        out=str(folder / "results"), task_folders=(str(tasks),), executor="inline", view="json"
    )
    ran = kick.run(small_tasks.matrix(tasks=names, limit=limit), options=options)
    with pytest.raises(SystemExit) as ended:
        cli.main(
            [
                "export",
                str(ran.folder),
                "--to",
                "lm-eval",
                "--out",
                str(folder / "out"),
                "--tasks",
                str(tasks),
            ]
        )
    assert not ended.value.code
    return tasks, ran.folder, folder / "out"


@pytest.fixture(scope="module")
def by_lm_eval(run, tmp_path_factory):
    """The files that lm-eval writes of the same model, asked with the same engine."""
    out = tmp_path_factory.mktemp("theirs")
    manager = lm_eval.tasks.TaskManager(include_path=str(run[0]), include_defaults=False)
    tracker = EvaluationTracker(output_path=str(out))
    for task, limit in (("tiny_numbers", LIMIT), ("tiny_words", None)):
        found = simple_evaluate(
            KickLM("smoke"), tasks=[task], limit=limit, task_manager=manager, evaluation_tracker=tracker
        )
        samples = found.pop("samples")
        tracker.save_results_aggregated(found, samples)
        tracker.save_results_samples(task, samples[task])
    return out


def lines(folder, task):
    (file,) = folder.rglob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("task", small_tasks.TASKS)
def test_samples_are_lm_evals_own_line_by_line(run, by_lm_eval, task):
    ours, own = lines(run[2] / "smoke__dense", task), lines(by_lm_eval, task)
    assert len(ours) == {"tiny_numbers": LIMIT, "tiny_words": 8}[task]
    for one, other in zip(ours, own, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            if name in ("resps", "filtered_resps") and task == "tiny_numbers":
                flat = [json.loads(json.dumps(part[name])) for part in (one, other)]
                assert numbers(flat[0]) == pytest.approx(numbers(flat[1]), rel=1e-5)
            else:
                assert one[name] == other[name], name


def numbers(nested):
    if isinstance(nested, list):
        return [number for part in nested for number in numbers(part)]
    return [{"True": 1.0, "False": 0.0}.get(nested) if nested in ("True", "False") else float(nested)]


def test_results_are_lm_evals_own(run, by_lm_eval):
    (file,) = (run[2] / "smoke__dense").glob("results_*.json")
    ours = json.loads(file.read_text("utf-8"))
    for theirs_file in by_lm_eval.rglob("results_*.json"):
        own = json.loads(theirs_file.read_text("utf-8"))
        for part in (
            "results",
            "configs",
            "versions",
            "n-shot",
            "higher_is_better",
            "n-samples",
            "task_hashes",
        ):
            for task in own[part]:
                assert ours[part][task] == own[part][task], (part, task)
        assert own.keys() - ours.keys() <= {
            *(
                "tokenizer_pad_token",
                "tokenizer_eos_token",
                "tokenizer_bos_token",
                "eot_token_id",
                "max_length",
            )
        }
    assert ours["config"]["model_args"]["variant"] == "dense"
    assert ours["kick"].keys() == set(small_tasks.TASKS), "the cells that are in the files, and no others"


def test_lm_evals_own_loaders_read_them(run):
    names = [str(file) for file in run[2].rglob("*.json*")]
    results, samples = theirs.get_results_filenames(names), theirs.get_sample_results_filenames(names)
    assert len(results) == 2  # dense and one variant
    assert {theirs.get_file_task_name(name.rpartition("/")[2]) for name in samples} == set(small_tasks.TASKS)
    whole = json.loads(Path(theirs.get_latest_filename(results)).read_text("utf-8"))
    assert "tiny_numbers" in theirs.make_table(whole)
    data = load_dataset("json", data_files=samples[0], split="train")
    assert {"doc_id", "doc_hash", "filtered_resps"} <= set(data.column_names)


def test_what_is_not_of_lm_evals_form_is_named(run, capsys):
    out = run[2].parent / "again"
    with pytest.raises(SystemExit):
        cli.main(["export", str(run[1]), "--to", "lm-eval", "--out", str(out), "--tasks", str(run[0])])
    assert "dense: left out: kick_mini_perplexity: asked in a way of kick's own" in capsys.readouterr().out


def test_a_task_that_changed_is_refused(run, tmp_path, capsys):
    tasks = small_tasks.write(tmp_path / "tasks")
    file = tasks / "tiny_words.yaml"
    file.write_text(file.read_text().replace("Answer:", "Reply:"))
    with pytest.raises(SystemExit) as ended:
        cli.main(
            ["export", str(run[1]), "--to", "lm-eval", "--out", str(tmp_path / "o"), "--tasks", str(tasks)]
        )
    assert ended.value.code == 2
    assert "tiny_words asks something else now" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_another_form_is_refused(run, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["export", str(run[1]), "--to", "helm", "--out", str(tmp_path)])
    assert ended.value.code == 2
    assert "unknown form 'helm'" in capsys.readouterr().err
