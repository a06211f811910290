"""Recovery as a step of a matrix: how it is written, what its key depends on, what is refused."""

from dataclasses import replace

import pytest

from kick.errors import KickError
from kick.matrix.load import load as read
from kick.matrix.plan import plan
from kick.matrix.sources import own_sources
from kick.recover import step as recovering
from kick.store import Store
from kick.sweep.run import RunOptions, run

HEAD = "name: small\nmodel: smoke\ntasks: [kick_mini_perplexity]\nlimit: 2\nreplicas: []\nvariants:\n"


def planned(tmp_path, *variants, digest="0" * 64):
    file = tmp_path / "small.yaml"
    file.write_text(HEAD + "".join(f"  - {one}\n" for one in variants))
    sources = replace(own_sources(), corpus=lambda name, root: digest)
    return plan(read(file), sources=sources)


def test_a_step_that_trains_is_written_after_those_that_prune(tmp_path):
    recipe = "{recipe: [{method: wanda, sparsity: 0.5}, {recover: [masklora, perp], tokens: 640}]}"
    made = planned(tmp_path, recipe, "{recover: perp, tokens: 640}")
    names = [variant.name for variant in made.variants]
    assert names == [
        "dense",
        "wanda-0.5+recover-masklora-tokens=640",
        "wanda-0.5+recover-perp-tokens=640",
        "recover-perp-tokens=640",
    ]
    assert made.variants[1].recipe[1].options["digest"] == "0" * 64
    assert made.variants[3].calibration is None
    again = planned(tmp_path, recipe, "{recover: perp, tokens: 640}", digest="1" * 64)
    assert again.keys[0] == made.keys[0]
    assert not set(again.keys[1:]) & set(made.keys)
    assert len({*made.keys}) == 4


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("{recover: mask}", "unknown method 'recover-mask'; did you mean 'recover-masklora'"),
        ("{recover: lora, method: wanda}", "both method and recover"),
        ("{recover: lora, rank: 0}", "must be at least 1"),
        ("{recover: lora, scale: sum}", "must be one of rank, root"),
        (
            "{recipe: [{method: wanda, sparsity: 0.5}, {recover: lora}]}",
            "would fill the zeros of wanda; choose `recover: masklora`",
        ),
        ("{recipe: [{method: rtn, bits: 4}, {recover: perp}]}", "before rtn"),
        ("{recover: last3, head: true}", "tied"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_line(tmp_path, variant, message):
    with pytest.raises(KickError, match=r"small\.yaml:7") as refused:
        planned(tmp_path, variant)
    assert message in str(refused.value)


def test_a_corpus_that_is_not_here_is_refused(tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(HEAD + "  - {recover: perp, corpus: nowhere}\n")
    with pytest.raises(KickError, match="unknown calibration corpus 'nowhere'"):
        plan(read(file))


def test_a_trained_variant_is_measured_and_says_what_it_took(tmp_path, monkeypatch):
    monkeypatch.setattr(recovering, "cache_root", lambda: tmp_path)
    file = tmp_path / "small.yaml"
    options = "tokens: 640, length: 64, corpus: kick_mini_calibration, lr: 0.01"
    recipe = f"{{recipe: [{{method: magnitude, sparsity: 0.5}}, {{recover: masklora, {options}}}]}}"
    file.write_text(HEAD + f"  - {recipe}\n")
    _, summary = run(str(file), RunOptions(str(tmp_path / "out"), executor="inline", view="json"), [], str)
    assert summary.status == 0
    (done,) = [one for one in Store(str(tmp_path / "out")).runs() if one.cell.variant.recipe]
    pruned, trained = done.compression["steps"]
    assert trained["sparsity"] == pruned["sparsity"] == 0.5
    assert trained["training"]["tokens"] == 640
    assert trained["training"]["heldout_after"] < trained["training"]["heldout_before"]
    assert list((tmp_path / "training").glob("*/training.safetensors"))
