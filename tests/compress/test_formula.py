"""Formulas of a saliency: the authors' arithmetic, and what is not a formula ends in one line."""

import math

import pytest
import torch

from kick.compress import canonical, compress
from kick.compress.context import Calibration
from kick.compress.formula import DEEPEST, LARGEST, LONGEST, parse
from kick.errors import KickError, WrongOption
from kick.model import blocks, linears
from tests.support.architectures import sequences, tiny

W, G, X = (
    torch.tensor([[1.0, 4.0], [2.0, 0.5]]),
    torch.tensor([[3.0, 1.0], [0.0, 2.0]]),
    torch.tensor([[4.0, 9.0]]),
)
NORM = math.sqrt(1 + 16 + 4 + 0.25)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("mul(abs(mul(W, W)), mms(G))", [[1.0, 16 / 3], [0.0, 0.25 * 2 / 3]]),
        ("mul(W, sqrt(X))", [[2.0, 12.0], [4.0, 1.5]]),
        ("div(G, W)", [[3 / NORM, 1 / NORM], [0.0, 2 / NORM]]),
        ("div(G, X)", [[value / math.sqrt(2 * (16 + 81)) for value in row] for row in ([3, 1], [0, 2])]),
        ("log(neg(W))", [[math.log(1.001), math.log(4.001)], [math.log(2.001), math.log(0.501)]]),
        ("sub(exp(W), tanh(G))", [[math.e - math.tanh(3), math.exp(4) - math.tanh(1)],
                                  [math.exp(2), math.exp(0.5) - math.tanh(2)]]),
        ("zsn(W)", [[(v - 1.875) / 1.5478479684 for v in row] for row in ([1, 4], [2, 0.5])]),
        (" add( skp(W) ,pow(G) ) ", [[10.0, 5.0], [2.0, 4.5]]),
    ],
)  # fmt: skip
def test_the_arithmetic_is_the_authors(text, wanted):
    found = parse(text)({"W": W, "G": G, "X": X})
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=1e-5, atol=1e-6)
    assert parse(str(parse(text))) == parse(text)


def test_a_constant_scales_to_zeros():
    flat = {"W": torch.ones(2, 2), "G": torch.zeros(2, 2), "X": X}
    for text in ("mms(W)", "zsn(W)", "div(G, G)"):
        assert torch.equal(parse(text)(flat), torch.zeros(2, 2))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the end after 0 characters"),
        ("mul(W", "expected ','"),
        ("mul(W, G", "expected '\\)'"),
        ("mul(W, G))", "got '\\)' at character 10; expected the end"),
        ("abs(W, G)", "expected '\\)'"),
        ("mul W G", "expected '\\('"),
        ("W * G", "got '\\*' at character 3"),
        ("mull(W, G)", "did you mean 'mul'"),
        ("__import__('os').system('true')", "got '_' at character 1"),
        ("W.data", "got '.' at character 2"),
        ("exec(W)", "unknown name 'exec'"),
        ("W\x1b[31m", "U\\+001B"),
        ("mul(W, 2)", "got '2' at character 8"),
        ("sqrt(X)", "neither W nor G"),
        ("abs(" * 900, f"expected at most {LONGEST}"),
        ("abs(" * 100 + "W" + ")" * 100, f"more than {DEEPEST} calls"),
        ("W" * (LONGEST + 1), f"expected at most {LONGEST}"),
    ],
)
def test_what_is_not_a_formula_ends_in_one_line(text, words):
    with pytest.raises(KickError, match=words) as told:
        parse(text)
    assert "\n" not in str(told.value)
    assert str(told.value).isprintable()
    with pytest.raises(WrongOption, match="pruner-zero: option formula") as refused:
        canonical("pruner-zero", {"sparsity": 0.5, "formula": text})
    assert refused.value.option == "formula"


def test_a_formula_that_is_too_large_is_refused():
    text = "W"
    while text.count("W") <= LARGEST // 2:
        text = f"add({text}, {text})"
    with pytest.raises(KickError, match=f"expected at most {LARGEST}"):
        parse(text)


@pytest.mark.parametrize(("formula", "other"), [("W", "magnitude"), ("mul(W, sqrt(X))", "wanda")])
def test_a_method_that_the_space_contains_is_that_method(formula, other):
    made = []
    for name, more in (
        ("pruner-zero", {"formula": formula}),
        (other, {"per": "row"} if other == "magnitude" else {}),
    ):
        network = tiny("llama")
        compress(network, [canonical(name, {"sparsity": 0.5} | more)], Calibration(tuple(sequences()[:2])))
        made.append([linear.weight == 0 for block in blocks(network) for linear in linears(block)])
    assert all(torch.equal(one, two) for one, two in zip(*made, strict=True))
