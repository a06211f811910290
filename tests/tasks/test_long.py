"""Long contexts: what is asked is where it is said to be, and prompts have the length that they claim."""

import re

import pytest

from kick import tasks
from kick.errors import KickError
from kick.model import resolve
from kick.model.source import tokenizer_of
from kick.records import TaskSpec
from kick.tasks import index, long

DEPTHS = ["depth 0 %", "depth 25 %", "depth 50 %", "depth 75 %", "depth 100 %"]


def rows(kind, length=1024):
    return long.documents(kind, length)["test"].to_list()


@pytest.mark.parametrize("kind", long.KINDS)
def test_each_depth_is_asked_of_each_text_and_the_same_every_time(kind):
    found = rows(kind)
    assert [row["depth"] for row in found] == DEPTHS * long.DOCUMENTS
    assert found == rows(kind)
    assert len({(row["text"], row["question"]) for row in found}) == len(found)


@pytest.mark.parametrize("kind", ["needle", "needles"])
def test_a_needle_is_in_the_text_once_at_its_depth(kind):
    for row in rows(kind):
        (name,) = re.findall(r"number of (.*)\?", row["question"])
        fact = f"The number of {name} is {row['answer']}."
        assert row["text"].count(name) == row["text"].count(fact) == 1
        place = row["text"].index(fact) / (len(row["text"]) - len(fact))
        assert place == pytest.approx(int(row["depth"].split()[1]) / 100, abs=0.1)


def test_boxes_lead_to_the_answer():
    for row in rows("variables"):
        boxes = dict(re.findall(r"The (\w+) box holds the number (\d+)\.", row["text"]))
        for box, other in re.findall(r"The (\w+) box holds the same number as the (\w+) box", row["text"]):
            boxes[box] = boxes[other]
        (asked,) = re.findall(r"the (\w+) box hold", row["question"])
        assert boxes[asked] == row["answer"]
        assert len(boxes) == 6
        assert len(set(boxes.values())) == 2


def test_counts_are_what_is_counted():
    for row in rows("count"):
        assert row["text"].count(long.COUNTED) == int(row["answer"])
        assert 2 <= int(row["answer"]) <= 9


@pytest.mark.parametrize("length", [512, 1024])
def test_the_passage_is_there_and_has_the_answer(length):
    for row in rows("qa", length):
        assert any(answer.lower() in row["text"].lower() for answer in (row["answer"], *row["aliases"]))
    shared = {row["text"] for row in rows("qa", length)}
    assert len(shared) == (long.DOCUMENTS if length > 512 else 5 * long.DOCUMENTS)


def test_prompts_have_their_length_and_fit_the_window():
    tokenizer = tokenizer_of(resolve("smollm2-135m"))
    names = ["kick_long_qa_512", "kick_long_needles_512", "kick_long_count_512", "kick_long_needles_8000"]
    for name, task in tasks.load(names).items():
        length = int(name.split("_")[-1])
        items = task.items(TaskSpec(name, limit=6), tokenizer)
        sizes = [len(tokenizer(item.requests[0].context)["input_ids"]) for item in items]
        assert 0.8 * length <= min(sizes) <= max(sizes) <= length
        assert items[0].group == "depth 0 %"
        assert items[0].requests[0].kind == "generate"


def test_all_kinds_and_lengths_have_a_task():
    names = index.expand(["kick_long"])
    assert len(names) == len(long.KINDS) * 5 == len(set(names))


def test_an_unknown_kind_is_refused():
    with pytest.raises(KickError, match="needle"):
        long.documents("nedle", 512)
