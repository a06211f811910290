"""Waves that would read more than all items in one call are asked in one call, and store the same."""

import random

import pytest

from kick.records import Request, Response
from kick.stats.sequential import Decision
from kick.tasks import ahead, evaluate
from kick.tasks.task import Item

LOOKS = (24, 43, 78, 142, 256)


def asked(count, subjects, examples, question=100):
    """Items in random order, each with its subject's examples before its own question."""
    draw = random.Random(0)
    shots = [f"{subject:4}" + draw.choice("abc") * (examples - 4) for subject in range(subjects)]
    items = []
    for number in range(count):
        context = draw.choice(shots) + f"{number:<{question}}"
        items.append(Item(str(number), (Request("generate", context, max_tokens=1),)))
    return items


def test_characters_counts_what_is_read_once():
    items = asked(50, 1, 1000)
    whole = 1000 + 50 * 100
    assert whole - 50 <= ahead.characters(items) <= whole  # neighbours' numbers may begin alike
    assert ahead.characters(items[:1]) == 1100
    assert ahead.characters(asked(50, 1, 60)) > 50 * 100 + 49 * 60  # too short to be shared
    assert ahead.characters([]) == 0


@pytest.mark.parametrize(("one", "other", "alike"), [("abc", "abd", 2), ("", "a", 0), ("ab", "abc", 2)])
def test_a_common_beginning_is_found_by_halving(one, other, alike):
    assert ahead._common(one, other) == ahead._common(other, one) == alike
    assert ahead._common("x" * 1000 + one, "x" * 1000 + other) == 1000 + alike


def test_many_subjects_with_long_examples_are_asked_in_one_call():
    assert ahead.calls(asked(256, 57, 2400), LOOKS) == [list(LOOKS)]


@pytest.mark.parametrize(("count", "subjects", "examples"), [(256, 1, 600), (256, 57, 0), (14_042, 57, 2400)])
def test_others_are_asked_in_waves(count, subjects, examples):
    looks = [*LOOKS, 462, 831, 1496, 2693, 4847, 8725, 14_042]
    looks = [look for look in looks if look <= count]
    assert ahead.calls(asked(count, subjects, max(examples, 4)), looks) == [[look] for look in looks]


class Task:
    name = "fake"
    needs_reference = True  # its texts are not looked at

    def follow_up(self, items, responses):
        return []

    def score(self, items, responses):
        return [{"acc": float(int(item.id) % 2)} for item in items]

    def aggregates(self):
        return {}

    def higher_is_better(self):
        return {}


class Waves:
    """Decides at its second look."""

    looks = LOOKS

    def __init__(self):
        self.seen = []

    def decide(self, samples):
        self.seen.append(len(samples))
        done = len(samples) >= 43
        return Decision(done, "worse" if done else "undecided", "decided" if done else "", len(samples), 256)


def finished(steps, calls):
    """What the steps end with, each phase answered; its size goes into `calls`."""
    while True:
        try:
            phase = next(steps)
        except StopIteration as end:
            return end.value
        calls.append(len(phase.todo))
        for index in phase.todo:
            phase.kept.add(index, Response(text="x", count=1))


@pytest.mark.parametrize(("subjects", "examples", "first"), [(57, 2400, 256), (1, 600, 24)])
def test_the_same_is_stored_however_it_is_asked(subjects, examples, first):
    items, waves, calls = asked(256, subjects, examples), Waves(), []
    found = finished(evaluate.in_waves(Task(), items, waves), calls)
    assert calls[0] == first
    assert sum(calls) == (256 if first == 256 else 43)
    assert waves.seen == [24, 43]
    assert [sample.item for sample in found.samples] == [str(n) for n in range(43)]
    assert found.counts["items"] == 43
