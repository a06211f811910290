"""`stop: decided` in a matrix: which cells get a rule, what of it counts in keys, and what does not."""

from dataclasses import replace

import pytest

from kick.errors import KickError
from kick.matrix import stopping
from kick.matrix.load import load, with_stop
from kick.stats.sequential import Rule, looks
from tests.support.small_tables import HEAD, SOURCES, TASKS, bare, planned

TEXT = HEAD + "  - {method: rtn, bits: 4}\nreplicas: [batch, dtype]\n"


def by_place(text, sources=SOURCES):
    return {(cell.variant.name, cell.task.name): cell for cell in planned(text, sources).cells}


def test_a_variant_gets_the_rule_and_dense_with_its_replicas_none():
    plain, stopped = by_place(TEXT), by_place(TEXT + "stop: decided\n")
    assert plain.keys() == stopped.keys()
    for place, cell in stopped.items():
        if place[0] == "rtn-4bit":
            assert cell.task == replace(plain[place].task, stop=Rule().text)
            assert cell.reference == plain["dense", place[1]].key
            assert cell.key != plain[place].key
        else:
            assert (cell, cell.key) == (plain[place], plain[place].key)


@pytest.mark.parametrize(
    ("keys", "rule"),
    [
        ("margin: 0.1\n", Rule(margin=0.1)),
        ("looks: [24, 60]\n", Rule(looks=(24, 60))),
        ("precision: 2\n", Rule(precision=0.02)),
    ],
)
def test_margin_precision_and_looks_are_in_the_rule_and_so_in_the_key(keys, rule):
    plain, other = by_place(TEXT + "stop: decided\n"), by_place(TEXT + "stop: decided\n" + keys)
    place = "rtn-4bit", "facts"
    assert Rule.of(other[place].task.stop) == rule
    assert other[place].key != plain[place].key


def test_a_margin_without_stop_changes_no_key():
    assert planned(TEXT + "margin: 0.1\n").keys == planned(TEXT).keys


@pytest.mark.parametrize(
    ("primary", "precision"), [("acc", 0.02), ("perplexity", 0.02), ("fdt", 2.0), ("length", 2.0), ("", 0.02)]
)
def test_points_are_hundredths_but_of_scores_with_a_unit_of_their_own(primary, precision):
    about = {"primary": primary} if primary else {}
    tasks = {"facts": replace(TASKS["facts"], about=about)}
    sources = replace(SOURCES, tasks=lambda names, root: tasks)
    found = by_place(TEXT + "stop: decided\nprecision: 2\n", sources)
    assert Rule.of(found["rtn-4bit", "facts"].task.stop).precision == precision


def test_the_command_line_turns_it_on_and_off():
    on = bare(TEXT + "stop: decided\nprecision: 2\nlooks: [24]\n")
    off = with_stop(on, "off")
    assert (off.stop, off.precision, off.looks) == (None, None, None)
    assert with_stop(on, None) == with_stop(on, "decided") == on
    assert with_stop(bare(TEXT), "decided").stop == "decided"
    assert with_stop(load("smoke"), "decided").marks == load("smoke").marks
    with pytest.raises(KickError, match=r"--stop: unknown value 'decide'; did you mean 'decided'"):
        with_stop(on, "decide")


def test_a_job_costs_what_it_is_expected_to_ask():
    tasks = {"facts": replace(TASKS["facts"], about={"primary": "acc"}, size=256)}
    sources = replace(SOURCES, tasks=lambda names, root: tasks)
    whole, early = planned(TEXT, sources), planned(TEXT + "stop: decided\n", sources)
    answer = early.estimates["rtn-4bit"].seconds["answer"]
    assert early.estimates == whole.estimates
    at = looks(256, Rule())
    share = sum(at) / len(at) / 256
    assert 0.3 < share < 0.5
    costs = {job.variant.name: job.cost for job in early.jobs}
    assert costs["dense"] == whole.jobs[0].cost
    saved = whole.estimates["rtn-4bit"].total - costs["rtn-4bit"]
    assert saved == pytest.approx(answer * (1 - share), rel=0.01)


@pytest.mark.parametrize(
    ("items", "dense", "words"),
    [
        (24, None, "facts: a match takes at least 59 items, and there are 24"),
        (96, None, "facts: 96 items can show a match if dense scores 6"),
        (96, 0.54, "facts: dense scores 54%, so that a match takes at least 11"),
        (256, None, ""),
        (256, 0.54, ""),
        (256, 0.0, ""),
    ],
)
def test_it_is_said_where_no_match_can_be_shown(items, dense, words):
    task = replace(TASKS["facts"], about={"primary": "acc"})
    said = stopping.cannot_match(bare(TEXT), task, items, dense)
    assert said.startswith(words)
    assert bool(said) == bool(words)
    assert stopping.cannot_match(bare(TEXT), replace(task, about={"primary": "rougeL"}), items, dense) == ""
