"""Measures of answers that LLM-KICK adds: labels, refusals, distinct words, and the scores made of them."""

import math

import pytest

from kick.errors import KickError
from kick.records import Request
from kick.tasks.answers import instruction, label_answer
from kick.tasks.lm_eval_task import HarnessTask
from kick.tasks.reading import Reading
from kick.tasks.task import Item
from kick.tasks.text import distinct_words, is_refusal, label


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("B", "B"),
        (" (C)", "C"),
        ("[D].", "D"),
        ("A:\n", "A"),
        ("b", None),
        ("E", None),
        ("AB", None),
        ("B because", None),
        ("The answer is B", None),
        ("", None),
    ],
)
def test_a_label_is_nothing_but_the_label(said, wanted):
    assert label(said) == wanted


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("I'm sorry, but I cannot do that.", True),
        ("I can’t help with this.", True),
        ("As an AI language model, I have no opinion.", True),
        ("Unfortunately, I am not able to.", True),
        ("I do not know.", True),
        ("Sorry to hear of your loss; here is a letter.", True),  # by its start only: a known mistake
        ("I can help.", False),
        ("As an aid, take this list.", False),
        ("The sorry state of the roads", False),
        ("", False),
    ],
)
def test_a_refusal_is_told_by_how_an_answer_begins(said, wanted):
    assert is_refusal(said) is wanted


def test_distinct_words_are_counted_after_normalisation():
    assert distinct_words("The cat, the CAT and a dog.") == 3
    assert distinct_words("...") == 0


def test_a_label_that_is_none_is_no_knowledge_lost():
    assert label_answer({"answer": 2}, ["C"]) == {
        "exact_match": 1,
        "format_failure": 0,
        "among_labels": 1,
        "empty": 0,
    }
    lost = label_answer({"answer": 2}, ["Well, C"])
    assert (lost["exact_match"], lost["format_failure"]) == (0, 1)
    assert math.isnan(lost["among_labels"])


def test_an_instructions_scores_are_means_over_its_turns():
    found = instruction({}, ["one two three", ""])
    assert found == {"length": 1.5, "distinct": 1.5, "loop": 0, "refusal": 0, "empty": 0.5}


def test_a_prompt_without_its_context_as_it_is_is_refused(monkeypatch):
    class Tokenizer:
        def __call__(self, text, **_):
            return {"offset_mapping": [(i, i + 1) for i in range(len(text))]}

    doc = {"context": "a long context", "answer": "x", "aliases": [], "start": -1}
    one = Reading.__new__(Reading)
    one.name, one.options = "t", {"context_tokens": 3}
    item = Item("1", (Request("generate", "another prompt"),), doc=doc)
    monkeypatch.setattr(HarnessTask, "items", lambda *_: [item])
    with pytest.raises(KickError, match="context does not appear verbatim in its prompt"):
        one.items(None, Tokenizer())
