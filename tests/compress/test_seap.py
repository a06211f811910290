"""SEAP against the authors' scores, shares and choices, and what the shares add up to."""

import pytest
import torch

from kick.compress import canonical, check, check_saved, compress
from kick.compress.calibrate.statistics import Moments
from kick.compress.checkpoint import save
from kick.compress.context import Calibration
from kick.compress.methods.flap import score
from kick.compress.methods.seap import logistic
from kick.compress.sparsity import Sparsity
from kick.compress.widths import largest
from kick.errors import CellFailed, KickError
from kick.model import blocks, load, resolve
from tests.support.architectures import sequences, tiny
from tests.support.golden import seeds

ALL = {"first": 0, "last": 0}


class Published:
    """Statistics as the authors stored them."""

    def __init__(self, golden, layer, part):
        self.variance = golden[f"layer{layer}.{part}_input.var"]


@pytest.mark.parametrize("layer", [0, 1])
def test_scores_are_the_authors_from_their_statistics(layer):
    golden = seeds("seap")
    for part, name in (("down_proj", "channel_score"), ("o_proj", "head_score")):
        weight = golden[f"layer{layer}.{part}_sq_norm"].sqrt()[None]  # one row with those squared norms
        found = score(weight, Published(golden, layer, part))
        if part == "o_proj":
            found = found.view(4, 6).mean(dim=1)
        torch.testing.assert_close(found, golden[f"layer{layer}.{name}"], rtol=1e-5, atol=1e-5)


def test_our_variance_is_the_true_one():
    golden, moments = seeds("seap"), Moments(24)
    for sample in range(4):
        moments.add(golden[f"layer0.sample{sample}.o_proj_input"][0])
    wanted = golden["layer0.o_proj_input.true_population_variance"] * 36 / 35
    torch.testing.assert_close(moments.variance.double(), wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_shares_are_the_authors_over_the_blocks_that_are_not_protected(share):
    curve = torch.tensor(logistic(4, 0.8, 0.3), dtype=torch.float64)
    wanted = seeds("seap")[f"layer_sparsity.{share}"][2:6]
    torch.testing.assert_close(curve / curve.mean() * share, wanted, rtol=0, atol=2.5e-4)


@pytest.mark.parametrize("block", range(8))
def test_what_is_kept_is_the_authors_at_their_shares(block):
    golden = seeds("seap")
    level = Sparsity(float(golden["layer_sparsity.0.5"][block]))
    for units, name in (("heads", "head_score"), ("channels", "channel_score")):
        scores, wanted = golden[f"layer{block}.{name}"], golden[f"keep_{units}.0.5"][block]
        found = largest(scores, len(scores) - level.count(len(scores)))
        assert torch.equal(found, wanted.nonzero().flatten())


@pytest.mark.parametrize("options", [ALL, {"first": 1, "last": 0}, {"first": 0, "last": 1, "steepness": 3}])
def test_the_share_is_the_models_whatever_is_protected(options):
    model, calibration = tiny("llama"), Calibration(tuple(sequences()))
    report = compress(model, [canonical("seap", {"share": 0.3, **options})], calibration)
    assert report["steps"][0]["removed"]["share"] == pytest.approx(0.3, abs=1.5 * 96 / 27648 + 1e-9)
    (shares,) = [note["values"] for note in report["notes"] if note["kind"] == "shares"]
    whole = blocks(tiny("llama"))[0].mlp.up_proj.weight.shape
    assert [one.mlp.up_proj.weight.shape == whole for one in blocks(model)] == [not share for share in shares]
    assert shares[: options["first"]] == [0] * options["first"]
    inside = shares[options["first"] : len(shares) - options["last"]]
    assert inside == sorted(inside)


def test_without_steepness_it_is_flap_with_the_same_widths():
    found, wanted = tiny("llama"), tiny("llama")
    compress(found, [canonical("seap", {"share": 0.5, "steepness": 0, **ALL})], sequences())
    compress(wanted, [canonical("flap", {"share": 0.5})], sequences())
    state = wanted.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in found.state_dict().items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, r"2 \+ 2 blocks are to stay whole, and the model has 3"),
        ({"first": 1, "last": 1}, "protect fewer"),
    ],
)
def test_what_the_model_cannot_lose_is_refused(options, words):
    with pytest.raises(KickError, match=words):
        check(tiny("llama"), [canonical("seap", {"share": 0.5, **options})])


def test_it_is_not_saved_and_nothing_of_equal_width_may_follow():
    with pytest.raises(KickError, match="different widths"):
        check_saved(tiny("llama"), [canonical("seap", {"share": 0.3, **ALL})])
    steps = [canonical("seap", {"share": 0.3, **ALL}), canonical("flap", {"share": 0.5})]
    with pytest.raises(KickError, match="blocks of 3 different widths"):
        compress(tiny("llama"), steps, sequences())


def test_saving_it_all_the_same_fails_in_words_and_leaves_nothing(tmp_path):
    model, calibration = tiny("llama"), Calibration(tuple(sequences()))
    report = compress(model, [canonical("seap", {"share": 0.3, "bias": False, **ALL})], calibration)
    assert "different widths" in report["footprint"]["shipped_as"]
    with pytest.raises(CellFailed, match="cannot load the checkpoint by its config"):
        save(model, load(resolve("smoke"))[1], calibration, report, tmp_path / "out")
    assert not (tmp_path / "out").exists()
