"""Mini-GPTs: the quiet rows and columns of the authors' code go; a share is met from below."""

import pytest
import torch

from kick.compress import canonical, check, compress
from kick.compress.context import Calibration
from kick.compress.methods.llm_surgeon import cheapest
from kick.compress.methods.mini_gpts import Loudness, loudness, row_scores
from kick.errors import KickError
from kick.model import blocks, named_linears
from tests.support.architectures import sequences, tiny
from tests.support.golden import seeds

NAMES = [f"h.{index}.{part}" for index in range(2) for part in ("fc1", "fc2")]


def test_what_goes_is_what_the_authors_threshold_takes():
    """As many weights as their threshold sets to zero: one order of rows and columns, so the same ones."""
    golden = seeds("mini_gpts")
    heard = {
        name: Loudness(
            golden[f"mean_abs.linear_input.{name}"],
            golden[f"mean_abs.linear_output.{name}"],
            golden[f"mean_abs_without_bias.{name}"],
        )
        for name in NAMES
    }
    zeros = {name: golden[f"after.{name}.weight"] == 0 for name in NAMES}
    scores = [score for name in NAMES for score in (row_scores(name, heard), heard[name].inputs)]
    stays = [torch.ones(len(score), dtype=torch.bool) for score in scores]
    cheapest(scores, stays, sum(int(one.sum()) for one in zeros.values()))
    for name, rows, columns in zip(NAMES, stays[::2], stays[1::2], strict=True):
        assert torch.equal(rows[:, None] & columns, ~zeros[name]), name
        assert 0 < zeros[name].sum() < zeros[name].numel()
        quiet = row_scores(name, heard, bare=False) <= 0.05
        assert torch.equal(golden[f"after.{name}.bias"] == 0, quiet & ~rows), name


@pytest.mark.parametrize("name", ["llama", "opt", "gpt2"])
def test_the_share_is_met_from_below_by_rows_and_columns(name):
    model, calibration = tiny(name), Calibration(tuple(sequences()))
    report = compress(model, [canonical("mini-gpts", {"share": 0.3})], calibration)
    widest = max(max(one.weight.shape) for _, _, one in named_linears(model))
    whole = report["steps"][0]["weights"]
    assert 0 <= 0.3 * whole - report["steps"][0]["pruned"] < widest
    for kept in calibration.masks.values():
        assert torch.equal(kept, kept.any(1)[:, None] & kept.any(0))
    assert report["steps"][0]["passes"] == {"forward": 4, "backward": 0}


def test_a_channel_that_is_silent_goes_first_with_its_rows_and_bias():
    model, calibration = tiny("opt"), Calibration(tuple(sequences()))
    layer = blocks(model)[1]
    layer.fc1.bias.data[5] = -100.0  # its ReLU never lets anything through, though the output is loud
    heard = loudness(model, calibration, {name: one for name, _, one in named_linears(model)})
    place = next(name for name in heard if name.endswith("1.fc1"))
    assert heard[place].outputs[5] > 90 > 5 > heard[place].bare[5] > 0
    assert row_scores(place, heard)[5] == 0
    compress(model, [canonical("mini-gpts", {"share": 0.05})], calibration)
    assert not layer.fc1.weight[5].any()
    assert not layer.fc2.weight[:, 5].any()
    assert layer.fc1.bias[5] == 0


def test_matrices_that_are_not_called_are_refused():
    with pytest.raises(KickError, match="is used without a call"):
        check(tiny("mixtral"), [canonical("mini-gpts", {"share": 0.3})])
