"""A task from a table: columns found, answers placed, nothing overwritten, and the result runs."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kick import cli, tasks
from kick.errors import KickError
from kick.records import Response, TaskSpec
from kick.store import Store
from kick.tasks.new import Columns, write

OPEN = "Question,Answer\nCapital of France?,Paris\nTwo and two?,4\n"


def table(folder, name, text):
    file = folder / name
    file.write_text(text, "utf-8")
    return file


def made(folder, file, **columns):
    """The task of a table, loaded."""
    written, _ = write(file, folder / "mine", Columns(**columns))
    return tasks.load([written.stem], None, [folder / "mine"])[written.stem]


def scores(task, *answers):
    items = task.items(TaskSpec(task.name), None)
    return task.score(items, [[Response(text=text)] for text in answers])


def targets(task):
    return [item.target for item in task.items(TaskSpec(task.name), None)]


def test_open_questions_are_scored_whatever_blanks_the_answer_begins_with(tmp_path):
    """A model goes on behind "Answer:" with a blank, which is not a mistake."""
    task = made(tmp_path, table(tmp_path, "capitals.csv", OPEN))
    items = task.items(TaskSpec(task.name), None)
    assert items[0].requests[0].context == "Question: Capital of France?\nAnswer:"
    assert [row["exact_match"] for row in scores(task, " paris.", "  5")] == [1.0, 0.0]


def test_signs_and_letters_are_compared_as_text(tmp_path):
    """By words -5 would be 5, and "A" an article, which is never right."""
    task = made(tmp_path, table(tmp_path, "signs.csv", "q,answer\nThree minus eight?,-5\nFirst letter?,A\n"))
    assert [row["exact_match"] for row in scores(task, " -5 ", " a")] == [1.0, 1.0]
    assert [row["exact_match"] for row in scores(task, " 5", " b")] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "question,choices,answer\nWhich?,red | green | blue,green\n"),
        ("b.tsv", "prompt\tA\tB\tC\tlabel\nWhich?\tred\tgreen\tblue\tB\n"),
        ("c.jsonl", '{"question": "Which?", "choices": ["red", "green", "blue"], "answer": "b"}\n'),
        ("d.csv", "question,option_1,option_2,option_3,answer\nWhich?,red,green,blue,2\nOr?,x,y,z,3\n"),
        ("e.csv", "question,a,b,c,gold\nWhich?,red,green,blue,1\nOr?,x,y,,0\n"),
    ],
)
def test_choices_in_one_column_or_several_and_answers_as_text_letter_or_number(tmp_path, name, text):
    task = made(tmp_path, table(tmp_path, name, text))
    item = task.items(TaskSpec(task.name), None)[0]
    assert [request.continuation for request in item.requests] == [" red", " green", " blue"]
    assert targets(task)[0] == "green"


def test_a_parquet_table_and_columns_by_their_names(tmp_path):
    rows = [{"frage": "Hauptstadt von Frankreich?", "antwort": ["Paris", "paris"], "answer": "no"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "fragen.parquet")
    task = made(tmp_path, tmp_path / "fragen.parquet", question="frage", answer="antwort")
    assert targets(task) == ["Paris"]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("x.csv", "ask,reply\na,b\n", ["no column of questions", "ask, reply", "--question"]),
        ("x.csv", "question,answer\na,\n", ["row 1, column answer", "expected: text"]),
        ("x.csv", "question,answer\n", ["has no rows"]),
        ("x.csv", "question,a,b,answer\nq,x,y,z\n", ["row 1", "'z' is none of the choices"]),
        ("x.csv", "question,a,b,c,answer\nq,x,y,z,1\n", ["count from 0 or from 1"]),
        ("x.csv", "question,a,b,answer\nq,x,x,A\n", ["at least two, all different"]),
        ("x.txt", "question", ["expected: a table"]),
        ("kick_mini_mcq.csv", OPEN, ["exists already", "--name"]),
        ("hellaswag.csv", OPEN, ["exists already", "--name"]),
    ],
)
def test_what_is_no_table_of_questions_is_refused(tmp_path, name, text, words):
    with pytest.raises(KickError) as caught:
        write(table(tmp_path, name, text), tmp_path / "mine")
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert not (tmp_path / "mine").exists()


def test_nothing_is_written_over(tmp_path):
    file = table(tmp_path, "mine.csv", OPEN)
    (tmp_path / "mine.jsonl").write_text("another's")
    with pytest.raises(KickError, match=r"mine\.jsonl exists already"):
        write(file, tmp_path)
    assert not (tmp_path / "mine.yaml").exists()


def test_rows_that_are_as_they_are_to_be_are_not_copied(tmp_path):
    rows = '{"question": "a", "answer": "b"}\n'
    write(table(tmp_path, "mine.jsonl", rows), tmp_path)
    assert (tmp_path / "mine.jsonl").read_text() == rows


def test_the_command_and_a_run_of_what_it_wrote(tmp_path, monkeypatch, capsys):
    """From another folder than the task's: data files are relative to the task file."""
    monkeypatch.chdir(tmp_path)
    table(tmp_path, "capitals.csv", OPEN)
    with pytest.raises(SystemExit) as ended:
        cli.main(["new", "task", "capitals.csv"])
    assert not ended.value.code
    told = capsys.readouterr()
    assert told.out.split() == ["my_tasks/capitals.yaml", "my_tasks/capitals.jsonl"]
    assert "--tasks my_tasks" in told.err
    table(tmp_path, "m.yaml", "name: m\nmodel: smoke\ntasks: [capitals]\nvariants: [dense]\nreplicas: []\n")
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", "m.yaml", "--tasks", "my_tasks", "--executor", "inline"])
    assert not ended.value.code
    (result,) = Store("results", "m").runs()
    assert {score.metric for score in result.scores} == {
        *("exact_match", "f1", "contains", "empty"),
        *("answer_tokens", "unfinished"),
    }


@pytest.mark.parametrize("form", ["json", "csv", "parquet"])
def test_data_files_are_relative_to_the_task_file_and_no_digest_knows_the_folder(tmp_path, monkeypatch, form):
    rows = [{"q": "a", "answer": "x"}, {"q": "b", "answer": "y"}]
    digests = []
    for place in ("here", "there/deep"):
        folder = tmp_path / place
        (folder / "data").mkdir(parents=True)
        if form == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), folder / "data" / "rows.parquet")
        else:
            lines = [json.dumps(row) for row in rows] if form == "json" else ["q,answer", "a,x", "b,y"]
            (folder / "data" / f"rows.{form}").write_text("\n".join(lines) + "\n")
        (folder / "base.yaml.inc").write_text(
            f"dataset_path: {form}\ndataset_kwargs: {{data_files: {{test: data/rows.{form}}}}}\n"
        )
        (folder / "mine.yaml").write_text(
            "include: base.yaml.inc\ntask: mine\ntest_split: test\noutput_type: generate_until\n"
            'doc_to_text: "{{q}}"\ndoc_to_target: answer\nmetadata: {version: 1}\n'
        )
        monkeypatch.chdir(tmp_path)
        task = tasks.load(["mine"], None, [folder])["mine"]
        assert [item.target for item in task.items(TaskSpec("mine"), None)] == ["x", "y"]
        digests.append((task.digest, task.scoring))
    assert digests[0] == digests[1]
