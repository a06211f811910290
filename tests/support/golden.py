"""The golden vectors of ../shared/golden: what the authors' own code gives on three small layers."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(__file__).parents[2] / "../shared/golden"
LAYERS = ("a", "b", "c")


def layer(name: str) -> dict[str, Tensor]:
    """All tensors of a layer."""
    file = FOLDER / f"layer_{name}.safetensors"
    if not file.is_file():
        pytest.skip("LOUD: ../shared is absent, methods are NOT checked against their authors")
    return load_file(file)


def output_error(found: Tensor, layer: dict[str, Tensor]) -> float:
    """||X(W' - W)^T||^2 / ||XW^T||^2 in float64."""
    x = layer["inputs"].double().flatten(0, 1)
    weight = layer["weight"].double()
    change = (x @ (found.double() - weight).t()).square().sum()
    return float(change / (x @ weight.t()).square().sum())


def assert_error_close(found: Tensor, wanted: Tensor, layer: dict[str, Tensor]) -> None:
    """Relative output errors within 1 % of each other."""
    assert output_error(found, layer) == pytest.approx(output_error(wanted, layer), rel=0.01)


def agreement(found: Tensor, wanted: Tensor) -> float:
    """The share of equal entries."""
    return float((found == wanted).float().mean())


def seeds(name: str) -> dict[str, Tensor]:
    """All tensors of a file of ../shared/golden/seeds."""
    file = FOLDER / "seeds" / f"{name}.safetensors"
    if not file.is_file():
        pytest.skip(f"LOUD: ../shared is absent, {name} is NOT checked against its vectors")
    return load_file(file)
