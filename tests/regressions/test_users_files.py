"""A user's file is asked and scored as it is written: no text is guessed to be a date, no number rewritten.

The right values are the files' own characters.
"""

from __future__ import annotations

import gzip
import json

import datasets
import pytest

from kick import tasks
from kick.errors import KickError
from kick.records import Response, TaskSpec
from kick.tasks import evaluate
from kick.tasks.files import Rows, dataset

TASK = """\
task: {name}
dataset_path: {form}
dataset_kwargs: {{data_files: {{test: {file}}}{more}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}} ="
doc_to_target: answer
generation_kwargs: {{until: ["\\n"], max_gen_toks: 8, do_sample: false}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
filter_list:
  - {{name: strip, filter: [{{function: remove_whitespace}}, {{function: take_first}}]}}
"""
JSON = {
    "dates": ['"1969-07-20"', '"1989-11-09"'],
    "times": ['"2020-01-01T00:00:00Z"', '"10:30"'],
    "mixed": ["3", "4.5", "100"],
    "kinds": ["3", '"three"', "[1, 2]"],
    "digits": ["3.50", "1e3", "12345678901234567890", "1.0"],
    "text": ['"007"', '"3"', '"NaN"', '"a\\u2028b"'],
    "absent": ['"x"', None, '"z"'],
}


def answers(folder, name: str, form: str, content: bytes, more: str = ""):
    """What kick takes as each row's answer, what it asks, and the score of that answer."""
    file = folder / f"{name}.{form}"
    file.write_bytes(content)
    (folder / f"{name}.yaml").write_text(TASK.format(name=name, form=form, file=file, more=more))
    task = tasks.load([name], None, [folder])[name]
    items = task.items(TaskSpec(name), None)
    found = evaluate.score(
        task, items, [[Response(text=f" {item.target}", tokens=(), count=1)] for item in items]
    )
    asked = [item.requests[0].context.removesuffix(" =") for item in items]
    return [item.target for item in items], asked, [dict(sample.scores)["exact_match"] for sample in found]


@pytest.mark.parametrize("name", sorted(JSON))
@pytest.mark.parametrize("layout", ["lines", "list", "field", "gzip"])
def test_json_is_asked_and_scored_as_it_is_written(name, layout, tmp_path):
    """Texts as text, numbers digit by digit; what a row lacks is None, as in any column."""
    values = JSON[name]
    rows = [
        f'{{"question": {value}, "answer": {value}}}' if value else '{"question": "q"}' for value in values
    ]
    text = "\n".join(rows) if layout in ("lines", "gzip") else "[" + ",\n".join(rows) + "]"
    text = f'{{"rows": {text}}}' if layout == "field" else text
    data = gzip.compress(text.encode()) if layout == "gzip" else text.encode()
    found, asked, scores = answers(tmp_path, name, "json", data, ", field: rows" if layout == "field" else "")
    written = [json.loads(v) if v and v.startswith('"') else str(v) for v in values]
    assert found == written
    assert asked == [w if v else "q" for v, w in zip(values, written, strict=True)]
    assert scores == [1.0] * len(values)


@pytest.mark.parametrize(
    "column", [["1969-07-20", "x"], ["007", "08"], ["1.50", "2"], ["true", "NA"], ["3", "14"], ["", "null"]]
)
def test_csv_likewise(column, tmp_path):
    text = "question,answer\n" + "".join(f"{value}?,{value}\n" for value in column)
    found, asked, _ = answers(tmp_path, "table", "csv", text.encode())
    assert found == column
    assert asked == [f"{value}?" for value in column]


def test_a_column_of_places_is_one_of_numbers(tmp_path):
    (tmp_path / "mc.csv").write_text("q,gold\nno?,0\nyes?,1\n")
    (tmp_path / "mc.yaml").write_text(
        f"task: mc\ndataset_path: csv\ndataset_kwargs: {{data_files: {{test: {tmp_path}/mc.csv}}}}\n"
        'test_split: test\noutput_type: multiple_choice\ndoc_to_text: "{{q}}"\n'
        'doc_to_choice: [" no", " yes"]\ndoc_to_target: gold\n'
    )
    items = tasks.load(["mc"], None, [tmp_path])["mc"].items(TaskSpec("mc"), None)
    assert [item.target for item in items] == [" no", " yes"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"a": 1}\n{"a": \n', r"data\.json:2: not JSON"),
        ("[1, 2]", "row 1 is '1'"),
        ("3\n4\n", "row 1 is '3'"),
    ],
)
def test_a_file_of_another_form_is_told_with_its_line(content, words, tmp_path):
    with pytest.raises(KickError, match=words):
        answers(tmp_path, "data", "json", content.encode())


def test_rows_do_what_a_dataset_does():
    """With the values that Arrow keeps, both give the same; with others, they are given as they are."""
    kept = [{"a": str(i), "b": i} for i in range(7)]
    arrow, ours = dataset(kept), Rows(kept)
    assert isinstance(arrow, datasets.Dataset)
    for change in (
        lambda d: d.map(lambda row: {"c": row["b"] + 1}),
        lambda d: d.map(lambda row: {"c": 1}, remove_columns=["a"]),
        lambda d: d.filter(lambda row: row["b"] % 2),
        lambda d: d.select([3, 1]),
        lambda d: d.shuffle(seed=3),
        lambda d: d.rename_column("a", "z"),
        lambda d: d.remove_columns("a"),
        lambda d: d.add_column("c", list(range(7))),
    ):
        theirs, mine = change(arrow), change(ours)
        assert mine.to_list() == theirs.to_list()
        assert mine.column_names == theirs.column_names
    assert (ours["a"], ours[2], ours[1:3]) == (arrow["a"][:], arrow[2], arrow[1:3])
    odd = [{"a": 1, "n": {"x": 1}}, {"a": "one", "n": {"y": 2}}]
    assert dataset(odd).to_list() == odd
