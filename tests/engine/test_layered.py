"""The engine that reads a model block by block gives the numbers of the one that has it in memory."""

import pytest
import torch
from transformers import Gemma3TextConfig

from kick.engine.engine import Engine
from kick.engine.layered import LayeredEngine
from kick.engine.layers import Passing, passes
from kick.engine.layers.network import LayeredNetwork
from kick.engine.reference import Reference
from kick.errors import KickError
from kick.model.layered import Layered
from kick.model.stored import StoredTensor
from kick.records import Request
from tests.engine import conftest

NAMES = ["llama", "qwen3", "opt", "gpt2", "gpt_neox", "mixtral", "gemma3", "mamba", "bloom", "mistral"]
DEEPER = {"gpt2": "n_layer", "bloom": "n_layer"}
GEMMA3 = {
    **conftest._GQA,
    "head_dim": 8,
    "sliding_window": 24,
    "query_pre_attn_scalar": 8,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"],
}
TEXT = "The river rose in the night, and by morning the lower fields were under water. "


@pytest.fixture(scope="module")
def stored(tmp_path_factory, tokenizer):
    """A folder and a model of four blocks by name."""
    built = {}

    def make(name):
        if name not in built:
            patch = pytest.MonkeyPatch()
            configs = {**conftest.CONFIGS, "gemma3": (Gemma3TextConfig, GEMMA3)}
            kind, options = configs[name]
            deeper = {**configs, name: (kind, {**options, DEEPER.get(name, "num_hidden_layers"): 4})}
            patch.setattr(conftest, "CONFIGS", deeper)
            model = conftest.build(name, tokenizer)
            patch.undo()
            folder = tmp_path_factory.mktemp(name)
            model.save_pretrained(folder)
            built[name] = folder, model
        return built[name]

    return make


def requests():
    made = [
        Request("loglikelihood", TEXT + "It was", continuation=f" {word}")
        for word in ("late", "wet", "a day off")
    ]
    made += [Request("loglikelihood", f"{i} {TEXT}"[: 20 + 7 * i], continuation=f" so {i}") for i in range(9)]
    made += [
        Request("loglikelihood", "", continuation="Alone"),
        Request("loglikelihood", "x", continuation=""),
    ]
    made.append(Request("rolling", TEXT * 3))
    made += [Request("tokens", "", tokens=tuple(range(3 + i, 40 + i))) for i in range(3)]
    made += [
        Request("fidelity", TEXT[:30], tokens=tuple(range(5, 25))),
        Request("fidelity", TEXT, tokens=(7, 9)),
    ]
    return made


def numbers(response):
    values = dict(response.values or {})
    return [response.logprob, *(values[name] for name in sorted(values) if name != "margin")]


def same(found, wanted, tolerance=1e-5):
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert (one.greedy, one.count, one.truncated) == (other.greedy, other.count, other.truncated)
        for a, b in zip(numbers(one), numbers(other), strict=True):
            assert a is b is None or a == pytest.approx(b, abs=tolerance, rel=tolerance, nan_ok=True)


@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_those_of_the_engine_in_memory(name, stored, tokenizer, tmp_path):
    folder, model = stored(name)
    found, wanted = [], []
    for answers, engine, place in (
        (found, lambda **options: LayeredEngine(Layered(folder), tokenizer, **options), "layered"),
        (wanted, lambda **options: Engine(model, tokenizer, **options), "memory"),
    ):
        with Reference(tmp_path / place, write=True) as reference:
            answers += engine(reference=reference, batch_tokens=64).answer(requests())
        answers += engine(reference=Reference(tmp_path / place)).answer(requests()[-2:])  # against itself
    same(found, wanted)
    assert found[-1].values["kl_mean"] == pytest.approx(0, abs=1e-6)


def test_numbers_are_the_same_with_experts_read_one_matrix_at_a_time(stored, tokenizer, monkeypatch):
    folder, model = stored("mixtral")
    monkeypatch.setattr("kick.model.layered.EXPERTS", 0)
    layered, held = Layered(folder), []
    load = Layered.load

    def watched(self, index):
        block = load(self, index)
        held.append(bool(self.opened[index]) and not any(one.held.numel() for one in self.opened[index]))
        return block

    monkeypatch.setattr(Layered, "load", watched)
    found = LayeredEngine(layered, tokenizer, batch_tokens=64).answer(requests())
    same(found, Engine(model, tokenizer, batch_tokens=64).answer(requests()))
    assert all(held), "experts were read as they were asked for"
    assert len(held) >= 4


def test_a_call_reads_each_block_once(stored, tokenizer, monkeypatch):
    """All kinds of requests together; two blocks are read before, to find out how the model may be run."""
    folder, _ = stored("llama")
    layered, load, loads = Layered(folder), Layered.load, []
    monkeypatch.setattr(Layered, "load", lambda self, index: loads.append(index) or load(self, index))
    engine = LayeredEngine(layered, tokenizer, batch_tokens=64)
    assert loads == [0, 1]
    engine.answer(requests())
    assert loads == [0, 1, *range(4)]
    assert engine.notes()["passes"] == 1
    assert all(parameter.is_meta for parameter in layered.model.parameters())


@pytest.mark.parametrize("name", ["llama", "opt", "gemma3"])
def test_the_head_is_read_in_slices_and_is_whole_only_while_logits_are_made(
    name, stored, tokenizer, monkeypatch
):
    folder, model = stored(name)
    sizes, slices = [], StoredTensor.slices

    def noted(self, count):
        for part in slices(self, count):
            sizes.append(len(part))
            yield part

    monkeypatch.setattr("kick.model.layered.ROWS", 7)
    monkeypatch.setattr(StoredTensor, "slices", noted)
    monkeypatch.setattr(LayeredNetwork, "_read", lambda _: pytest.fail("read whole before it is used"))
    layered = Layered(folder)
    engine = LayeredEngine(layered, tokenizer)
    assert layered.one_head
    assert max(sizes) == 7
    monkeypatch.undo()
    monkeypatch.setattr("kick.model.layered.ROWS", 7)
    weight, bias = layered.head()
    top = model.get_output_embeddings()
    assert torch.equal(weight, top.weight)
    assert bias is None if top.bias is None else torch.equal(bias, top.bias)
    same(engine.answer(requests()), Engine(model, tokenizer).answer(requests()))


def test_a_small_budget_means_more_passes_and_the_same_numbers(stored, tokenizer, monkeypatch):
    folder, model = stored("llama")
    most, run = [], passes.run

    def watched(network, forwards):
        most.append(sum(one.tokens for one in forwards))
        run(network, forwards)

    monkeypatch.setattr("kick.engine.layers.reader.run", watched)
    memory = 200 * 32 * 4 * 4  # of 200 tokens
    engine = LayeredEngine(Layered(folder), tokenizer, batch_tokens=64, how=Passing(memory))
    found = engine.answer(requests())
    assert engine.notes()["passes"] == len(most) > 2
    assert max(most) <= 200
    same(found, Engine(model, tokenizer).answer(requests()))


def test_what_would_read_all_weights_for_each_token_is_refused_with_the_arithmetic(stored, tokenizer):
    folder, _ = stored("llama")
    engine = LayeredEngine(Layered(folder), tokenizer)
    with pytest.raises(KickError, match=r"reads all weights at every step: 0\.0 GB x 8 tokens"):
        engine.answer([Request("generate", TEXT, until=("\n",), max_tokens=8)])


@pytest.mark.parametrize(("name", "read"), [("llama", 4), ("mixtral", 4), ("bloom", 0)])
def test_answers_are_generated_on_request_at_a_pass_for_each_token(
    name, read, stored, tokenizer, monkeypatch
):
    """Where packs may be trusted, what was read is kept: a pass after the first has a token per row."""
    folder, model = stored(name)
    engine = LayeredEngine(Layered(folder), tokenizer, how=Passing(generate=True))
    tokens = []

    def run(network, forwards):
        tokens.append(forwards[0].tokens)
        passes.run(network, forwards)

    monkeypatch.setattr("kick.engine.layers.reader.run", run)
    asked = [Request("generate", text, until=("\n",), max_tokens=4) for text in (TEXT, "One", TEXT[:20])]
    found = engine.answer(asked)
    assert [one.tokens for one in found] == [one.tokens for one in Engine(model, tokenizer).answer(asked)]
    assert engine.notes()["passes"] <= 4
    assert [count <= 3 for count in tokens[1:]] == [read > 0] * (len(tokens) - 1)


def test_a_draft_of_an_answer_is_checked_in_a_pass(stored, tokenizer, tmp_path):
    folder, _ = stored("llama")
    asked = [Request("generate", TEXT, until=("\n",), max_tokens=12)]
    with Reference(tmp_path, write=True) as reference:
        wanted = LayeredEngine(
            Layered(folder), tokenizer, reference=reference, how=Passing(generate=True)
        ).answer(asked)
    engine = LayeredEngine(
        Layered(folder), tokenizer, reference=Reference(tmp_path), how=Passing(generate=True)
    )
    assert engine.answer(asked) == wanted
    assert wanted[0].count == 12
    assert engine.notes()["passes"] <= 7


def test_answers_do_not_depend_on_what_else_is_asked(stored, tokenizer):
    folder, _ = stored("mixtral")
    engine = LayeredEngine(Layered(folder), tokenizer)
    together = engine.answer(requests())
    apart = [engine.answer([one])[0] for one in requests()[:4]]
    same(apart, together[:4])
    assert torch.is_inference_mode_enabled() is False
