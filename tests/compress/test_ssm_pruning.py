"""States of Mamba-2: the authors' scores and rows, and what removing a state must equal."""

from functools import cache

import pytest
import torch
import transformers as tf

from kick.compress import canonical, check, check_saved, compress
from kick.compress.calibrate.statistics import InputNorm
from kick.compress.context import Calibration
from kick.compress.methods.ssm_pruning import channel_scores, mixer_of, state_scores
from kick.compress.sparsity import Sparsity, mask
from kick.compress.widths import largest
from kick.errors import KickError
from kick.model import blocks
from tests.support.architectures import sequences, tiny
from tests.support.golden import seeds


def mamba2(groups=2):
    config = tf.Mamba2Config(
        vocab_size=96, hidden_size=32, state_size=8, num_hidden_layers=2, num_heads=4, head_dim=16, expand=2,
        n_groups=groups, conv_kernel=4, chunk_size=16, initializer_range=0.15, pad_token_id=0,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return tf.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


@cache
def golden():
    vectors, model = seeds("mamba2"), mamba2()
    mixer = mixer_of(blocks(model)[0], model)
    mixer.module.in_proj.weight.copy_(vectors["in_proj.weight"])
    return vectors, mixer


def test_scores_are_the_authors():
    vectors, mixer = golden()
    found = state_scores(mixer, vectors["in_proj.mean_squared_gradient"])
    wanted = vectors["state.taylor_second"]
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("share", ["0.25", "0.5"])
def test_rows_and_channels_are_the_authors(share):
    vectors, mixer = golden()
    left = 8 - Sparsity.parse(share).count(8)
    scores = state_scores(mixer, vectors["in_proj.mean_squared_gradient"])
    kept = torch.stack([largest(one, left) for one in scores])
    for found, key in (
        (kept + 8 * torch.arange(2)[:, None], "keep"),
        (mixer.rows(kept), "in_proj_rows_kept"),
        (mixer.channels(kept), "conv_channels_kept"),
    ):
        assert found.flatten().tolist() == vectors[f"state.{key}.{share}"].flatten().nonzero()[:, 0].tolist()


@pytest.mark.parametrize("part", ["in_proj", "out_proj"])
@pytest.mark.parametrize("share", ["0.3", "0.5", "0.7"])
def test_wanda_on_the_projections_is_the_authors(part, share):
    vectors, _ = golden()
    norm = InputNorm(vectors[f"{part}.inputs"].shape[-1])
    for sample in vectors[f"{part}.inputs"]:
        norm.add(sample)
    kept = mask(vectors[f"{part}.weight"].abs() * norm.norm, Sparsity.parse(share))
    assert torch.equal(~kept, vectors[f"{part}.mask.{share}"].bool())


@pytest.mark.parametrize("groups", [1, 2])
def test_removing_states_equals_zeroing_them(groups):
    model, zeroed, calibration = mamba2(groups), mamba2(groups), Calibration(tuple(sequences()))
    compress(model, [canonical("ssm-pruning", {"share": 0.25})], calibration)
    notes = [note for note in calibration.notes if note["kind"] == "kept states"]
    for block, note in zip(blocks(zeroed), notes, strict=True):
        mixer = mixer_of(block, zeroed)
        kept = torch.tensor(note["groups"])
        assert kept.shape == (groups, 6)
        rows, channels = mixer.rows(kept), mixer.channels(kept)
        for tensor, stays in (
            (mixer.module.in_proj.weight, rows),
            (mixer.module.conv1d.weight, channels),
            (mixer.module.conv1d.bias, channels),
        ):
            gone = torch.ones(len(tensor), dtype=torch.bool)
            gone[stays] = False
            tensor[gone] = 0
    ids = sequences(1, 16, seed=5)[0]
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, zeroed(ids).logits, rtol=1e-5, atol=1e-5)
    lost = sum(p.numel() for p in mamba2(groups).parameters()) - sum(p.numel() for p in model.parameters())
    assert lost == 2 * 2 * groups * 2 * (32 + 4 + 1)  # blocks, B and C, groups, states: row, taps, bias


def test_a_channel_has_one_score_over_all_its_parts():
    vectors, mixer = golden()
    names = ("in_proj", "conv1d", "norm", "out_proj")
    for name in names[1:]:
        getattr(mixer.module, name).weight.copy_(vectors[f"{name}.weight"])
    found = channel_scores(mixer, [vectors[f"{name}.mean_squared_gradient"] for name in names])
    wanted = vectors["headdim.aligned_score"].float()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)
    kept = torch.stack([largest(one, 12) for one in found])
    assert torch.equal(torch.zeros(4, 16).scatter(1, kept, 1), vectors["headdim.aligned_keep.0.25"].float())


@pytest.mark.parametrize("unit", ["channel", "head"])
@pytest.mark.parametrize("groups", [1, 2])
def test_removing_channels_or_heads_equals_zeroing_them(groups, unit):
    model, zeroed, calibration = mamba2(groups), mamba2(groups), Calibration(tuple(sequences()))
    for block in [*blocks(model), *blocks(zeroed)]:
        block.mixer.norm.variance_epsilon = 1e-12  # it counts less where fewer channels are averaged
    report = compress(model, [canonical("ssm-pruning", {"share": 0.5, "unit": unit})], calibration)
    notes = [note for note in calibration.notes if note["kind"] == "kept heads and channels"]
    for block, note in zip(blocks(zeroed), notes, strict=True):
        stays = torch.zeros(4, 16, dtype=torch.bool)
        for head, channels in zip(note["heads"], note["channels"], strict=True):
            stays[head, channels] = True
        gone = (~stays).flatten().nonzero()[:, 0]
        assert len(gone) == 32
        assert stays.view(groups, -1).sum(dim=1).unique().numel() == 1
        mixer = block.mixer
        mixer.in_proj.weight[64 + gone] = 0
        mixer.conv1d.weight[gone] = 0
        mixer.conv1d.bias[gone] = 0
    ids = sequences(1, 16, seed=5)[0]
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, zeroed(ids).logits, rtol=1e-4, atol=1e-5)
        several = model.generate(ids, max_new_tokens=3, min_new_tokens=3, do_sample=False)
        assert torch.equal(several[:, 16], zeroed(ids).logits[:, -1].argmax(dim=-1))
        assert torch.equal(several[:, 17], model(several[:, :17]).logits[:, -1].argmax(dim=-1))
    rows = 2 * 32 + (2 if unit == "head" else 0)  # of z and x, and of dt
    assert report["steps"][0]["removed"]["weights"] == 2 * 32 * (rows + 32)
    assert report["steps"][0]["passes"] == {"forward": 4, "backward": 4}


def test_half_of_the_channels_can_be_saved_and_what_the_config_cannot_say_is_refused(tmp_path):
    model, ids = mamba2(), sequences(2)
    step = canonical("ssm-pruning", {"share": 0.5, "unit": "head"})
    check_saved(model, [step])
    compress(model, [step], ids)
    model.save_pretrained(tmp_path)
    again = tf.AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again(ids[0]).logits, model(ids[0]).logits, rtol=1e-5, atol=1e-5)
    with pytest.raises(KickError, match="would not be a checkpoint"):
        check_saved(mamba2(), [canonical("ssm-pruning", {"share": 0.25, "unit": "channel"})])


def test_the_result_can_be_saved_and_loaded_again(tmp_path):
    model, ids = mamba2(), sequences(2)
    step = canonical("ssm-pruning", {"share": 0.5})
    check_saved(model, [step])
    compress(model, [step], ids)
    model.save_pretrained(tmp_path)
    again = tf.AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again(ids[0]).logits, model(ids[0]).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["mamba", "llama"])
def test_other_blocks_are_refused(name):
    with pytest.raises(KickError, match=r"not Mamba-2 mixers.*choose wanda"):
        check(tiny(name), [canonical("ssm-pruning", {"share": 0.5})])
