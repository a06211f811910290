"""Recovery as a step of a matrix: how it is written, what its key depends on, what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kick import tasks
from kick.analysis import frame, recovered
from kick.analysis.items import Items
from kick.analysis.ranking import kept
from kick.compress.calibrate import corpus, ranking
from kick.errors import KickError
from kick.matrix.load import load as read
from kick.matrix.plan import plan
from kick.matrix.sources import own_sources
from kick.recover import paser
from kick.recover import step as recovering
from kick.report import tables
from kick.stats import metrics
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
        ("{recover: perp, keep: low}", "keep is of ranked windows"),
        ("{recover: perp, select: paser}", "compares the pruned model with the dense one"),
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
    step = "{recover: perp, tokens: 640, length: 64, corpus: kick_mini_calibration, lr: 0.01}"
    pruned = "{method: magnitude, sparsity: 0.5}"
    file.write_text(HEAD + f"  - {pruned}\n  - {{recipe: [{pruned}, {step}]}}\n  - {step}\n")
    _, summary = run(str(file), RunOptions(str(tmp_path / "out"), executor="inline", view="json"), [], str)
    assert summary.status == 0
    store = Store(str(tmp_path / "out"))
    found = {len(one.cell.variant.recipe): one for one in store.runs()}
    before, after = found[2].compression["steps"]
    assert before["sparsity"] == after["sparsity"] == 0.5
    assert after["training"]["tokens"] == 640
    assert after["training"]["heldout_after"] < after["training"]["heldout_before"]
    assert len(list((tmp_path / "training").glob("*/training.safetensors"))) == 2
    made = tables.make_all(frame.read([store]).frame, ["recovered", "training"])
    (line,) = made["recovered"].cells
    values = [
        made["recovered"].rows[name].item() for name in ("pruned_value", "value", "trained_dense_value")
    ]
    share = (values[1] - values[0]) / (values[2] - values[0])
    assert made["recovered"].rows["recovered"].item() == pytest.approx(share)
    assert line[-2:] == ("\u2013", "2")  # no interval of two windows
    assert {row[2] for row in made["training"].cells} == {"640"}


def items(*columns):
    ids = tuple(str(n) for n in range(len(columns[0])))
    return [Items(ids, ids, {"acc": np.array(column, dtype=float)}) for column in columns]


def test_the_share_brought_back_and_its_interval_over_shared_items():
    rng = np.random.default_rng(3)
    dense = rng.random(200) < 0.8
    pruned, trained = dense & (rng.random(200) < 0.4), dense & (rng.random(200) < 0.7)
    found = recovered._share(items(pruned, trained, dense), metrics.describe("acc"))
    means = pruned.mean(), trained.mean(), dense.mean()
    assert found["recovered"] == pytest.approx((means[1] - means[0]) / (means[2] - means[0]))
    drawn = [rng.integers(0, 200, 200) for _ in range(4000)]
    shares = [
        (trained[rows].mean() - pruned[rows].mean()) / (dense[rows].mean() - pruned[rows].mean())
        for rows in drawn
    ]
    low, high = np.quantile(shares, [0.025, 0.975])
    assert (found["recovered_low"], found["recovered_high"]) == pytest.approx((low, high), abs=0.02)


def test_where_pruning_took_nothing_for_sure_there_is_no_interval():
    rng = np.random.default_rng(4)
    same = [rng.random(60) < 0.5 for _ in range(3)]
    found = recovered._share(items(*same), metrics.describe("acc"))
    assert np.isnan(found["recovered_low"])
    assert np.isnan(found["recovered_high"])


def test_where_training_spoils_the_dense_model_nothing_is_brought_back():
    best, spoilt = np.ones(60), np.zeros(60)  # pruned, and dense trained: the share would be 100 %
    up = recovered._share(items(best, spoilt, spoilt), metrics.describe("acc"))
    assert np.isnan([up["recovered"], up["recovered_low"]]).all()
    down = [replace(one, columns={"empty": one.columns["acc"]}) for one in items(best, spoilt, spoilt)]
    assert recovered._share(down, metrics.describe("empty"))["recovered"] == 1


def test_calibration_by_rank_is_in_keys_and_names(tmp_path):
    file = tmp_path / "small.yaml"
    ranked = "calibration: {sequences: 4, length: 64, select: [random, perplexity], keep: [low, high]}\n"
    file.write_text(ranked + HEAD + "  - {method: [wanda, magnitude], sparsity: 0.5}\n")
    made = plan(read(file))
    names = [variant.name for variant in made.variants]
    assert names == [
        "dense",
        "wanda-0.5",
        "wanda-0.5-perplexity-low",
        "wanda-0.5-perplexity-high",
        "magnitude-0.5",
    ]
    assert [one.calibration and one.calibration.select for one in made.variants] == [
        None,
        "",
        "perplexity low 2",
        "perplexity high 2",
        None,
    ]
    assert len({*made.keys}) == 5
    file.write_text(file.read_text().replace("select: [random, perplexity], keep: [low, high]", "seed: 0"))
    plain = plan(read(file))
    assert set(plain.keys) <= {*made.keys}  # random is as before there was a choice


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        ("{keep: low}", "keep is of ranked text"),
        ("{select: perplexed}", "unknown way to select text 'perplexed'; did you mean 'perplexity'"),
        ("{select: length, sequences: 300, length: 256}", "300 windows of 256 tokens are chosen of 600"),
    ],
)
def test_calibration_that_cannot_be_ranked_is_refused(tmp_path, calibration, message):
    file = tmp_path / "small.yaml"
    file.write_text(f"calibration: {calibration}\n" + HEAD + "  - {method: wanda, sparsity: 0.5}\n")
    with pytest.raises(KickError, match=r"small\.yaml:1") as refused:
        plan(read(file))
    assert message in str(refused.value)


def drawn(texts):
    """Embeddings in place of MiniLM's."""
    return torch.rand(len(texts), 4, generator=torch.Generator().manual_seed(5))


def test_text_that_is_ranked_is_calibrated_and_trained_on(tmp_path, monkeypatch):
    for module in (recovering, ranking):
        monkeypatch.setattr(module, "cache_root", lambda: tmp_path)
    monkeypatch.setattr(paser, "embedded", drawn)
    monkeypatch.setattr(paser.Paser.__init__, "__defaults__", (paser.embedded,))
    (asked,) = tasks.load(["kick_mini_perplexity"]).values()
    known = corpus.CORPORA["kick_mini_calibration"]
    leaking = replace(known, texts=lambda root: [*known.texts(root), asked.texts()[0][-200:]])
    monkeypatch.setitem(corpus.CORPORA, known.name, leaking)
    calls = []
    monkeypatch.setattr(corpus, "tokenised", counted(corpus.tokenised, calls))
    file = tmp_path / "small.yaml"
    step = "recover: perp, tokens: 640, length: 64, corpus: kick_mini_calibration"
    pruned = "{method: wanda, sparsity: 0.5}"
    file.write_text(
        "calibration: {sequences: 4, length: 64, select: perplexity, keep: low}\n"
        + HEAD
        + f"  - {pruned}\n"
        + "".join(f"  - {{recipe: [{pruned}, {{{step}, select: {one}}}]}}\n" for one in ("el2n", "paser"))
    )
    _, summary = run(str(file), RunOptions(str(tmp_path / "out"), executor="inline", view="json"), [], str)
    assert summary.status == 0
    assert len(calls) == 1  # for calibration and both trainings
    found = {one.cell.variant.name: one for one in Store(str(tmp_path / "out")).runs()}
    facts = {
        one["selection"]["select"]: one["selection"]
        for run in found.values()
        for step in run.compression.get("steps", ())
        if (one := step.get("training"))
    }
    assert facts["el2n"]["candidates"] == facts["paser"]["candidates"] == 20
    assert sum(facts["paser"]["budgets"]) == 10
    assert len(list((tmp_path / "rankings").iterdir())) == 2
    for one in found.values():  # text of the task was trained on, or calibrated on alone
        trained = len(one.cell.variant.recipe) == 2
        assert one.counts.get("leaked", 0) == trained
        assert any("share 13 words in a row" in warning for warning in one.warnings) == trained
    results = frame.read([Store(str(tmp_path / "out"))])
    assert "wanda 50 % (low perplexity text)" in {cell.label for cell in results.cells}
    whole = results.frame[results.frame["primary"]]
    assert sorted(whole["leaked"]) == [0, 0, 1, 1]
    means, _ = kept(whole)
    assert means.empty  # no average of a task whose text was trained on


def counted(function, calls):
    def count(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return count
