"""Each method against what its authors' code gives."""

import pytest
import torch

from kick.compress.calibrate.statistics import Hessian, InputNorm
from kick.compress.context import Calibration
from kick.compress.grid import Grid
from kick.compress.methods.gptq import ColumnOrder, gptq
from kick.compress.methods.sparsegpt import sparsegpt
from kick.compress.solver import factor, silence
from kick.compress.sparsity import Sparsity, mask
from tests.support.golden import LAYERS, agreement, assert_error_close, layer

SHARES = ["0.3", "0.5", "0.7"]
PATTERNS = ["2:4", "4:8"]


@pytest.fixture(params=LAYERS)
def golden(request):
    return layer(request.param)


def measured(kind, golden):
    statistic = kind(golden["weight"].shape[1])
    for sample in golden["inputs"]:
        statistic.add(sample)
    return statistic


def pattern_key(pattern: str) -> str:
    return pattern.replace(":", "of")


@pytest.mark.parametrize("share", SHARES)
def test_magnitude(golden, share):
    kept = mask(golden["weight"].abs(), Sparsity.parse(share), "matrix", ties="authors")
    assert torch.equal(~kept, golden[f"magnitude.unstructured.{share}.pruned_mask"].bool())


@pytest.mark.parametrize("pattern", PATTERNS)
def test_magnitude_pattern(golden, pattern):
    kept = mask(golden["weight"].abs(), Sparsity.parse(pattern))
    assert torch.equal(~kept, golden[f"magnitude.{pattern_key(pattern)}.pruned_mask"].bool())


def test_wanda_norm(golden):
    norm = measured(InputNorm, golden)
    torch.testing.assert_close(norm.square, golden["wanda.input_sq_norm"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("level", SHARES + PATTERNS)
def test_wanda(golden, level):
    saliency = golden["weight"].abs() * measured(InputNorm, golden).norm
    name = pattern_key(level) if ":" in level else f"unstructured.{level}"
    wanted = golden[f"wanda.{name}.pruned_mask"].bool()
    assert torch.equal(~mask(saliency, Sparsity.parse(level)), wanted)


@pytest.mark.parametrize("group", ["channel", "g32"])
@pytest.mark.parametrize("kind", ["sym", "asym"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_rtn(golden, bits, kind, group):
    grid = Grid(bits, -1 if group == "channel" else 32, kind == "sym")
    scale = grid.fit(golden["weight"])
    rounded = grid.round(golden["weight"], scale)
    assert torch.equal(rounded, golden[f"rtn.w{bits}.{kind}.{group}.weight"])
    codes = grid.quantize(golden["weight"], scale)
    assert torch.equal(grid.dequantize(codes, scale), rounded)
    assert torch.equal(codes, codes.round())
    assert 0 <= codes.min() <= codes.max() <= 2**bits - 1


@pytest.mark.parametrize("level", SHARES + PATTERNS)
def test_sparsegpt(golden, level):
    hessian = measured(Hessian, golden).matrix
    alive = golden["weight"].masked_fill(silence(hessian), 0.0)
    inverse = factor(hessian, 0.01, "golden", Calibration())
    weight, kept = sparsegpt([alive], inverse, Sparsity.parse(level), "authors")[0]
    name = pattern_key(level) if ":" in level else f"unstructured.{level}"
    wanted = golden[f"sparsegpt.{name}.weight"]
    assert agreement(kept, wanted != 0) >= 0.995
    assert torch.equal(kept, weight != 0)
    assert_error_close(weight, wanted, golden)


@pytest.mark.parametrize(
    ("group", "inverse"),
    [
        ("channel", True),
        ("channel", False),
        ("channel.actorder", True),
        ("channel.actorder", False),
        ("g32", True),
    ],
)
@pytest.mark.parametrize("kind", ["sym", "asym"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq(golden, bits, kind, group, inverse):
    """With the inverse's factor, and with the Hessian's own where no scale is found on the way."""
    grid = Grid(bits, 32 if group == "g32" else -1, kind == "sym")
    hessian = measured(Hessian, golden).matrix
    dead = silence(hessian)
    order = hessian.diagonal().argsort(descending=True) if "actorder" in group else None
    if order is not None:
        hessian = hessian[order][:, order]
    found = factor(hessian, 0.01, "golden", Calibration(), inverse)
    ((weight, scale),) = gptq([golden["weight"]], found, ColumnOrder(grid, order, dead=dead))
    wanted = golden[f"gptq.w{bits}.{kind}.{group}.weight"]
    step = scale.scale.repeat_interleave(weight.shape[1] // scale.scale.shape[1], dim=1)
    assert float(((weight - wanted).abs() < step / 2).float().mean()) >= 0.995
    assert_error_close(weight, wanted, golden)
    on_grid = grid.round(weight, scale)
    torch.testing.assert_close(on_grid, weight.contiguous(), rtol=0, atol=0)
