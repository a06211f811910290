"""Variants of a layered matrix go through the blocks together: the cells are those of jobs of their own."""

import shutil
from dataclasses import replace

import pytest
import torch
import transformers as tf

import kick
from kick import api
from kick.compress.methods.wanda import Wanda
from kick.engine.layers.forwards import TreeForward
from kick.engine.layers.reader import LayeredReader
from kick.model.layered import Layered
from kick.model.source import locate
from kick.records import ModelSpec, Step, Variant
from kick.store import Store
from kick.sweep import onepass, reproduce
from kick.sweep.executors.local import Local
from kick.sweep.groups import grouped, one_pass, split, title
from kick.sweep.loop import run_sweep
from tests.support.fake_sweep import MATRIX as FAKE
from tests.support.fake_sweep import FakeWork, fake_jobs
from tests.support.pairs import COSTS

MATRIX = """
name: m
model: {model}
tasks: [kick_mini_mcq, kick_mini_perplexity]
limit: {{kick_mini_mcq: 5, kick_mini_perplexity: 2}}
calibration: {{corpus: kick_mini_calibration, sequences: 2, length: 48{calibration}}}
variants:
  - {{method: wanda, sparsity: [0.3, 0.6]}}
  - {{method: gptq, bits: 4, group_size: 32}}
  - {{method: random, sparsity: 0.2}}
{more}
replicas: []
engine: {engine}
"""
LAYERED, PACKED = "{name: layered, memory: 100MB}", "{name: packed}"
MORE = """
  - {method: owl, sparsity: 0.5}
  - recipe: [{method: wanda, sparsity: 0.5}, {method: rtn, bits: 4, group_size: 32}]
"""


def matrix(engine, model="smoke", more="", calibration=""):
    return MATRIX.format(engine=engine, model=model, more=more, calibration=calibration)


def run(text, out, **options):
    return api.run(text, options=kick.RunOptions(out=str(out), executor="inline", **options))


def answers(out):
    """By key: what was answered, and the record."""
    store = Store(str(out), "m")
    return {result.key: ([s.responses for s in store.samples(result.key)], result) for result in store.runs()}


def same(found, wanted):
    assert found.keys() == wanted.keys(), "the keys are those of jobs of their own"
    for key, (responses, result) in found.items():
        others, other = wanted[key]
        for one, two in zip(responses, others, strict=True):
            for a, b in zip(one, two, strict=True):
                assert a.logprob == pytest.approx(b.logprob, rel=1e-5, abs=1e-5)
                assert (a.greedy, a.count) == (b.greedy, b.count)
        plain = [
            [{k: v for k, v in s.items() if k not in COSTS} for s in run.compression.get("steps", ())]
            for run in (result, other)
        ]
        assert plain[0] == plain[1]
        assert result.compression["footprint"] == other.compression["footprint"]


@pytest.fixture(scope="module")
def neox(tmp_path_factory):
    """Another architecture, with the tokenizer of the model smoke."""
    folder = tmp_path_factory.mktemp("neox")
    config = tf.GPTNeoXConfig(
        vocab_size=512, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=2048, initializer_range=0.1, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    tf.GPTNeoXForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    for file in locate("smoke").glob("*token*"):
        shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A folder with the results of the matrix, all variants in one pass."""
    folder = tmp_path_factory.mktemp("once")
    assert run(matrix(LAYERED), folder).failed == 0
    return folder


@pytest.fixture
def loads(monkeypatch):
    """The numbers of the blocks that were read."""
    load, found = Layered.load, []
    monkeypatch.setattr(Layered, "load", lambda self, index: found.append(index) or load(self, index))
    return found


@pytest.mark.parametrize(("name", "propagate"), [("llama", "compressed"), ("gpt_neox", "dense")])
def test_cells_are_those_of_variants_in_memory(name, propagate, tmp_path, neox):
    model, more = ("smoke", MORE) if name == "llama" else (neox, "")
    found = {}
    for way, engine in (("together", LAYERED), ("memory", PACKED)):
        ran = run(matrix(engine, model, more, f", propagate: {propagate}"), tmp_path / way)
        assert ran.failed == 0
        found[way] = answers(tmp_path / way)
    same(found["together"], found["memory"])


def test_a_group_reads_each_block_once_per_variant_and_stores_no_weights(tmp_path, loads, monkeypatch):
    monkeypatch.setattr("kick.sweep.onepass.Apart.__call__", None)  # nothing is compressed to a folder
    run(matrix(LAYERED), tmp_path)
    probes = [0, 1]
    zeros = passed = list(range(4))
    dense = [*zeros, *probes, *passed]
    assert loads == [*dense, *(index for index in range(4) for _ in range(4))], "tried once"
    for _, result in answers(tmp_path).values():
        assert result.provenance["engine"]["passes"] == 1
        assert result.seconds["answer"] > 0


def test_fidelity_goes_through_the_blocks_with_the_group_once_dense_has_continued(tmp_path, monkeypatch):
    tasks = "tasks: [kick_mini_mcq, kick_mini_perplexity]"
    limits = "{kick_mini_mcq: 5, kick_mini_perplexity: 2}"
    found = {}
    for way, engine in (("together", LAYERED), ("memory", PACKED)):
        text = matrix(engine).replace(tasks, "tasks: [kick_mini_fidelity]").replace(limits, "3")
        with monkeypatch.context() as patch:
            patch.setattr("kick.sweep.onepass.Apart.__call__", None)  # nothing is compressed to a folder
            before = api.plan(text, out=str(tmp_path / way)).lines()
            assert run(text, tmp_path / way).failed == 0
            after = api.plan(text, out=str(tmp_path / way)).lines()
        said = "kick_mini_fidelity: dense's continuations are generated once: at most 48 passes over"
        assert [any(line.startswith(said) for line in lines) for lines in (before, after)] == [
            way == "together",
            False,
        ]
        found[way] = answers(tmp_path / way)
    assert found["together"].keys() == found["memory"].keys()
    for key, (responses, result) in found["together"].items():
        dense = result.cell.variant.dense
        assert dense or result.provenance["engine"]["passes"] == 1
        for one, two in zip(responses, found["memory"][key][0], strict=True):
            assert [answer.tokens for answer in one] == [answer.tokens for answer in two]
            values, others = dict(one[-1].values), dict(two[-1].values)
            assert values == pytest.approx(others, rel=1e-4, abs=1e-5, nan_ok=True)
            assert (values["kl_mean"] < 1e-6) is dense


def test_a_cell_is_asked_again_block_by_block_if_it_was_measured_so(once, loads, monkeypatch):
    monkeypatch.setattr("kick.model.load", None)  # the model whole is never in memory
    stored = Store(str(once), "m")
    (cell,) = (
        run
        for run in stored.runs()
        if (run.cell.variant.name, run.cell.task.name) == ("wanda-0.3", "kick_mini_mcq")
    )
    assert reproduce.reproduce(f"{once}/m/{cell.key}").equal
    assert loads


def test_a_budget_for_one_variant_means_a_pass_for_each(tmp_path, loads, monkeypatch, once):
    monkeypatch.setattr(LayeredReader, "bytes_of", lambda self, jobs: 60_000_000)
    run(matrix(LAYERED), tmp_path)
    assert loads[-16:] == list(range(4)) * 4
    same(answers(tmp_path), answers(once))


def test_a_passs_cells_are_stored_and_its_states_let_go_before_the_next(tmp_path, monkeypatch):
    go, stored, members = onepass._Pass.run, [], []

    def watched(self):
        stored.append(len(list(Store(str(tmp_path), "m").runs())))
        assert not any(one.engine.layers.known for one in members)
        go(self)
        members.extend(self.members)
        assert self.members[0].engine.layers.known

    monkeypatch.setattr(LayeredReader, "bytes_of", lambda self, jobs: 60_000_000)
    monkeypatch.setattr(onepass._Pass, "run", watched)
    assert run(matrix(LAYERED), tmp_path).failed == 0
    assert stored == [2, 4, 6, 8], "dense's two cells, then two of each variant"
    assert not any(one.engine.layers.known for one in members)
    trees = [job for one in members for job in one.jobs if isinstance(job, TreeForward)]
    assert trees
    assert all(node.hidden is None for tree in trees for node, _, _ in tree.pack.placed)


def test_what_does_not_fit_at_all_is_read_in_parts_from_a_folder(tmp_path, once):
    run(matrix("{name: layered, memory: 1MB}"), tmp_path)
    found = answers(tmp_path)
    same(found, answers(once))
    assert max(result.provenance["engine"]["passes"] for _, result in found.values()) > 1


def test_a_variant_that_fails_costs_the_others_nothing_and_is_tried_again(tmp_path, monkeypatch, once):
    compress, text, blocks = Wanda.__call__, matrix(LAYERED), []

    def fails(self, model, calibration):
        if str(self.sparsity) == "0.6":
            blocks.append(1)
            if len(blocks) == 3:
                raise ValueError("the sum is not finite")
        compress(self, model, calibration)

    monkeypatch.setattr(Wanda, "__call__", fails)
    ran = run(text, tmp_path / "m")
    assert (ran.failed, ran.done) == (2, 8)
    store = Store(str(tmp_path / "m"), "m")
    assert {failure.cell.variant.name for failure in store.failures()} == {"wanda-0.6"}
    assert all("the sum is not finite" in failure.cause for failure in store.failures())
    monkeypatch.undo()
    assert run(text, tmp_path / "m", retry_failed=True).failed == 0
    same(answers(tmp_path / "m"), answers(once))


def test_answered_cells_are_not_asked_again(tmp_path, loads, once):
    text = matrix(LAYERED)
    shutil.copytree(once, tmp_path, dirs_exist_ok=True)
    store = Store(str(tmp_path), "m")
    lost = [r for r in store.runs() if r.cell.variant.name in ("wanda-0.3", "random-0.2")]
    lost = [r for r in lost if r.cell.task.name == "kick_mini_mcq"]
    wanted = answers(tmp_path)
    for result in lost:
        shutil.rmtree(tmp_path / "m" / result.key)
    loads.clear()
    ran = run(text, tmp_path)
    assert ran.failed == 0
    assert loads == [0, 1, *(index for index in range(4) for _ in range(2))]
    same(answers(tmp_path), wanted)


# ------------------------------------------------------------------------------ jobs, with fake work


def test_jobs_are_merged_for_as_many_workers_as_there_are():
    jobs = fake_jobs(6)
    two = grouped(jobs, 2)
    assert [[one.name for one in job.variants] for job in two] == [
        ["dense"],
        ["wanda-1", "wanda-3", "wanda-5"],
        ["wanda-2", "wanda-4"],
    ]
    assert sum(job.cost for job in two) == sum(job.cost for job in jobs)
    assert [part.cells for job in grouped(jobs, 1) for part in split(job)] == [job.cells for job in jobs]
    assert title(grouped(jobs, 1)[1]) == "wanda-1 and 4 more"


@pytest.mark.parametrize(
    ("change", "able"),
    [
        ({}, True),
        ({"recipe": ()}, False),
        ({"recipe": (Step("wanda", {}), Step("rtn", {}))}, False),
        ({"recipe": (Step("flap", {}),)}, False),
        ({"recipe": (Step("of_nobody", {}),)}, False),
        ({"model": ModelSpec("m", dtype="bfloat16")}, False),
        ({"replica": "order"}, True),
    ],
)
def test_which_variants_can_go_together(change, able):
    assert one_pass(replace(Variant("v", ModelSpec("m"), (Step("wanda", {}),)), **change)) is able


def test_a_group_whose_worker_dies_is_done_variant_by_variant(tmp_path):
    jobs = fake_jobs(3, trouble=("kill",))
    work, store = FakeWork(str(tmp_path)), Store(tmp_path, FAKE)
    summary = run_sweep(work, grouped(jobs, 1), store, Local(1))
    assert (summary.done, summary.failed) == (6, 2)
    assert {failure.cell.variant.name for failure in store.failures()} == {"kill"}


def test_a_group_that_raises_is_done_variant_by_variant(tmp_path):
    jobs, events = fake_jobs(3, trouble=("raise",)), []
    store = Store(tmp_path, FAKE)
    summary = run_sweep(FakeWork(str(tmp_path)), grouped(jobs, 1), store, Local(1), on_event=events.append)
    assert (summary.done, summary.failed) == (6, 2)
    assert any("each variant is tried by itself" in event.message for event in events)
