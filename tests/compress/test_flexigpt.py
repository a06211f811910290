"""FlexiGPT, untrained: donor and branches of the vectors, and both ends of the rank."""

import pytest
import torch

from kick.compress import canonical, check, check_saved, compress
from kick.compress.context import Calibration
from kick.compress.coupled import structures
from kick.compress.methods.flexigpt import matrices, residual_energy, truncated
from kick.compress.methods.shortgpt import block_influence
from kick.compress.widths import KeptWidths, narrow
from kick.errors import KickError
from kick.model import blocks
from tests.support.architectures import sequences, tiny
from tests.support.golden import seeds


def test_donor_and_branches_are_those_of_the_vectors():
    vectors = seeds("flexigpt")
    pruned, rank = int(vectors["pruned_block"]), int(vectors["rank"])
    parts = [{name: vectors[f"block{i}.{name}"] for name in ("q", "up", "down")} for i in range(5)]
    energies = [residual_energy(parts[pruned], one, rank) for one in parts]
    wanted = vectors["residual_energy_per_candidate"].tolist()
    others = [i for i in range(5) if i != pruned]
    assert [energies[i] for i in others] == pytest.approx([wanted[i] for i in others], rel=1e-9)
    donor = min(others, key=lambda i: energies[i])
    assert donor == int(vectors["chosen_block"])
    for name, own in parts[pruned].items():
        down, up = truncated(own - parts[donor][name], rank)
        assert down.shape == (rank, own.shape[1])
        assert up.shape == (own.shape[0], rank)
        for found, key in ((up @ down, "adapter_product"), (parts[donor][name] + up @ down, "replacement")):
            stored = vectors[f"{key}.{name}"].double()
            assert (found - stored).abs().max() < 1e-5 * stored.abs().max()


def shared(name="llama", **options):
    model, calibration = tiny(name), Calibration(tuple(sequences()))
    report = compress(model, [canonical("flexigpt", {"layers": 1, **options})], calibration)
    note = next(note for note in calibration.notes if note["kind"] == "shared weights")
    return model, note, report


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_full_rank_is_the_dense_model(name):
    model, _, _ = shared(name, rank=64)
    ids = sequences(1, 16, seed=4)[0]
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, tiny(name)(ids).logits, rtol=1e-3, atol=1e-3)


def test_rank_zero_is_the_donor_scaled():
    model, note, report = shared(rank=0)
    own, donor = (matrices(blocks(model)[note[key]]) for key in ("layer", "of"))
    assert all(own[name].data_ptr() == donor[name].data_ptr() for name in own)
    dense = tiny("llama")
    influence = block_influence(dense, Calibration(tuple(sequences())))
    assert int(influence.argmin()) == note["layer"]
    size = sum(weight.numel() for weight in matrices(blocks(dense)[0]).values())
    everything = sum(p.numel() for p in dense.parameters())
    assert report["footprint"]["parameters"] == everything - size + model.config.hidden_size  # the scale


def test_what_a_replaced_block_adds_has_its_old_size():
    ids = Calibration(tuple(sequences()))
    for scale in (True, False):
        model, note, _ = shared(rank=0, scale=scale)
        sizes = []
        for one in (tiny("llama"), model):
            block, found = blocks(one)[note["layer"]], []
            block.register_forward_hook(
                lambda _m, args, out, found=found: found.append((out - args[0]).flatten(0, 1))
            )
            with torch.no_grad():
                for sequence in ids:
                    one(sequence)
            sizes.append(torch.cat(found).square().mean(dim=0).sqrt())
        assert torch.allclose(*sizes, rtol=1e-4) == scale


def test_branches_are_counted():
    _, note, report = shared(rank=3)
    _, _, without = shared(rank=0)
    grown = report["footprint"]["parameters"] - without["footprint"]["parameters"]
    sides = sum(3 * sum(weight.shape) for weight in matrices(blocks(tiny("llama"))[0]).values())
    assert grown == sides == note["branch_parameters"]


def test_removed_is_what_is_no_longer_stored():
    size = sum(weight.numel() for weight in matrices(blocks(tiny("llama"))[0]).values())
    for rank in (0, 3):
        _, note, report = shared(rank=rank)
        gone = size - note["branch_parameters"]
        assert report["steps"][0]["removed"] == {"weights": gone, "of": 3 * size, "share": gone / (3 * size)}


def test_later_steps_and_saving_are_refused():
    step = canonical("flexigpt", {"layers": 1})
    with pytest.raises(KickError, match="must be the last step: its blocks share weights"):
        check(tiny("llama"), [step, canonical("wanda", {"sparsity": 0.5})])
    with pytest.raises(KickError, match="no checkpoint of transformers stores"):
        check_saved(tiny("llama"), [step])


def test_blocks_that_differ_in_their_matrices_cannot_share_them():
    model = tiny("llama")
    keeps = KeptWidths(torch.arange(1), torch.arange(64))
    narrow(blocks(model)[1], structures(model)[1], keeps)
    with pytest.raises(KickError, match="differ in their matrices and cannot share them; choose shortgpt"):
        check(model, [canonical("flexigpt", {"layers": 1})])
