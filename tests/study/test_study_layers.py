"""The layer study: the short way gives the numbers of dropping the block by hand, metrics those of torch."""

import copy
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from typer.testing import CliRunner

from kick import model
from kick.cli import app
from kick.compress import canonical, check
from kick.engine.packed.trust import packs_well
from kick.errors import KickError
from kick.model import block_list, blocks
from kick.records import CalibrationSpec, Job
from kick.stats import metrics
from kick.stats.ranks import spearman
from kick.store import Store
from kick.study import blockmetrics, dropping, harm, layer_pages, layers
from kick.study.dropping import DropReader
from kick.sweep.worker import Worker
from tests.support.architectures import ARCHITECTURES, VOCABULARY, sequences, tiny

ASKED = ("kick_mini_mcq", "kick_mini_closed")  # of likelihood, and generated


def by_hand(network, block):
    """A copy of a model without a block, made as one would at a prompt."""
    made = copy.deepcopy(network)
    modules = block_list(made)[1]
    del modules[block]
    made.config.num_hidden_layers -= 1
    for index, module in enumerate(modules):
        for part in module.modules():
            if hasattr(part, "layer_idx"):
                vars(part)["layer_idx"] = index
    return made


# ------------------------------------------------------------------------------ one block dropped


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_read_behind_a_block_is_what_the_smaller_model_reads(name):
    network, generator = tiny(name), torch.Generator().manual_seed(4)
    stem = tuple(torch.randint(3, VOCABULARY, (20,), generator=generator).tolist())
    texts = [stem[:12], stem, (*stem, 5, 7, 9), (4, *stem[:9])]
    readings = [(ids, 3) for ids in texts]
    reader = DropReader(network, 40)  # several forwards
    with torch.inference_mode():
        for block in (1, 0, 2):  # the states go on, and back to the start
            reader.dropped, small = block, by_hand(network, block)
            found = dict(one for batch in reader.read(readings) for one in batch)
            for index, ids in enumerate(texts):
                whole = small(torch.tensor([ids]), use_cache=False).logits[0, -3:].float()
                assert torch.allclose(reader.network.logits(found[index]), whole, rtol=0, atol=2e-5), block
    assert packs_well(reader.network) == (name != "mamba")  # both ways of reading were seen
    assert len(blocks(network)) == 3


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished study of the model `smoke`, and its store."""
    study, store, summary = layers.run(
        options(tmp_path_factory.mktemp("layers")), ["kick"], lambda text: None
    )
    assert summary.status == 0
    return study, store


def options(out, **more):
    spec = CalibrationSpec("kick_mini_calibration", 2, 48)
    small = {"limit": 3, "windows": 4, "tasks": ASKED, "executor": "inline"}
    return layers.LayerOptions("smoke", spec, str(out), **(small | more))


def test_cells_are_those_of_the_worker_that_drops_the_block_and_reads_all(finished, tmp_path):
    study, store = finished
    long, kept = Worker(str(tmp_path), "long", study.dense, tuple(study.tasks)), Store(tmp_path, "long")
    long(study.jobs()[0])
    for block in (0, study.blocks - 1):
        cells = tuple(study.cell(study.without(block), task) for task in study.tasks)
        long(Job(cells[0].variant, cells))
        for cell in cells:
            mine, theirs = store.result(cell.key), kept.result(cell.key)
            (step,), (other,) = mine.compression["steps"], theirs.compression["steps"]
            assert (step["removed"], step["weights"]) == (other["removed"], other["weights"])
            assert mine.compression["notes"] == theirs.compression["notes"]
            for one, two in zip(store.samples(cell.key), kept.samples(cell.key), strict=True):
                assert [answer.text for answer in one.responses] == [answer.text for answer in two.responses]
                for name, value in one.scores.items():
                    assert value == pytest.approx(two.scores[name], rel=1e-3, abs=1e-5, nan_ok=True), name


def test_a_finished_study_computes_nothing_again(finished, monkeypatch):
    study, _ = finished
    layers.measured(study)
    monkeypatch.setattr(model, "load", lambda *_args, **_options: pytest.fail("a model was loaded"))
    _, _, summary = layers.run(study.options, ["kick"], lambda text: None)
    assert (summary.done, summary.status) == (0, 0)
    assert set(layers.measured(study)) == set(blockmetrics.NAMES)


def test_several_workers_have_about_the_same_to_do(finished):
    study, _ = finished
    cells = [cell for job in study.jobs()[1:] for cell in job.cells]
    parts = dropping.pending(cells, 3)
    numbers = [sorted({dropping.block_of(cell.variant) for cell in part}) for part in parts]
    assert sorted(one for part in numbers for one in part) == list(range(study.blocks))
    assert max(map(len, numbers)) - min(map(len, numbers)) <= 1
    assert sorted(cell.key for part in parts for cell in part) == sorted(cell.key for cell in cells)


def test_a_block_that_is_not_there_is_refused():
    network = tiny("llama")
    check(network, [canonical("drop-block", {"block": 2})])
    with pytest.raises(KickError, match="got block 3; expected: 0 to 2"):
        check(network, [canonical("drop-block", {"block": 3})])


# ------------------------------------------------------------------------------ metrics


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_metrics_are_those_that_torch_gives_without_hooks(name):
    network, data = tiny(name), sequences()[:3]
    found = blockmetrics.of_states(network, data) | blockmetrics.of_weights(network, data)
    with torch.no_grad():
        states = [network(ids, output_hidden_states=True).hidden_states for ids in data]
    for block in range(len(blocks(network)) - 1):  # the last state that transformers gives is after the norm
        cosines = [
            torch.cosine_similarity(s[block].double(), s[block + 1].double(), dim=-1)[0] for s in states
        ]
        assert found["block influence"][block] == pytest.approx(
            1 - float(torch.cat(cosines).mean()), rel=1e-6
        )
        angle = np.mean([math.acos(float(one[-1])) for one in cosines]) / math.pi
        assert found["angular distance"][block] == pytest.approx(angle, rel=1e-6)
    for block, module in enumerate(blocks(network)):
        weights = [one for key, one in module.named_parameters() if "bias" not in key]
        assert found["magnitude l1"][block] == pytest.approx(
            sum(float(w.abs().sum()) for w in weights), rel=1e-5
        )
        assert found["magnitude l2"][block] == pytest.approx(
            sum(float((w**2).sum()) for w in weights), rel=1e-5
        )
        for weight in weights:
            weight.requires_grad_(True)
        loss = sum(network(ids, labels=ids).loss for ids in data)
        slopes = torch.autograd.grad(loss, weights)
        taylor = sum(float((w * g).abs().sum().detach()) for w, g in zip(weights, slopes, strict=True))
        for weight in weights:
            weight.requires_grad_(False)
        assert found["taylor"][block] == pytest.approx(taylor, rel=1e-4)
    assert found["reverse order"] == [3, 2, 1]


def test_the_perplexity_of_a_metric_is_that_of_the_smaller_model(finished):
    study, _ = finished
    network, tokenizer = model.load(study.model)
    data = [one.remainder(len(tokenizer)) for one in sequences()[:2]]
    found = blockmetrics.perplexities(dropping.DropEngine(network, tokenizer), data)
    for block, perplexity in enumerate(found):
        with torch.no_grad():
            losses = [float(by_hand(network, block)(ids, labels=ids).loss) for ids in data]
        assert perplexity == pytest.approx(math.exp(np.mean(losses)), rel=1e-4)


# ------------------------------------------------------------------------------ harm


def test_rank_correlations_are_scipys():
    rng = np.random.default_rng(2)
    values, rows = rng.normal(size=12), rng.integers(0, 5, size=(6, 12)).astype(float)
    wanted = [stats.spearmanr(values, row).statistic for row in rows]
    np.testing.assert_allclose(spearman(values, rows), wanted, atol=1e-12)
    assert np.isnan(spearman(values, np.ones((1, 12)))).all()
    assert harm.chance(30) == pytest.approx(0.361, abs=5e-4)  # the table's value for Pearson's r, 28 degrees


def measure(losses, units=None):
    """A perplexity measure of made-up losses (blocks, items)."""
    columns = {} if units is None else {"document": np.array(units, float)}
    made = [harm.items.Items(tuple(map(str, range(losses.shape[1]))), ("",) * losses.shape[1],
                             {"nll": row} | columns) for row in [losses[0] * 0, *losses]]  # fmt: skip
    return harm.Measure("text", metrics.describe("perplexity"), made[0], tuple(made[1:]))


def test_a_metric_that_knows_the_harm_ranks_as_it_and_its_opposite_against_it():
    losses = np.arange(8.0)[:, None] + np.random.default_rng(0).normal(size=(8, 30)) * 0.01
    known, turned, flat = (list(range(8)), [-one for one in range(8)], [1.0] * 8)
    found = harm.correlations({"known": known, "turned": turned, "flat": flat}, [measure(losses)])
    assert [one.rho for one in found[:2]] == [1, -1]
    assert (found[0].low, found[0].high, found[0].n) == (1, 1, 30)
    assert math.isnan(found[2].rho)


def test_items_of_one_document_count_once():
    """Ten windows of each of four documents: intervals are about those of four items, not of forty."""
    rng = np.random.default_rng(1)
    of_documents = rng.normal(size=(8, 4))
    known = list(of_documents.mean(axis=1))
    losses = np.repeat(of_documents, 10, axis=1)
    apart, together = (
        harm.correlations({"known": known}, [measure(losses, units)])[0]
        for units in (range(40), np.repeat(range(4), 10))
    )
    assert (apart.units, together.units) == (40, 4)
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_pages_say_what_was_measured(finished, tmp_path):
    study, store = finished
    tables, files = layer_pages.write(study, store, tmp_path)
    assert {file.name for file in files} == {
        "layers.csv",
        "metrics.csv",
        "layers.md",
        "layers.png",
        "layers.pdf",
    }
    data, page = pd.read_csv(tmp_path / "layers.csv"), (tmp_path / "layers.md").read_text()
    assert len(data) == study.blocks * 5  # perplexity, FDT, KL and two tasks
    row = data[(data["block"] == 1) & (data["measure"] == "perplexity")].iloc[0]
    cell = study.cell(study.without(1), study.options.perplexity)
    (score,) = [one for one in store.result(cell.key).scores if one.metric == "perplexity"]
    assert (row["value"], row["low"]) == pytest.approx((score.value, score.low))
    assert row["harm"] == pytest.approx(row["value"] - row["dense"])
    late = data[(data["block"] == 1) & (data["measure"] == "fdt")].iloc[0]
    assert late["harm"] == pytest.approx(late["dense"] - late["value"])
    assert [len(table.rows) for table in tables] == [len(blockmetrics.NAMES), study.blocks + 1]
    assert "random weights" in page
    assert "perplexity" in page


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"limit": 1}, "limit: got 1"),
        ({"windows": 1}, "windows: got 1"),
        ({"tasks": ("kick_mini_mqc",)}, "kick_mini_mcq"),
        ({"fidelity": "kick_mini_mcq"}, "does not have the protocol 'fidelity'"),
        ({"perplexity": "kick_mini_mcq"}, "does not have the protocol 'perplexity'"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_is_loaded(more, words, tmp_path, monkeypatch):
    monkeypatch.setattr(model, "load", lambda *_args, **_options: pytest.fail("a model was loaded"))
    with pytest.raises(KickError, match=words):
        layers.plan(options(tmp_path, **more))


def test_the_command_ends_with_status_2_for_a_corpus_that_is_not_known(tmp_path):
    told = CliRunner().invoke(
        app, ["study", "layers", "smoke", "--corpus", "nowhere", "--out", str(tmp_path)]
    )
    assert isinstance(told.exception, KickError)
    assert "nowhere" in str(told.exception)
    assert not list(Path(tmp_path).iterdir())
