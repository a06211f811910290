"""Plans over kick's own tables: the presets, and what the real methods, tasks and corpora refuse."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kick.catalog import level_of
from kick.errors import KickError
from kick.matrix.load import load, parse
from kick.matrix.plan import plan
from kick.matrix.rates import Rates
from kick.matrix.sources import own_sources
from kick.matrix.variants import expand


@pytest.fixture(scope="module")
def sources():
    """kick's own, with the tiny model whatever the name: nothing is converted."""
    own = own_sources()
    return replace(own, resolve=lambda name, revision, dtype: own.resolve("smoke", None, dtype))


def test_smoke_is_three_variants_on_two_tasks(sources):
    found = plan(load("smoke"), sources=sources, rates=Rates())
    assert [variant.name for variant in found.variants] == ["dense", "wanda-0.5", "rtn-4bit-g32"]
    assert [cell.task.limit for cell in found.cells[:2]] == [8, 2]
    assert len(set(found.keys)) == 6
    assert found.variants[0].model.digest
    assert found.variants[1].calibration.digest
    assert found.seconds < 20


def test_demo_has_a_limit_for_every_task(sources):
    found = plan(load("demo"), sources=sources, rates=Rates())
    assert len(found.variants) == 9
    assert {cell.task.name: cell.task.limit for cell in found.cells} == load("demo").limit


def test_demo_full_has_more_levels_a_recipe_a_replica_and_no_limit(sources):
    found = plan(load("demo-full"), sources=sources, rates=Rates())
    labels = {variant.name for variant in found.variants}
    assert {"wanda-0.7", "magnitude-0.7", "gptq-3bit-g32", "wanda-0.5+rtn-4bit-g32", "dense-batch"} <= labels
    assert {cell.task.limit for cell in found.cells} == {None}


BAD = {
    "method": ("variants: [{method: gtpq, bits: 4}]", ["unknown method 'gtpq'", "'gptq'"]),
    "option": ("variants: [{method: wanda, sparsty: 0.5}]", ["unknown option 'sparsty'", "'sparsity'"]),
    "option of another method": ("variants: [{method: rtn, sparsity: 0.5}]", ["rtn", "'sparsity'"]),
    "missing option": ("variants: [{method: gptq}]", ["gptq needs the option 'bits'"]),
    "share above one": ("variants: [{method: wanda, sparsity: 1.5}]", ["1.5", "below 1"]),
    "negative share": ("variants: [{method: wanda, sparsity: -0.1}]", ["-0.1", "at least 0"]),
    "per cent": ("variants: [{method: magnitude, sparsity: 50}]", ["50", "0.5"]),
    "pattern of three": ('variants: [{method: wanda, sparsity: "2:5:4"}]', ["2:5:4", '"2:4"']),
    "too many bits": ("variants: [{method: gptq, bits: 99}]", ["bits", "99", "at most 8"]),
    "half a bit": ("variants: [{method: gptq, bits: 4.5}]", ["bits", "4.5", "whole number"]),
    "bits in words": ("variants: [{method: rtn, bits: four}]", ["bits", "four", "whole number"]),
    "endless damping": ('variants: [{method: gptq, bits: 4, damping: "inf"}]', ["damping", "inf"]),
    "one level in two spellings": (
        'variants: [{method: wanda, sparsity: [0.5, "0.50"]}]',
        ["wanda-0.5 is given twice"],
    ),
    "group size": (
        "variants: [{method: rtn, bits: 4, group_size: 48}]",
        ["group_size 48 does not divide", "32"],
    ),
    "pattern": ('variants: [{method: wanda, sparsity: "3:7"}]', ["pattern 3:7", "multiple of 7"]),
    "task": ("tasks: [kick_mini_mqc]", ["unknown task 'kick_mini_mqc'", "'kick_mini_mcq'"]),
    "corpus": (
        "calibration: {corpus: wikitext}",
        ["unknown calibration corpus 'wikitext'", "'wikitext2'"],
    ),
}
PLAIN = {
    "name": "name: trial",
    "model": "model: smoke",
    "tasks": "tasks: [kick_mini_mcq]",
    "variants": "variants: [{method: wanda, sparsity: 0.5}]",
}


@pytest.mark.parametrize("name", BAD)
def test_own_tables_refuse_with_line_value_and_what_would_be_right(name, sources):
    bad, words = BAD[name]
    lines = {**PLAIN, bad.split(":")[0]: bad}
    line = list(lines).index(bad.split(":")[0]) + 1
    with pytest.raises(KickError) as caught:
        plan(parse("\n".join(lines.values()), "m.yaml"), sources=sources, rates=Rates())
    assert str(caught.value).startswith(f"m.yaml:{line}: ")
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_mistyped_model_names_its_neighbour():
    text = "\n".join({**PLAIN, "model": "model: smokes"}.values())
    with pytest.raises(KickError, match=r"m\.yaml:2: model: unknown model 'smokes'; did you mean 'smoke'"):
        plan(parse(text, "m.yaml"), rates=Rates())


WITHOUT_PRESET = {
    *("d-pruner", "mini-gpts", "pip-kag", "quarot", "seap", "vocab"),  # not run on the demo model yet
    "drop-block",  # a step of `kick study layers`
    *(
        "recover-lora-prune",
        "recover-scalelora",
        "recover-spp",
        "recover-slope",
        "recover-reconstruct",
        "recover-eora",
        "recover-moe-distill",
    ),  # not run on it either
}
OF_OTHER_MODELS = {"expert-usage", "moe-pruner", "ssm-pruning"}  # in moe and ssm: tests/model/test_trained.py


def used_by(preset):
    found, problems = expand(load(preset), own_sources().methods)
    assert not problems
    return {step.method for one in found for step in one.variant.recipe}


def test_presets_have_every_method_but_those_not_run_yet(sources):
    # the recorded ones: a file that is added has its row without an entry in a preset
    recorded = json.loads((Path(__file__).parents[1] / "golden" / "meanings.json").read_text())["methods"]
    used = used_by("methods") | used_by("structured") | used_by("recovery")
    assert used == set(recorded) - WITHOUT_PRESET - OF_OTHER_MODELS


def test_structured_asks_each_method_for_the_same_shares():
    """Of 30 blocks 3, 6 and 9, or shares of the blocks' weights; each method at all three."""
    variants = plan(load("structured"), sources=own_sources(), rates=Rates()).variants
    levels: dict[str, list[float]] = {}
    for variant in variants:
        for step in variant.recipe:
            options = step.options
            assert options.get("fit", True), variant.name
            share = options["layers"] / 30 if "layers" in options else level_of(options)
            levels.setdefault(step.method, []).append(float(share))
    assert len(levels) == 16
    assert all(found == [0.1, 0.2, 0.3] for found in levels.values())
    assert [variant.replica for variant in variants if variant.replica] == ["batch", "dtype"]


def test_a_step_on_some_matrices_only_is_a_variant_with_their_names():
    up, down = "model.layers.0.mlp.up_proj", "model.layers.1.mlp.down_proj"
    text = f"""
name: some
model: smoke
tasks: [kick_mini_mcq]
replicas: []
variants:
  - {{method: wanda, sparsity: 0.5, only: [{up}, [{up}, {down}]]}}
  - {{method: wanda, sparsity: 0.5, sparsities: {{{up}: 0.3}}}}
"""
    planned = plan(parse(text, "some.yaml"))
    names = [variant.name for variant in planned.variants]
    assert names[:2] == ["dense", f"wanda-0.5-only={up}"]
    assert all(up in name for name in names[1:])
    assert down in names[2]
    assert planned.variants[2].recipe[0].options["only"] == [up, down]
    with pytest.raises(KickError, match=r"unknown matrix 'model\.layers\.0\.mlp\.up'.*did you mean"):
        plan(parse(text.replace(f"[{up}, [", f"[{up[:-5]}, ["), "some.yaml"))


@pytest.mark.parametrize(
    ("length", "word"),
    [
        (2048, None),
        (27_000, "length 27000, but the model has 2048"),
        (100_000, "has 27326 tokens, fewer than"),
    ],
)
def test_what_is_too_short_for_a_sequence_is_told_by_the_plan(sources, length, word):
    text = f"""
name: long
model: smoke
tasks: [kick_mini_mcq]
limit: 2
calibration: {{sequences: 2, length: {length}}}
variants: [{{method: wanda, sparsity: 0.5}}]
replicas: []
"""
    if word is None:
        assert plan(parse(text, "m.yaml"), sources=sources, rates=Rates()).cells
    else:
        with pytest.raises(KickError, match=f"m.yaml:6: calibration.length: .*{word}"):
            plan(parse(text, "m.yaml"), sources=sources, rates=Rates())
