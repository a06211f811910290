"""`engine: {name: auto}`: in memory if the plan says that it fits, else block by block if that works."""

from dataclasses import replace

import pytest

from kick.engine.backend import AUTO
from kick.errors import KickError
from kick.matrix import costs
from kick.matrix.load import load, parse
from kick.matrix.shapes import Shape
from tests.support.small_tables import DEFAULTS, SOURCES, planned, step

TEXT = """\
name: trial
model: tiny
tasks: [prose]
calibration: {corpus: wikitext2, sequences: 8}
variants:
  - {method: wanda, sparsity: 0.5}
"""
LARGE = Shape(
    7_000_000_000, 200_000_000, 11008, 4096, 32000, 14_000_000_000, 45_000_000, 32, 8192
)  # of 28 GB in float32, beside the 14 of the file as it is read
BIG = replace(SOURCES, shape=lambda spec: LARGE)


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine with 24 GB of memory, of which 20 are free."""
    monkeypatch.setattr(costs, "free_memory", lambda: 20 * 10**9)


def engine(name, more=""):
    return f"engine: {{name: {name}{more}}}\nvariants:"


def test_auto_is_the_default_and_a_small_model_is_answered_in_memory():
    assert parse(TEXT, "m.yaml").engine.name == AUTO
    found = planned(TEXT)
    assert (found.engine.name, found.engine.why) == ("packed", "")
    assert found.estimates == planned(TEXT.replace("variants:", engine("packed"))).estimates


def test_what_does_not_fit_is_read_block_by_block_and_it_says_so():
    found = planned(TEXT, BIG)
    assert found.engine.name == "layered"
    assert "a job needs about 42.5 GB in memory, and 20.0 GB are available" in found.engine.why
    most = max(one.memory for one in found.estimates.values())
    assert 2e9 < most < 10e9, "the estimates are of the engine chosen"
    assert costs.preflight(found.estimates, None, memory=24 * 10**9) == []


@pytest.mark.parametrize("name", ["packed", "layered"])
def test_keys_are_those_of_an_engine_chosen_by_hand(name):
    by_hand = planned(TEXT.replace("variants:", engine(name)), BIG)
    assert by_hand.engine.name == name
    assert by_hand.engine.why == ""
    assert planned(TEXT, BIG).keys == by_hand.keys == planned(TEXT).keys


QUANTIZED = replace(BIG, shape=lambda spec: replace(LARGE, quantized=True))
BFLOAT16 = "it compresses in float32, and wanda-0.5 has dtype bfloat16"
FLAP = replace(
    BIG, methods=replace(BIG.methods, step=lambda *one: step(*one, {**DEFAULTS, "flap": {"sparsity": None}}))
)
WHOLE = "flap needs the whole model at once"


@pytest.mark.parametrize(
    ("old", "new", "sources", "free", "reason"),
    [
        ("prose", "write", BIG, 20, "write has answers generated"),
        ("variants:", "dtype: bfloat16\nvariants:", BIG, 10, BFLOAT16),
        ("prose", "prose", QUANTIZED, 20, "dense is quantized"),
        ("method: wanda", "method: flap", FLAP, 20, WHOLE),
    ],
)
def test_where_it_cannot_be_read_block_by_block_it_is_as_before(old, new, sources, free, reason, monkeypatch):
    monkeypatch.setattr(costs, "free_memory", lambda: free * 10**9)
    found = planned(TEXT.replace(old, new), sources)
    assert found.engine.name == "packed"
    assert reason in found.engine.why
    with pytest.raises(KickError, match=rf"needs about [\d.]+ GB .*{reason}"):
        costs.preflight(found.estimates, None, memory=free * 10**9, note=found.engine.why)


@pytest.mark.parametrize(
    ("old", "new", "sources", "reason"),
    [
        ("method: wanda", "method: flap", FLAP, WHOLE),
        ("tasks:", "dtype: bfloat16\ntasks:", SOURCES, BFLOAT16),
    ],
)
def test_a_recipe_that_layered_cannot_carry_out_is_refused_with_its_line(old, new, sources, reason):
    text = TEXT.replace("variants:", engine("layered")).replace(old, new)
    line = 1 + text[: text.index("  - {")].count("\n")
    with pytest.raises(KickError, match=rf":{line}: .*: the engine layered is out, because {reason}; choose"):
        planned(text, sources)


def test_answers_are_generated_layer_by_layer_only_if_that_is_asked_for():
    text = TEXT.replace("prose", "write").replace("variants:", engine("auto", ", generate: true"))
    assert planned(text, BIG).engine.name == "layered"
    with pytest.raises(KickError, match=r"32 passes over 14\.0 GB of weights, 448\.0 GB in all, per variant"):
        planned(TEXT.replace("prose", "write").replace("variants:", engine("layered")), BIG)
    text = TEXT.replace("variants:", engine("auto", ", memory: 3GB"))
    assert parse(text, "m.yaml").engine.memory == 3 * 10**9


@pytest.mark.parametrize("name", ["auto", "layered"])
def test_dense_continues_prefixes_block_by_block_and_the_plan_says_what_that_takes(name):
    found = planned(TEXT.replace("prose", "diverge").replace("variants:", engine(name)), BIG)
    assert found.engine.name == "layered"
    assert found.engine.generated == {
        "diverge": "diverge: dense's continuations are generated once: at most 48 passes over 14.0 GB of "
        "weights, 672.0 GB in all"
    }
    assert planned(TEXT.replace("variants:", engine(name)), BIG).engine.generated == {}


def test_the_presets_are_answered_in_memory():
    for name in ("demo", "demo-full", "smoke", "methods"):
        assert load(name).engine.name in (AUTO, "packed")
