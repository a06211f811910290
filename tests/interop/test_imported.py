"""Other programs' answers as cells: paired by document, scored as ours, marked, never written in part."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

import kick
from kick import cli
from kick.analysis import frame
from kick.report import page
from kick.store import Store
from tests.support import small_tasks


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(task files, stored results, lm-eval's files of the variant that is magnitude at 50 %)."""
    folder = tmp_path_factory.mktemp("import")
    tasks = small_tasks.write(folder / "tasks")
    options = kick.RunOptions(
        out=str(folder / "results"), task_folders=(str(tasks),), executor="inline", view="json"
    )
    ran = kick.run(small_tasks.matrix(), options=options)
    with pytest.raises(SystemExit):
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
    return tasks, ran.folder, folder / "out" / "smoke__magnitude-0.5"


@pytest.fixture
def results(made, tmp_path):
    """A copy of the results, to import into."""
    return shutil.copytree(made[1], tmp_path / "tiny")


@pytest.fixture
def take(made, results, capsys):
    """Runs `kick import` into the copy; gives (status, standard output, standard error)."""

    def run(*files, variant="theirs", into=results, more=()):
        capsys.readouterr()
        words = ["--into", str(into), "--variant", variant, "--tasks", str(made[0]), *more]
        try:
            cli.main(["import", *map(str, files), *words])
        except SystemExit as ended:
            return ended.code or 0, *capsys.readouterr()
        return 0, *capsys.readouterr()

    return run


def samples_file(folder, task):
    (file,) = folder.glob(f"samples_{task}_*.jsonl")
    return file


def changed(file, folder, change):
    """A copy of a samples file of which `change` has changed the lines (dicts)."""
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    copy = folder / file.name
    copy.write_text("".join(json.dumps(line) + "\n" for line in change(lines)))
    return copy


def cells(folder, variant):
    return {run.cell.task.name: run for run in Store(folder).runs() if run.cell.variant.name == variant}


def test_answers_from_lm_eval_are_our_own_again(made, results, take):
    status, told, _ = take(*sorted(made[2].glob("samples_*.jsonl")))
    assert status == 0
    assert "2 cells imported" in told
    ours, theirs = cells(results, "magnitude-0.5"), cells(results, "theirs")
    assert theirs.keys() == set(small_tasks.TASKS)
    for task, run in theirs.items():
        store = Store(results)
        assert [one.item for one in store.samples(run.key)] == [
            one.item for one in store.samples(ours[task].key)
        ]
        assert [one.prompt for one in store.samples(run.key)] == [
            one.prompt for one in store.samples(ours[task].key)
        ]
        own = {score.metric: (score.value, score.n) for score in ours[task].scores}
        for name in ("answer_tokens", "unfinished"):  # lm-eval's samples do not say how long an answer was
            own.pop(name, None)
        assert {score.metric: (score.value, score.n) for score in run.scores} == own
        file = samples_file(made[2], task)
        assert run.cell.imported == hashlib.sha256(file.read_bytes()).hexdigest()
        assert run.cell.engine.startswith("lm-eval 0.4")
        assert run.warnings == ()


def test_rescore_and_reproduce_leave_them_alone(made, results, take, capsys):
    take(samples_file(made[2], "tiny_words"))
    key = cells(results, "theirs")["tiny_words"].key
    with pytest.raises(SystemExit):
        cli.main(["rescore", str(results), "--tasks", str(made[0])])
    assert f"{key} theirs tiny_words: imported; left" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        cli.main(["reproduce", f"{results}/{key}", "--tasks", str(made[0])])
    assert ended.value.code == 2
    assert "nothing to run again" in capsys.readouterr().err


def test_the_page_marks_them_and_gives_no_verdict(made, results, take):
    take(samples_file(made[2], "tiny_numbers"))
    read = frame.read([Store(results)])
    rows = read.frame[read.frame["variant"] == "theirs"]
    assert set(rows["verdict"]) == {""}
    assert rows["gap"].notna().all()
    (line,) = [
        line
        for line in page.view(read, title=None, notes=(), examples=1).sections[0].lines
        if line.name == "theirs"
    ]
    assert line.label == "theirs (imported)"
    assert line.remark.startswith("imported: answers of lm-eval 0.4")


def test_two_imports_of_one_program_have_verdicts(made, tmp_path, take):
    new = tmp_path / "new"
    for variant in ("dense", "theirs"):
        folder = made[2] if variant == "theirs" else made[2].parent / "smoke__dense"
        assert take(samples_file(folder, "tiny_numbers"), variant=variant, into=new)[0] == 0
    read = frame.read([Store(new.parent, "new")]).frame
    assert set(read.loc[read["primary"] & (read["variant"] == "dense"), "verdict"]) == {"dense"}
    assert not read["foreign"].any()
    assert set(read.loc[read["variant"] == "theirs", "matrix"]) == {"new"}


def with_first(**keys):
    """A change of the first line's keys."""
    return lambda lines: [lines[0] | keys, *lines[1:]]


WRONG = {
    "a document less": (lambda lines: lines[1:], "1 of the 6 documents of tiny_numbers have no answer"),
    "another document": (
        lambda lines: [*lines, {**lines[0], **another({"question": "?", "gold": 0})}],
        "1 of its 7 answers are not documents of tiny_numbers",
    ),
    "a document twice": (lambda lines: [*lines, {**lines[0], "doc_id": 9}], "are answered twice"),
    "a changed document": (
        lambda lines: [{**lines[0], "doc": {"question": "?", "gold": 1}}, *lines[1:]],
        "its doc_hash is not that of its doc",
    ),
    "a reply less": (
        lambda lines: [{**lines[0], "resps": lines[0]["resps"][:1]}, *lines[1:]],
        "1 replies to",
    ),
    "texts for numbers": (
        lambda lines: [{**lines[0], "resps": [["a"], ["b"]]}, *lines[1:]],
        "expected a log-probability and True or False",
    ),
    "a number of a list": (with_first(doc_id=[1]), ":1: doc_id: got [1]; expected a valid integer"),
    "a filter of a list": (with_first(filter=["a"]), ":1: filter: got ['a']; expected a valid string"),
    "no arguments": (with_first(arguments=7), ":1: arguments: got 7; expected a valid list"),
    "numbers as arguments": (with_first(arguments=[5, 6]), ":1: arguments.0: got 5; expected a valid list"),
    "numbers by name": (
        with_first(arguments={"gen_args_0": 5}),
        ":1: arguments: got 5; expected a valid list",
    ),
    "arguments of nothing": (
        with_first(arguments=[[]]),
        ":1: arguments.0: got []; List should have",
    ),
    "a stop that is a number": (
        with_first(arguments=[["a", {"until": [5]}]]),
        "expected a text or a list of texts as until",
    ),
    "a metric of a number": (with_first(metrics=5), ":1: metrics: got 5; expected a valid list"),
    "a metric of a list": (with_first(metrics=[["a"]]), ":1: metrics.0: got ['a']; expected a valid string"),
    "a score too large": (with_first(metrics=["acc"], acc=10**400), "the acc of the document 0 is 1000"),
    "a reply too large": (with_first(resps=[[["1", "True"]], [[10**400, "True"]]]), "a reply to"),
    "half of a character": (with_first(target="\ud800"), ":1: not JSON: 'utf-8' codec"),
}


def another(doc):
    text = json.dumps(doc, indent=2, ensure_ascii=False)  # lm-eval 0.4.13, evaluator.py
    return {"doc_id": 6, "doc": doc, "doc_hash": hashlib.sha256(text.encode()).hexdigest()}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_pair_is_refused_and_nothing_is_written(made, results, take, tmp_path, case):
    change, said = WRONG[case]
    before = sorted(results.rglob("*"))
    file = changed(samples_file(made[2], "tiny_numbers"), tmp_path, change)
    status, _, error = take(samples_file(made[2], "tiny_words"), file)
    assert status == 2
    assert said in error
    assert error.count("\n") == 1
    assert sorted(results.rglob("*")) == before


@pytest.mark.parametrize(
    ("results_file", "said"),
    [
        ({"n-shot": [1]}, "n-shot: got [1]; expected a valid dictionary"),
        ({"config": {"model_sha": [1]}}, "config.model_sha: got [1]; expected a valid string"),
        ([], "got []; expected a valid dictionary"),
    ],
)
def test_a_results_file_of_another_form_is_refused(made, take, tmp_path, results_file, said):
    file = Path(shutil.copy(samples_file(made[2], "tiny_words"), tmp_path))
    time = file.stem.rpartition("_")[2]
    (tmp_path / f"results_{time}.json").write_text(json.dumps(results_file))
    status, _, error = take(file)
    assert status == 2
    assert f"results_{time}.json: {said}" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["samples_tiny_words_2026-01-01T00-00-00.jsonl", "log.json"])
def test_brackets_without_end_are_refused(take, tmp_path, name):
    (tmp_path / name).write_text("[" * 200_000)
    status, _, error = take(tmp_path / name)
    assert status == 2
    assert "not JSON: maximum recursion depth" in error


def test_other_prompts_and_other_scores_are_said(made, results, take, tmp_path):
    def change(lines):
        lines[0]["arguments"]["gen_args_0"]["arg_0"] = (
            "Example. " + lines[0]["arguments"]["gen_args_0"]["arg_0"]
        )
        lines[1]["acc"] = 1.0 - lines[1]["acc"]
        return lines

    status, told, _ = take(changed(samples_file(made[2], "tiny_numbers"), tmp_path, change))
    assert status == 0
    assert "1 of 6 prompts are not those of the task" in told
    assert "1 items have another acc in the file" in told
    assert "no results file beside it" in told
    assert len(cells(results, "theirs")["tiny_numbers"].warnings) == 3


def test_names_that_are_taken_are_refused(made, results, take):
    file = samples_file(made[2], "tiny_words")
    assert "was measured on tiny_words here" in take(file, variant="magnitude-0.5")[2]
    assert "was measured on tiny_words here" in take(file, variant="dense")[2]
    assert "two files of the task tiny_words" in take(file, file)[2]
    assert "expected a name" in take(file, variant=" ")[2]
    assert "no such file" in take("nowhere.jsonl")[2]


def test_the_same_answers_under_another_name_are_refused(made, results, take):
    file = samples_file(made[2], "tiny_words")
    assert take(file)[0] == 0
    before = cells(results, "theirs")
    status, _, error = take(file, variant="mine")
    assert status == 2
    assert "are here as 'theirs' already" in error
    assert not cells(results, "mine")
    assert take(file)[0] == 0
    assert cells(results, "theirs").keys() == before.keys()


def test_a_scorer_is_refused_for_what_is_not_of_inspect(made, take):
    status, _, error = take(samples_file(made[2], "tiny_words"), more=("--scorer", "match"))
    assert status == 2
    assert "--scorer: got 'match'; it chooses a score of Inspect's logs" in error


# ------------------------------------------------------------------------------ Inspect


def log(samples, **about):
    """A log as Inspect's JSON has it (inspect_ai 0.3, log/_log.py), other keys left out."""
    spec = {
        "created": "2026-01-01T00:00:00+00:00",
        "task": "tiny_words",
        "dataset": {"name": "words"},
        "model": "openai/some-model",
        "config": {},
        "packages": {"inspect_ai": "0.3.200"},
    }
    return {"version": 2, "status": "success", "eval": spec, "samples": samples} | about


def sample(number, question, text, value="C", **more):
    message = {"role": "assistant", "content": text}
    return {
        "id": number,
        "epoch": 1,
        "input": question,
        "target": "x",
        "output": {"model": "some-model", "choices": [{"message": message}], "completion": text},
        "scores": {"match": {"value": value, "answer": text}},
    } | more


def word_samples(**more):
    return [sample(i, doc["question"], f" {doc['gold']}", **more) for i, doc in enumerate(small_tasks.WORDS)]


def write(tmp_path, value):
    file = tmp_path / "log.json"
    file.write_text(json.dumps(value))
    return file


def test_a_log_of_inspect_is_scored_as_our_answers_are(results, take, tmp_path):
    found = word_samples()
    found[0] |= {
        "input": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": found[0]["input"]}]
    }
    found[1]["output"] = {"choices": [{"message": {"content": [{"type": "text", "text": " wrong"}]}}]}
    found[2] |= {"input": "attachment://0a1b", "attachments": {"0a1b": found[2]["input"]}}
    found[3] |= {"error": {"message": "timeout"}, "output": {}}
    status, told, _ = take(write(tmp_path, log(found)))
    assert status == 0
    run = cells(results, "theirs")["tiny_words"]
    scores = {score.metric: (score.value, score.n, score.missing) for score in run.scores}
    assert scores["exact_match@whole"] == (2 / 3, 3, 1)
    assert run.cell.variant.model.name == "openai/some-model"
    assert "asked by Inspect" in told
    assert "1 items have another match in the file than exact_match@whole here" in told  # "C" of " wrong"


def test_multiple_choice_of_inspect_keeps_its_grades_and_says_so(results, take, tmp_path):
    found = [
        sample(
            i, doc["question"], "ANSWER: A", "CI"[i % 2], choices=[" no", " yes"], target="AB"[doc["gold"]]
        )
        for i, doc in enumerate(small_tasks.CHOICES)
    ]
    file = write(tmp_path, log(found))
    status, told, _ = take(file, more=("--task", "tiny_numbers"))
    assert status == 0
    assert "graded by Inspect's scorer match" in told
    (score,) = cells(results, "theirs")["tiny_numbers"].scores
    assert (score.metric, score.value, score.n) == ("acc", 0.5, 6)
    found[0]["target"] = "B"
    said = take(write(tmp_path, log(found)), variant="other", more=("--task", "tiny_numbers"))[2]
    assert "the right answer to 'Is 0 a number?' is ' yes' there and ' no' in tiny_numbers" in said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (log([], status="success"), "not a log of Inspect with its samples"),
        (log(word_samples(), status="error"), "its status is 'error'"),
        (log(word_samples() + word_samples(epoch=2)), "several epochs"),
        (log([sample(0, "Something else?", "a")]), "none of its 1 questions is the text of a field"),
        (log(word_samples()[:3]), "1 of the 4 documents of tiny_words have no answer"),
        (log(word_samples(scores={"a": {"value": "C"}, "b": {"value": "I"}})), "name one with --scorer"),
        (log(word_samples(value={"x": 1})), "expected C, I, P, N or a number"),
        (log(word_samples(value=10**400)), "expected C, I, P, N or a number"),
        (log(word_samples(), eval={"packages": [1]}), "eval.packages: got [1]; expected a valid dictionary"),
        (log(word_samples(scores=[1])), "samples.0.scores: got [1]; expected a valid dictionary"),
        (log(word_samples(output=[1])), "samples.0.output: got [1]; expected a valid dictionary"),
        (log(word_samples(output={"choices": [1]})), "samples.0.output.choices.0: got 1; expected"),
        (log(word_samples(output={"completion": 5})), "samples.0.output.completion: got 5; expected a valid"),
        (log(word_samples(choices=[1])), "samples.0.choices.0: got 1; expected a valid string"),
        (log(word_samples(epoch=[1])), "samples.0.epoch: got [1]; expected a valid integer"),
        (log(word_samples(input=7)), "samples.0.input: got 7; expected a valid string"),
    ],
)
def test_a_log_that_does_not_pair_is_refused(results, take, tmp_path, value, said):
    status, _, error = take(write(tmp_path, value))
    assert status == 2
    assert said in error
    assert error.count("\n") == 1
    assert not cells(results, "theirs")


def test_the_packed_form_of_a_log_is_told_apart(take, tmp_path):
    (tmp_path / "log.eval").write_bytes(b"PK\x03\x04")
    assert "inspect log convert" in take(tmp_path / "log.eval")[2]
