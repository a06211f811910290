"""Replicas of kind order: which variants are compressed again, what they are asked, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from kick.catalog import shipped
from kick.errors import KickError
from kick.records import CalibrationSpec, Cell, ModelSpec, Step, TaskSpec, Variant
from tests.support.small_tables import HEAD, planned

ORDERS = "replicas: [batch, {order: 2}]\n"


def test_variants_that_feed_their_errors_forward_are_compressed_again():
    found = planned(HEAD + "  - {method: [magnitude, wanda], sparsity: 0.5}\n" + ORDERS)
    names = ["dense", "dense-batch", "magnitude-0.5", "wanda-0.5", "wanda-0.5-order1", "wanda-0.5-order2"]
    assert [one.name for one in found.variants] == names
    assert [one.replica for one in found.variants[3:]] == [None, "order", "order"]
    assert [one.calibration.order for one in found.variants[3:]] == [0, 1, 2]
    assert {one.calibration.seed for one in found.variants[3:]} == {0}
    assert len(set(found.keys)) == len(found.keys)


def test_they_are_asked_perplexity_and_fidelity_only_and_cost_as_much():
    found = planned(HEAD + "  - {method: wanda, sparsity: 0.5}\nlimit: 10\n" + ORDERS)
    asked = {job.variant.name: [cell.task.name for cell in job.cells] for job in found.jobs}
    assert asked["wanda-0.5"] == ["facts", "prose", "diverge"]
    assert asked["wanda-0.5-order1"] == asked["wanda-0.5-order2"] == ["prose", "diverge"]
    dense = {cell.task.name: cell.key for cell in found.jobs[0].cells}
    diverge = {cell.variant.name: cell.reference for cell in found.cells if cell.task.name == "diverge"}
    assert diverge["wanda-0.5-order2"] == dense["diverge"]
    whole, again = (found.estimates[name] for name in ("wanda-0.5", "wanda-0.5-order1"))
    assert again.seconds["compress"] == whole.seconds["compress"]
    assert again.seconds["answer"] < whole.seconds["answer"]
    assert 3 * again.disk == 2 * whole.disk  # of three tasks with as many items two are asked
    assert found.seconds == pytest.approx(sum(one.total for one in found.estimates.values()))


def test_a_recipe_and_each_seed_have_orders_of_their_own():
    recipe = "  - {recipe: [{method: magnitude, sparsity: 0.5}, {method: gptq, bits: 4}], name: Ours}\n"
    found = planned(HEAD + recipe + "seeds: [0, 1]\nreplicas: [{order: 1}]\n")
    assert [one.name for one in found.variants[1:]] == [
        "Ours",
        "Ours-order1",
        "Ours-seed1",
        "Ours-seed1-order1",
    ]
    assert {one.label for one in found.variants[1:]} == {"Ours"}


WANDA = "  - {method: wanda, sparsity: 0.5}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (WANDA + "replicas: [order]\n", ["replicas[0]", "{order: 3}"]),
        (WANDA + "replicas: [{order: 0}]\n", ["replicas[0].order: got 0", "from 1 to 99"]),
        (WANDA + "replicas: [{order: three}]\n", ["replicas[0].order: got three", "whole number"]),
        (WANDA + "replicas: [{orders: 3}]\n", ["replicas[0].orders", "did you mean 'order'"]),
        (WANDA + "replicas: [{order: 1}, {order: 2}]\n", ["replicas", "order is given twice"]),
        (
            WANDA + "calibration: {sequences: 2}\nreplicas: [{order: 2}]\n",
            ["replicas[0].order: got 2", "have 1 other"],
        ),
        ("  - {method: rtn, bits: 4}\nreplicas: [{order: 1}]\n", ["replicas[0]", "no variant here"]),
    ],
)
def test_orders_that_there_cannot_be_are_refused(text, words):
    with pytest.raises(KickError) as caught:
        planned(HEAD + text)
    for word in words:
        assert word in str(caught.value)


def test_without_a_task_that_rounding_moves_they_are_refused():
    text = HEAD.replace("suite", "facts") + WANDA + "replicas: [{order: 1}]\n"
    with pytest.raises(KickError, match=r"m.yaml:6: replicas\[0\]: order is measured on tasks of perplexity"):
        planned(text)


def test_the_order_is_part_of_the_key_and_order_0_is_as_if_absent():
    model = ModelSpec("tiny", None, "float32", "weights", "tokenizer")
    calibration = CalibrationSpec("wikitext2", 8, 64, 1, digest="text")
    variant = Variant("w", model, (Step("wanda", {"sparsity": "0.5"}),), calibration)
    cell = Cell(variant, TaskSpec("facts", "d1", "s"))
    assert cell.key == "1bc1efa0f2c7b369"  # as before there were orders
    keys = {cell.key}
    for order in (1, 2):
        again = replace(variant, replica="order", calibration=replace(calibration, order=order))
        keys.add(replace(cell, variant=again).key)
    assert len(keys) == 3


def test_the_documents_name_the_methods_whose_order_counts():
    told = Path("docs/matrix.md").read_text("utf-8").partition("**Noise of compression.**")[2]
    told = told.partition("\n\n")[0]
    assert {name for name in shipped() if f"`{name}`" in told} == {
        name for name, facts in shipped().items() if facts.feeds_forward
    }
