"""Windows of perplexity know their documents, and what stored answers are scored to later keeps them."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import yaml

from kick import tasks
from kick.errors import KickError
from kick.model import load, resolve
from kick.records import Response, Sample, TaskSpec
from kick.tasks import evaluate
from kick.tasks.perplexity import documents
from kick.tasks.protocol import protocols
from kick.tasks.task import digest

protocols["perplexity"]


class Slow:
    """The same tokens, without their places."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __call__(self, text, verbose=False):
        return {"input_ids": self.tokenizer(text, verbose=verbose)["input_ids"]}


@pytest.fixture(scope="module")
def tokenizer():
    return load(resolve("smoke"))[1]


def prose(seed, words):
    """Text in which no window occurs twice."""
    return " ".join(np.random.default_rng(seed).choice(WORDS, words))


WORDS = tuple("red fox night the cat sleeps moon under water long blue dog eats jumps short day".split())  # noqa: SIM905


def write(folder, rows, **own):
    folder.mkdir(exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    config = {
        "task": "corpus",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "text",
        "metadata": {"kick": {"protocol": "perplexity", "seqlen": 32, **own}},
    }
    (folder / "corpus.yaml").write_text(yaml.safe_dump(config))
    return tasks.load(["corpus"], None, [folder])["corpus"]


def numbers(task, tokenizer):
    return [item.doc["document"] for item in task.items(TaskSpec("corpus"), tokenizer)]


def test_a_window_belongs_to_the_document_in_which_its_middle_lies(tmp_path, tokenizer):
    rows = [prose(1, 120), prose(2, 75), prose(3, 90)]
    task = write(tmp_path / "t", rows)
    found = numbers(task, tokenizer)
    text = "\n\n".join(rows)
    ends = [len(tokenizer(text[: text.index(row) + len(row)])["input_ids"]) for row in rows]
    wanted = [1 + int(np.searchsorted(ends, 32 * i + 16, side="right")) for i in range(len(found))]
    assert set(found) == {1, 2, 3}
    assert sum(a != b for a, b in zip(found, wanted, strict=True)) == 0
    assert sum(a != b for a, b in zip(found, numbers(task, Slow(tokenizer)), strict=True)) <= 2


def test_documents_of_one_text_are_found_by_their_first_line(tmp_path, tokenizer):
    text = "\n\n".join(f" = Title {i} = \n\n = = Part = = \n\n{'the red fox sleeps ' * 30}" for i in range(5))
    kept = write(tmp_path / "t", [text], document=r"^ = [^=\n]+ =\s*$")
    assert sorted(set(numbers(kept, tokenizer))) == [1, 2, 3, 4, 5]
    blocks = numbers(write(tmp_path / "u", [text]), tokenizer)
    size = round(len(blocks) ** (1 / 3))
    assert size > 1
    assert blocks == [i // size for i in range(len(blocks))]
    assert write(tmp_path / "u", [text]).digest == kept.digest  # nothing else is asked


def test_wikitexts_own_titles_are_told_from_its_headings():
    own = tasks.index.own()["kick_perplexity"][1]["metadata"]["kick"]["document"]
    text = " = Robert Boulter = \n\n\n An actor . \n\n = = Career = = \n\n = = = 2000 = = = \n\n = Du Fu = \n"
    assert [found.group().strip() for found in re.finditer(own, text, re.MULTILINE)] == [
        "= Robert Boulter =",
        "= Du Fu =",
    ]


def test_what_is_no_regular_expression_is_refused(tmp_path):
    with pytest.raises(KickError, match="not a regular expression"):
        write(tmp_path / "t", ["a"], document="(")


def test_one_document_is_cut_into_blocks():
    assert list(documents(np.arange(8), [0])) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(set(documents(np.arange(141), [0]))) == 29


def test_the_score_tells_how_many_documents_it_rests_on_and_keeps_that(tmp_path, tokenizer):
    task = write(tmp_path / "t", [prose(1, 120), prose(2, 120), prose(3, 120)])
    items = task.items(TaskSpec("corpus"), tokenizer)
    answers = [[Response(logprob=-31.0 * (1 + item.doc["document"]), count=31)] for item in items]
    samples = evaluate.score(task, items, answers)
    (score,) = evaluate.summarise(task, samples)
    assert (score.metric, score.n, score.units) == ("perplexity", len(items), 3)
    (again,) = evaluate.rescore(task, TaskSpec("corpus"), samples).scores
    assert again == score
    old = [Sample(**{**vars(one), "scores": {"nll": one.scores["nll"]}}) for one in samples]
    (before,) = evaluate.rescore(task, TaskSpec("corpus"), old).scores
    assert before.units is None
    assert before.value == score.value
    assert before.high - before.low < score.high - score.low


class Twice:
    """Three windows of which the first two have the same tokens."""

    def __call__(self, text, verbose=False):
        return {"input_ids": [*range(32), *range(32), *range(1, 33)]}


class Lengths:
    """Answers each request with a loss of its own."""

    def answer(self, requests, on_done=None):
        found = [Response(logprob=-float(number), count=31) for number in range(len(requests))]
        for number, response in enumerate(found if on_done else ()):
            on_done(number, response)
        return found


def test_equal_windows_have_ids_of_their_own_and_are_scored_again(tmp_path):
    """They shared one, so that a cell with them could not be scored again and did not pair."""
    task, spec = write(tmp_path / "t", ["x " * 50]), TaskSpec("corpus")
    items = task.items(spec, Twice())
    first, second, third = (item.id for item in items)
    assert len({first, second, third}) == 3
    assert (first, third) == (digest(list(range(32))), digest(list(range(1, 33)))), "unique ones keep theirs"
    found = evaluate.evaluate(task, items, Lengths())
    again = evaluate.rescore(task, spec, found.samples)
    assert again.scores == found.scores
    old = [replace(sample, item=first) if sample.item == second else sample for sample in found.samples]
    again = evaluate.rescore(task, spec, old)  # stored by an earlier version: paired by their order
    assert again.scores == found.scores
    assert [sample.responses for sample in again.samples] == [sample.responses for sample in found.samples]
