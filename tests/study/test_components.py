"""The component study: the short way gives the numbers of the long one, and what is done is kept."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch

from kick import cli, compress, model, tasks
from kick.analysis import frame
from kick.compress.calibrate import corpus
from kick.engine import Engine
from kick.engine.network import Network
from kick.model import linears
from kick.records import CalibrationSpec, Job, Request
from kick.report import figures
from kick.store import Store
from kick.study import components, pages
from kick.study.depth import Depth, replaced
from kick.sweep.worker import Worker
from tests.engine.conftest import build
from tests.support.architectures import ARCHITECTURES, VOCABULARY, tiny

SMALL = {"prompts": 5, "limit": 6, "executor": "inline"}


# ------------------------------------------------------------------------------ entering in the middle


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_entering_at_a_block_gives_the_logits_of_the_whole_changed_model(name):
    network = Network(tiny(name))
    depth, generator = Depth(network), torch.Generator().manual_seed(3)
    ids = torch.randint(3, VOCABULARY, (3, 20), generator=generator)
    state = depth.start(ids)
    dense = network.hidden(ids)
    for block, module in enumerate(depth.modules):
        for linear in linears(module):
            before = linear.weight.clone()
            changed = linear.weight * (torch.rand(linear.weight.shape, generator=generator) > 0.5)
            with replaced(linear, changed):
                found = network.logits(depth.finish(ids, block, state)[0])
                with torch.inference_mode():
                    whole = network.model(ids, use_cache=False).logits[0]
            assert torch.allclose(found, whole.float(), rtol=0, atol=1e-5), (block, linear.name)
            assert torch.equal(linear.weight, before)
        depth.check(ids, block, state)
        if block + 1 < depth.blocks:
            state = depth.advance(ids, block, state)
    assert torch.equal(network.hidden(ids), dense)


# ------------------------------------------------------------------------------ one matrix at a time


def saved(name, tokenizer, folder):
    """A tiny model of an architecture with a tokenizer that knows every text."""
    build(name, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def options(name, out, method="wanda", sparsity=0.5, **more):
    step = compress.canonical(method, {"sparsity": sparsity})
    spec = CalibrationSpec("kick_mini_calibration", 2, 48)
    return components.StudyOptions(name, step, spec, str(out), **(SMALL | more))


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "mixtral"])
def test_the_numbers_are_those_of_the_worker_that_compresses_the_whole_model(name, tmp_path):
    tokenizer = model.load(model.resolve("smoke"))[1]
    folder = saved(name, tokenizer, tmp_path / "model")
    study = components.plan(options(folder, tmp_path / "short"))
    work = components.work(study, ())
    dense = study.whole(study.dense, 0)
    jobs = study.by_block()
    for job in [dense, *jobs]:
        work(job)
    long = Worker(str(tmp_path / "long"), "long", study.dense, tuple(study.tasks))
    long(dense)
    short, whole = Store(tmp_path / "short", components.MATRIX), Store(tmp_path / "long", "long")
    chosen = [cell for job in jobs for cell in job.cells][:: 3 if name == "llama" else 5]
    for cell in chosen:
        long(Job(cell.variant, (cell,)))
        mine, theirs = short.result(cell.key), whole.result(cell.key)
        (step,), (other,) = mine.compression["steps"], theirs.compression["steps"]
        assert (step["pruned"], step["weights"]) == (other["pruned"], other["weights"])
        for one, two in zip(short.samples(cell.key), whole.samples(cell.key), strict=True):
            assert (one.item, one.prompt) == (two.item, two.prompt)
            assert (one.scores["fdt"], one.scores["sdt"]) == (two.scores["fdt"], two.scores["sdt"])
            assert one.scores["kl_mean"] == pytest.approx(two.scores["kl_mean"], rel=1e-3, abs=1e-5)


def test_an_engine_asked_by_hand_agrees(finished):
    study, store = finished
    matrix = study.matrices[10]
    cell = study.cell(study.alone(matrix), study.options.probe)
    network, tokenizer = model.load(study.model)
    reference = {s.item: s for s in store.samples(study.cell(study.dense, study.options.probe).key)}
    items = study.tasks[study.options.probe].items(cell.task, tokenizer, reference)
    compress.compress(
        network,
        [cell.variant.recipe[0]],
        corpus.sequences(cell.variant.calibration, tokenizer),
        propagate="dense",
    )
    asked: list[Request] = [item.requests[0] for item in items]
    for answer, sample in zip(Engine(network, tokenizer).answer(asked), store.samples(cell.key), strict=True):
        assert answer.values["fdt"] == sample.scores["fdt"]


# ------------------------------------------------------------------------------ the whole study


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished study of the model `smoke`, and its store."""
    out = tmp_path_factory.mktemp("study")
    study, store, summary = components.run(options("smoke", out), ["kick"], lambda text: None)
    assert summary.status == 0
    return study, store


def test_both_allocations_prune_the_same_number_of_weights(finished):
    study, store = finished
    guided = study.guided(components.allocation(study, store))
    keys = [study.cell(one, study.options.fidelity).key for one in (study.uniform, guided)]
    even, uneven = (store.result(key).compression["steps"][0] for key in keys)
    assert even["pruned"] == uneven["pruned"] == even["weights"] // 2
    assert len(set(guided.recipe[0].options["sparsities"].values())) > 10


def test_the_allocation_is_chosen_on_other_prompts_than_it_is_judged_on(finished):
    study, store = finished
    dense = [study.cell(study.dense, task).key for task in (study.options.probe, study.options.fidelity)]
    chosen, judged = ({sample.preview for sample in store.samples(key)} for key in dense)
    assert len(chosen) == 5
    assert len(judged) == 6
    assert not chosen & judged


def test_a_finished_study_computes_nothing_again(finished):
    study, _ = finished
    before = {file: file.stat().st_mtime_ns for file in Path(study.options.out).rglob("run.json")}
    _, _, summary = components.run(study.options, ["kick"], lambda text: None)
    assert (summary.done, summary.status) == (0, 0)
    assert before == {file: file.stat().st_mtime_ns for file in Path(study.options.out).rglob("run.json")}


def test_an_interrupted_study_goes_on_where_it_was(finished, tmp_path):
    study, store = finished
    again = components.plan(options("smoke", tmp_path))
    work, jobs = components.work(again, ()), again.by_block()
    work(again.whole(again.dense, 0))
    work(jobs[2])
    done = {cell.key for cell in jobs[2].cells}
    kept = Store(tmp_path, components.MATRIX)
    times = {key: kept.result(key).provenance["time"] for key in done}
    _, _, summary = components.run(again.options, ["kick"], lambda text: None)
    assert summary.status == 0
    for matrix in again.matrices:  # entered at another block first, and yet the same to the bit
        key = again.cell(again.alone(matrix), again.options.probe).key
        assert repr([s.scores for s in kept.samples(key)]) == repr([s.scores for s in store.samples(key)])
        if key in done:
            assert kept.result(key).provenance["time"] == times[key]
    assert components.allocation(again, kept) == components.allocation(study, store)


def test_the_pages_say_what_was_measured(finished, tmp_path):
    study, store = finished
    parts, compared, files = pages.write(study, store, tmp_path)
    assert {file.name for file in files} >= {"matrices.csv", "components.md", "components.png"}
    page = (tmp_path / "components.md").read_text()
    assert "Both prune 86,016 of 172,032 weights (50.0000 %)" in page
    assert "28 matrices pruned alone, 5 prompts" in page
    assert "random weights" in page
    assert [row[0] for row in parts.rows][:2] == ["self_attn.q_proj", "self_attn.k_proj"]
    assert [row[1] for row in compared.rows] == ["6"] * 4
    found = pages.matrices(study, store)
    assert list(found["fdt"]) == sorted(found["fdt"])
    weighted = (found["guided_sparsity"] * found["weights"]).sum() / found["weights"].sum()
    assert weighted == pytest.approx(0.5, abs=1e-12)
    assert (found["fdt_low"] <= found["fdt"]).all()
    assert not found.isna().any().any()


def test_two_matrices_of_one_name_stand_apart(tmp_path):
    tokenizer = model.load(model.resolve("smoke"))[1]
    study = components.plan(options(saved("gpt2", tokenizer, tmp_path / "model"), tmp_path / "out"))
    work = components.work(study, ())
    for job in [study.whole(study.dense, 0), *study.by_block()]:
        work(job)
    figures.draw(frame.read([Store(tmp_path / "out")]).frame, tmp_path, names=["components"])
    heat = pd.read_csv(tmp_path / "components.csv")
    assert sorted(set(heat["component"])) == ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
    assert len(heat) == 2 * 4


# ------------------------------------------------------------------------------ the command line


@pytest.fixture
def kick(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main(["study", "components", *(str(one) for one in arguments)])
        told = capsys.readouterr()
        return ended.value.code or 0, told.out, told.err

    return run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "wnda", "--sparsity", "0.5"], ["unknown method 'wnda'", "'wanda'", "--plugins"]),
        (["--method", "wanda", "--sparsity", "1.5"], ["1.5", "out of range"]),
        (["--method", "wanda", "--sparsity", "0"], ["between 0 and 1"]),
        (["--method", "wanda", "--sparsity", "2:4"], ["2:4", "a share between"]),
        (["--method", "flap", "--share", "0.5"], ["makes matrices smaller", "wanda"]),
        (["--method", "rtn", "--bits", "4"], ["rounds weights", "magnitude"]),
        (["--method", "sparsegpt", "--sparsity", "0.5"], ["share for each matrix", "wanda"]),
        (["--method", "magnitude", "--sparsity", "0.5", "--per", "global"], ["one threshold"]),
        (["--method", "wanda", "--sparsity", "0.95"], ["spread: got 0.1", "at most 0.05"]),
        (["--method", "wanda", "--sparsity", "0.5", "--prompts", "1"], ["prompts: got 1", "at least 2"]),
        (["--method", "wanda", "--sparsity", "0.5", "--probe", "kick_mini_fidelity"], ["share 94 prompts"]),
        (["--method", "wanda", "--sparsity", "0.5", "--probe", "kick_mini_mcq"], ["protocol 'fidelity'"]),
        (["--method", "wanda", "--sparsity", "0.5", "--corpus", "c5"], ["unknown calibration corpus 'c5'"]),
        (["--method", "wanda", "--sparsity", "0.5", "--method", "rtn", "--bits", "4"], ["one method; got 2"]),
        ([], ["--method is missing"]),
    ],
)
def test_what_is_wrong_is_told_before_a_model_is_loaded(kick, monkeypatch, tmp_path, arguments, words):
    monkeypatch.setattr(model, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    monkeypatch.setattr(model, "resolve", lambda *_, **__: pytest.fail("a model was looked for"))
    status, _, err = kick("smoke", "--out", tmp_path / "out", *arguments)
    assert status == 2
    for word in words:
        assert word in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_an_unknown_model_is_refused(kick, tmp_path):
    status, _, err = kick("smok", "--method", "wanda", "--sparsity", "0.5", "--out", tmp_path)
    assert (status, "'smoke'" in err) == (2, True)


def test_magnitude_needs_no_calibration_and_counts_by_matrix(kick, tmp_path):
    status, out, _ = kick(
        "smoke", "--method", "magnitude", "--sparsity", "0.33", "--spread", "0.2", "--out", tmp_path,
        "--executor", "inline", "--prompts", 3, "--limit", 3,
    )  # fmt: skip
    assert status == 0
    assert "guided - uniform" in out
    runs = [json.loads(file.read_text()) for file in tmp_path.glob("components/*/run.json")]
    whole = [run for run in runs if run["cell"]["variant"]["recipe"] and "only" not in str(run["cell"])]
    assert len({run["compression"]["steps"][0]["pruned"] for run in whole}) == 1
    assert all(math.isfinite(run["scores"][0]["value"]) for run in runs)


def test_the_probe_task_is_listed(capsys):
    assert "kick_mini_fidelity_calibration" in tasks.names()
