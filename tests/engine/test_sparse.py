"""Answers with run-time methods: those that leave nothing out are dense bit for bit, others have oracles."""

import gc
import math
import weakref

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from kick.engine import Engine
from kick.engine.session import Session
from kick.engine.sparse import SparseEngine
from kick.errors import KickError
from kick.records import Request
from kick.runtime.kv_quant import KVQuant
from kick.runtime.lazyllm import LazyLLM
from kick.runtime.method import RunTime
from kick.runtime.page_attention import PageAttention
from kick.runtime.sliding import Sliding
from kick.runtime.twilight import Twilight
from tests.engine.conftest import CONFIGS, build

TEXT = "The miller of Tarn had two lanterns, and the older one hung over the door of the mill."
ASKED = [
    Request("generate", context=TEXT[:60], max_tokens=8),
    Request("generate", context=TEXT[:60] + " and", max_tokens=8),
    Request("generate", context=TEXT[:30], max_tokens=6),
]
SCORED = [
    Request("loglikelihood", context=TEXT[:50], continuation=" by the door"),
    Request("loglikelihood", context=TEXT[:50], continuation=" of a mill"),
    Request("loglikelihood", context=TEXT[:20], continuation=" lanterns"),
]
NOTHING_LEFT_OUT = [
    Twilight(p=1),
    Twilight(p=1, selector="quest", budget=96, page=4),
    PageAttention(budget=96, page=4),
    KVQuant(bits=16, group=8, residual=8),
]
LEFT_OUT = [
    Twilight(p=0.3, dense_layers=0),
    Twilight(p=0.5, selector="quest", budget=16, page=4, dense_layers=0),
    PageAttention(budget=12, page=4, sub_page=2),
    PageAttention(budget=96, page=4, streaming=0.5, sinks=2, recent=4),
    KVQuant(bits=2, group=8, residual=8),
    LazyLLM(schedule="1:0.4", revive=False),
    Sliding(window=8, sinks=2),
]


class Alone(RunTime):
    """Dense, with each prompt read by itself."""

    prompts = True


@pytest.fixture(scope="module")
def llama(tokenizer):
    return build("llama", tokenizer)


def answers(method, llama, tokenizer, requests):
    engine = SparseEngine(method, llama, tokenizer)
    return engine.answer(requests), engine.counted()


@pytest.mark.parametrize("method", NOTHING_LEFT_OUT, ids=repr)
def test_decoding_that_leaves_nothing_out_is_dense_bit_for_bit(method, llama, tokenizer):
    hidden = []
    for one in (method, RunTime()):
        engine = SparseEngine(one, llama, tokenizer)
        seen, run = [], engine.reader._run
        engine.reader._run = lambda *args, seen=seen, run=run: seen.append(run(*args)) or seen[-1]
        hidden.append((engine.answer(ASKED), seen, engine.counted()))
    (found, states, counted), (expected, dense_states, _) = hidden
    assert found == expected
    assert len(states) == len(dense_states) > 4
    assert all(torch.equal(a, b) for a, b in zip(states, dense_states, strict=True))
    assert counted["keys_read"] == 1


@pytest.mark.parametrize("method", [LazyLLM(schedule="0.5:1"), Sliding(window=96)], ids=repr)
def test_prompts_of_which_nothing_is_left_out_are_dense_bit_for_bit(method, llama, tokenizer):
    for requests in (ASKED, SCORED):
        found, counted = answers(method, llama, tokenizer, requests)
        expected, _ = answers(Alone(), llama, tokenizer, requests)
        assert found == expected
        assert counted["prompt_computed"] == counted["prompt_keys_read"] == 1
        assert counted["cache_bytes"] == counted["dense_cache_bytes"]


def test_dense_sessions_answer_as_the_packed_backend(llama, tokenizer):
    expected = Engine(llama, tokenizer).answer(ASKED + SCORED)
    for method in (RunTime(), Alone()):
        found, _ = answers(method, llama, tokenizer, ASKED + SCORED)
        assert [one.text for one in found] == [one.text for one in expected]
        for one, other in zip(found[3:], expected[3:], strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)


@pytest.mark.parametrize("method", LEFT_OUT, ids=repr)
def test_what_is_left_out_is_counted(method, llama, tokenizer):
    asked = [Request("generate", context=TEXT, max_tokens=4)]
    _, counted = answers(method, llama, tokenizer, asked)
    _, dense = answers(RunTime(), llama, tokenizer, asked)
    assert counted["sequences"] == 1
    if isinstance(method, KVQuant):
        assert counted["cache_bytes"] < counted["dense_cache_bytes"] == dense["cache_bytes"]
    else:
        assert counted["keys_read"] < 1 == dense["keys_read"]
    if isinstance(method, LazyLLM):
        length = counted["prompt_tokens"]
        second = math.ceil(0.4 * length)
        assert counted["prompt_computed"] in [(length + kept) / (2 * length) for kept in (second, second + 1)]


def test_a_window_gives_the_numbers_of_a_whole_forward_under_its_mask(llama, tokenizer):
    request = SCORED[0]
    found, _ = answers(Sliding(window=8, sinks=2), llama, tokenizer, [request])
    ids = tokenizer(request.context + request.continuation, return_tensors="pt")["input_ids"]
    count = ids.shape[1] - len(tokenizer(request.context)["input_ids"])
    place = torch.arange(ids.shape[1])
    shown = (place[None] <= place[:, None]) & ((place[None] < 2) | (place[None] > place[:, None] - 8))
    mask = torch.zeros(shown.shape).masked_fill(~shown, -torch.inf)[None, None]
    with torch.inference_mode():
        logs = llama(input_ids=ids, attention_mask=mask).logits[0].log_softmax(-1)
    expected = sum(float(logs[at - 1, ids[0, at]]) for at in range(ids.shape[1] - count, ids.shape[1]))
    assert found[0].logprob == pytest.approx(expected, abs=1e-4)


def test_lazyllm_gives_the_numbers_of_a_model_whose_tokens_are_taken_out(llama, tokenizer):
    request = SCORED[0]
    found, _ = answers(LazyLLM(schedule="1:0.4"), llama, tokenizer, [request])
    prompt = tokenizer(request.context)["input_ids"]
    ids = torch.tensor([tokenizer(request.context + request.continuation)["input_ids"]])
    with torch.inference_mode():
        states = llama.model.embed_tokens(ids)
        places = torch.arange(ids.shape[1])[None]
        first, second = llama.model.layers
        kept = last_looks_at(llama, first, states[:, : len(prompt)], places[:, : len(prompt)])
        kept = [*kept, *range(len(prompt), ids.shape[1])]
        states = first(states, position_embeddings=llama.model.rotary_emb(states, places))
        states, places = states[:, kept], places[:, kept]
        states = second(states, position_embeddings=llama.model.rotary_emb(states, places))
        logs = llama.lm_head(llama.model.norm(states))[0].log_softmax(-1)
    count = ids.shape[1] - len(prompt)
    expected = sum(float(logs[i - 1, ids[0, i]]) for i in range(-count, 0))
    assert found[0].logprob == pytest.approx(expected, abs=1e-4)


def last_looks_at(llama, layer, states, places):
    """The 40 % of the tokens that the last one looks at most in a layer, and the last one, in order."""
    normed = layer.input_layernorm(states)
    split = [layer.self_attn.q_proj, layer.self_attn.k_proj]
    query, key = (one(normed).unflatten(-1, (-1, 8)).transpose(1, 2) for one in split)
    query, key = apply_rotary_pos_emb(query, key, *llama.model.rotary_emb(states, places))
    scores = query[0, :, -1:] @ key[0].repeat_interleave(2, 0).transpose(1, 2) / math.sqrt(8)
    weights = scores.softmax(-1).mean((0, 1))
    count = math.ceil(0.4 * len(weights))
    return sorted({*weights.topk(count).indices.tolist(), len(weights) - 1})


class OneByOne:
    """LazyLLM by its definition: a token at a time, each block's keys and values in a table by place."""

    def __init__(self, llama, schedule):
        self.llama, self.schedule = llama, schedule
        self.tables = [{} for _ in llama.model.layers]  # by place: key, value, (2, 8) each
        self.waiting = [{} for _ in range(len(self.tables) + 1)]  # by place: what goes into the block
        self.back = 0  # how many (token, block) pairs were computed in a later step

    def through(self, index, place, seen):
        """Send a token through a block; how much it looks at each of the places seen, over heads."""
        layer, state = self.llama.model.layers[index], self.waiting[index][place]
        attention, normed = layer.self_attn, layer.input_layernorm(state)
        split = attention.q_proj, attention.k_proj, attention.v_proj
        query, key, value = (one(normed).view(1, -1, 1, 8) for one in split)
        rotary = self.llama.model.rotary_emb(state[None, None], torch.tensor([[place]]))
        query, key = apply_rotary_pos_emb(query, key, *rotary)
        self.tables[index][place] = key[0, :, 0], value[0, :, 0]
        keys, values = (torch.stack([self.tables[index][at][i] for at in seen], 1) for i in (0, 1))
        scores = query[0] @ keys.repeat_interleave(2, 0).transpose(1, 2) / math.sqrt(8)
        weights = scores.softmax(-1)
        read = (weights @ values.repeat_interleave(2, 0))[:, 0].reshape(-1)
        state = state + attention.o_proj(read)
        self.waiting[index + 1][place] = state + layer.mlp(layer.post_attention_layernorm(state))
        return dict(zip(seen, weights[:, 0].mean(0).tolist(), strict=True))

    def step(self, prompt, tokens):
        """The state after the last norm of the last of `tokens`, which follow a prompt of that length."""
        place, alive = prompt + len(tokens) - 1, list(range(prompt))
        new = [place] if tokens else []
        ids = tokens[-1:] if tokens else self.ids
        for at, token in zip(new or alive, ids, strict=True):
            self.waiting[0][at] = self.llama.model.embed_tokens(torch.tensor(token))
        for index, table in enumerate(self.tables):
            absent = [at for at in alive if at not in table]
            self.back += len(absent) if tokens else 0
            for at in absent + new:
                seen = [one for one in (*alive, *range(prompt, place + 1)) if one <= at]
                looks = self.through(index, at, seen)
            if index + 1 in self.schedule:
                order = sorted(alive, key=lambda at: -looks[at])
                count = math.ceil(self.schedule[index + 1] * prompt)
                alive = sorted({*order[:count], prompt - 1})
        return self.llama.model.norm(self.waiting[-1][place if tokens else prompt - 1])


@torch.inference_mode()
def test_dropped_tokens_come_back_as_if_each_was_computed_when_it_is_first_asked_for(tokenizer):
    config = LlamaConfig(**{**CONFIGS["llama"][1], "num_hidden_layers": 5}, vocab_size=len(tokenizer))
    torch.manual_seed(3)
    llama = LlamaForCausalLM(config).eval()
    for weight in llama.parameters():
        weight.normal_(0, 0.25) if weight.dim() > 1 else None
    engine = SparseEngine(LazyLLM(schedule="1:0.5 3:0.2"), llama, tokenizer)
    states, run = [], engine.reader._run
    engine.reader._run = lambda *args: states.append(run(*args)) or states[-1]
    asked = Request("generate", context=TEXT[:40], max_tokens=6)
    tokens = list(engine.answer([asked])[0].tokens)
    oracle = OneByOne(llama, {1: 0.5, 3: 0.2})
    oracle.ids = tokenizer(asked.context)["input_ids"]
    prompt = len(oracle.ids)
    for done, state in enumerate(states):
        expected = oracle.step(prompt, tokens[:done])
        torch.testing.assert_close(state[-1], expected, rtol=0, atol=1e-4)
    assert len(states) == 6
    reached = [prompt, *[math.ceil(0.5 * prompt)] * 2, *[math.ceil(0.2 * prompt)] * 2]
    computed = engine.counted()["prompt_computed"] * prompt * 5
    assert oracle.back > 10
    assert 0 <= computed - sum(reached) - oracle.back <= 4  # the last token is kept beside the share


def test_rows_whose_tokens_come_back_are_answered_together_as_alone(llama, tokenizer):
    method = LazyLLM(schedule="1:0.4")
    together, counts = answers(method, llama, tokenizer, ASKED)
    apart = [answers(method, llama, tokenizer, [one]) for one in ASKED]
    assert [one.tokens for one in together] == [found[0].tokens for (found, _) in apart]
    assert counts["prompt_computed"] > answers(LEFT_OUT[-2], llama, tokenizer, ASKED)[1]["prompt_computed"]


def test_a_session_is_gone_with_its_last_row(llama, tokenizer, monkeypatch):
    """Nothing that it keeps of its prompt leads back to it: caches would wait for the collector of cycles."""
    made, begin = [], Session.__init__
    monkeypatch.setattr(
        Session, "__init__", lambda self, *a: made.append(weakref.ref(self)) or begin(self, *a)
    )
    gc.disable()
    try:
        answers(LazyLLM(schedule="1:0.4"), llama, tokenizer, ASKED)
        assert [one() for one in made] == [None] * 3
    finally:
        gc.enable()


def test_answers_that_are_scored_choose_nothing(llama, tokenizer):
    found, counts = answers(LazyLLM(schedule="1:0.4"), llama, tokenizer, SCORED)
    assert (found, counts) == answers(LEFT_OUT[-2], llama, tokenizer, SCORED)


@pytest.mark.parametrize("method", [LazyLLM(schedule="1:0.4"), Sliding(window=8, sinks=2)], ids=repr)
def test_a_prompt_masked_in_parts_gives_the_same_numbers(method, llama, tokenizer, monkeypatch):
    expected, counts = answers(method, llama, tokenizer, SCORED)
    monkeypatch.setattr("kick.engine.session.CHUNK", 16)
    found, same = answers(method, llama, tokenizer, SCORED)
    assert same == counts
    for one, other in zip(found, expected, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)


def test_continuations_of_one_prompt_are_scored_as_if_alone(llama, tokenizer):
    method = LazyLLM(schedule="1:0.4")
    together, _ = answers(method, llama, tokenizer, SCORED)
    for request, response in zip(SCORED, together, strict=True):
        (alone,), _ = answers(method, llama, tokenizer, [request])
        assert alone == response


def test_a_model_whose_attention_cannot_be_replaced_is_refused(tokenizer):
    with pytest.raises(KickError, match="cannot be run with a run-time method"):
        SparseEngine(Twilight(), build("mamba", tokenizer), tokenizer)
