"""Generated texts are those of plain greedy decoding, whatever the batch, the slots, the drafts."""

from __future__ import annotations

import weakref

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from kick.engine import Engine, Reference, budget
from kick.engine.packed import pack, slots
from kick.engine.packed.draft import CHECK, STEP, Acceptance, expected
from kick.engine.stopping import Stops
from kick.errors import KickError
from kick.records import Request

HEADER = "Answer the questions about the city, the river and the mountain in one word.\n\n" * 3
PROMPTS = [
    "The river",
    "x",
    "",
    HEADER + "Question: who built the house?\nAnswer:",
    HEADER + "Question: what is blue?\nAnswer:",
    "東京と",
    "A long time before the war there was",
    HEADER + "Question: what?",
]


def requests(max_tokens: int = 14, until=(), **options) -> list[Request]:
    return [Request("generate", context=p, until=until, max_tokens=max_tokens, **options) for p in PROMPTS]


def greedy(model, tokenizer, prompt: str, count: int) -> tuple[int, ...]:
    """Batch-1 generate."""
    ids = torch.tensor([tokenizer.encode(prompt) or [tokenizer.bos_token_id]])
    options = {"max_new_tokens": count, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
    return tuple(
        model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, ids.shape[1] :].tolist()
    )


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gpt_neox", "mixtral", "mamba", "bloom"])
def test_tokens_are_those_of_batch_one_generate(name, models, tokenizer):
    model = models(name)
    prompts = PROMPTS if name not in ("gpt2", "opt") else [p.replace(HEADER, "What?\n") for p in PROMPTS]
    asked = [Request("generate", context=prompt, max_tokens=14) for prompt in prompts]
    found = Engine(model, tokenizer, window=400).answer(asked)
    for prompt, response in zip(prompts, found, strict=True):
        assert response.tokens == greedy(model, tokenizer, prompt, len(response.tokens))
        assert len(response.tokens) == response.count


@pytest.mark.parametrize("name", ["llama", "mamba"])
def test_stop_strings_are_those_of_lm_eval(name, models, tokenizer):
    model, until = models(name), ["e", " the", "\n\n"]
    arguments = [(p, {"until": list(until), "max_gen_toks": 24}) for p in PROMPTS if p]
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, max_length=400)
    wanted = theirs.generate_until([Instance("g", {}, a, 0) for a in arguments], disable_tqdm=True)
    asked = [Request("generate", context=c, until=tuple(until), max_tokens=24) for c, _ in arguments]
    found = Engine(model, tokenizer, window=400).answer(asked)
    assert [r.text for r in found] == wanted
    assert any(r.count < 24 for r in found)


def test_few_slots_and_a_small_budget_change_nothing(models, tokenizer, monkeypatch):
    model = models("llama")
    wanted = Engine(model, tokenizer, window=400).answer(requests())
    monkeypatch.setattr(budget, "slots", lambda device, weights: (2**30, 2))
    assert Engine(model, tokenizer, window=400, batch_tokens=16).answer(requests()) == wanted
    monkeypatch.setattr(budget, "slots", lambda device, weights: (1, 64))  # no memory for a second row
    assert Engine(model, tokenizer, window=400).answer(requests()) == wanted


def test_buffers_stay_within_their_memory_and_follow_the_length_of_what_is_asked(
    models, tokenizer, monkeypatch
):
    """A long answer first, then many short ones: rows of the long one's width would leave room for four."""
    model, seen = models("llama"), []
    asked = [Request("generate", context="one two three four " * 3, max_tokens=80)]
    asked += [Request("generate", context=f"{i} and {i}", max_tokens=20) for i in range(96)]
    wanted = Engine(model, tokenizer, window=400).answer(asked)
    begin = slots.Slots.begin

    def noted(self, device):
        taken = sum(buffer.nbytes for buffer in (*self.keys, *self.values))
        seen.append((len(self.rows), self.keys[0].shape[2], taken))
        return begin(self, device)

    monkeypatch.setattr(slots.Slots, "begin", noted)
    config = model.config
    token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
    monkeypatch.setattr(budget, "slots", lambda device, weights: (4 * 128 * token, 64))
    assert Engine(model, tokenizer, window=400).answer(asked) == wanted
    assert max(taken for _, _, taken in seen) <= 4 * 128 * token
    most = {wide: max(rows for rows, other, _ in seen if other == wide) for _, wide, _ in seen}
    assert (most[104], most[32]) == (4, 16)


def test_keys_and_values_of_a_forward_are_gone_when_the_next_one_begins(models, tokenizer, monkeypatch):
    """All rows have entered by then: what they keep is in their slots."""
    read, finish, seen, held = pack.Pack.forward, pack.Runner._finish, [], []

    def forward(self, network, record):
        held.append(sum(one() is not None for one in seen))
        return read(self, network, record)

    def finished(self, *given):
        done = finish(self, *given)
        seen.extend(weakref.ref(one.tail) for one in done)
        return done

    engine = Engine(models("llama"), tokenizer, window=400, batch_tokens=48)
    monkeypatch.setattr(pack.Pack, "forward", forward)
    monkeypatch.setattr(pack.Runner, "_finish", finished)
    engine.answer(requests())
    assert len(held) > 3
    assert not any(held)


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
def test_shared_pieces_may_be_left_where_they_are(name, models, tokenizer, monkeypatch):
    asked = requests() + [Request("generate", context=HEADER + p, max_tokens=9) for p in PROMPTS]
    monkeypatch.setattr(slots, "SHARED", (10**6, 1))
    wanted = Engine(models(name), tokenizer, window=400).answer(asked)
    for least in ((1, 1), (64, 4)):
        monkeypatch.setattr(slots, "SHARED", least)
        assert Engine(models(name), tokenizer, window=400).answer(asked) == wanted


def test_running_out_of_memory_while_decoding_changes_nothing(models, tokenizer, monkeypatch):
    engine = Engine(models("llama"), tokenizer, window=400)
    wanted = engine.answer(requests())
    network, calls = engine.reader.network, []
    free = network.hidden

    def small(ids, **options):
        calls.append(len(ids))
        if len(ids) > 3 and len(calls) > 6:
            raise torch.OutOfMemoryError("out of memory")
        return free(ids, **options)

    monkeypatch.setattr(network, "hidden", small)
    assert engine.answer(requests()) == wanted
    assert max(calls) > 3 >= calls[-1]


def test_a_sample_depends_on_its_seed_and_not_on_its_batch(models, tokenizer):
    engine = Engine(models("llama"), tokenizer, window=400)
    asked = [
        Request("generate", context=p, max_tokens=10, temperature=0.9, top_p=0.95, seed=i)
        for i, p in enumerate(PROMPTS)
    ]
    together = engine.answer(asked)
    assert together == engine.answer(asked)
    assert together[::-1] == engine.answer(asked[::-1])
    assert [engine.answer([request])[0] for request in asked] == together
    other = engine.answer([Request("generate", context="x", max_tokens=10, temperature=0.9, seed=77)])
    assert other[0].tokens != together[1].tokens


def test_a_small_top_p_is_greedy(models, tokenizer):
    engine = Engine(models("llama"), tokenizer, window=400)
    sampled = engine.answer(requests(temperature=1.0, top_p=1e-6))
    assert [r.tokens for r in sampled] == [r.tokens for r in engine.answer(requests())]


def test_prompts_are_cut_on_the_left_and_counted(models, tokenizer):
    model = models("llama")
    long = "the river and " * 60
    (found,) = Engine(model, tokenizer, window=48).answer([Request("generate", context=long, max_tokens=8)])
    ids = tokenizer.encode(long)
    assert found.truncated == len(ids) - 40
    kept = torch.tensor([ids[-40:]])
    wanted = model.generate(kept, attention_mask=torch.ones_like(kept), max_new_tokens=8, do_sample=False)
    assert list(found.tokens) == wanted[0, 40:].tolist()[: len(found.tokens)]
    with pytest.raises(KickError, match="less than the model's window; got 48"):
        Engine(model, tokenizer, window=48).answer([Request("generate", context="a", max_tokens=48)])


def test_no_tokens_asked_gives_an_empty_text(models, tokenizer):
    for name in ("llama", "mamba"):
        (found,) = Engine(models(name), tokenizer).answer([Request("generate", context="a", max_tokens=0)])
        assert (found.text, found.tokens, found.count) == ("", (), 0)


# ---------------------------------------------------------------------------------------- drafts


def changed(model, share: float):
    """A copy whose weights are noisy by that share."""
    copy = type(model)(model.config).eval()
    copy.load_state_dict(model.state_dict())
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random) * parameter.std() * share)
    return copy


@pytest.mark.parametrize("share", [0.0, 0.02, 0.2, 2.0])
def test_drafts_do_not_change_the_answers(share, models, tokenizer, tmp_path):
    model, until = models("llama"), ("e", "\n\n")
    asked = requests(20) + requests(20, until)
    with Reference(tmp_path, write=True) as reference:
        Engine(model, tokenizer, window=400, reference=reference).answer(asked)
    variant = changed(model, share)
    wanted = Engine(variant, tokenizer, window=400).answer(asked)
    engine = Engine(variant, tokenizer, window=400, reference=Reference(tmp_path))
    assert engine.answer(asked) == wanted
    notes = engine.notes()
    assert notes["drafted"] >= notes["accepted"]
    assert notes["smallest_margin"] > 0
    if share == 0.0:
        assert notes["accepted"] == notes["drafted"] > 0


def test_a_variant_that_differs_is_soon_given_no_drafts(models, tokenizer, tmp_path):
    asked = [Request("generate", context=f"Question {i}: what?", max_tokens=16) for i in range(40)]
    with Reference(tmp_path, write=True) as reference:
        Engine(models("llama"), tokenizer, reference=reference, window=400).answer(asked)
    variant = changed(models("llama"), 3.0)
    engine = Engine(variant, tokenizer, window=400, reference=Reference(tmp_path))
    assert engine.answer(asked) == Engine(variant, tokenizer, window=400).answer(asked)
    assert 0 < engine.notes()["drafted"] < 40 * 16 // 5


def test_drafts_are_as_long_as_they_pay():
    answers = [20, 12, 9, 20]
    bad, good = Acceptance(), Acceptance()
    for _ in range(8):
        bad.observe(8, 0)
        good.observe(20, 20)
    assert bad.lengths(answers, 64) == [0, 0, 0, 0]
    assert good.lengths(answers, 64) == [19, 11, 8, 19]
    assert max(bad.lengths(answers, 2)) <= 1
    assert good.lengths(answers, 2) == [19, 11, 8, 19]
    assert good.lengths([1], 64) == [0]


def test_the_expected_cost_of_drafts():
    """Nothing drafted: a step costs STEP and its rows. All drafted and kept: only the checks."""
    assert expected([3, 2], 3, 0.9) == pytest.approx(2 * STEP + 3)
    assert expected([3, 2], 1, 1.0) == pytest.approx(3 * CHECK)
    never = expected([3, 2], 1, 0.0)
    assert never == pytest.approx(3 * CHECK + 2 * STEP + 4)
    failed = 1 - 0.8 * 0.8  # a row of three that is not finished by its draft takes part in both steps
    assert expected([3], 1, 0.8) == pytest.approx(2 * CHECK + (STEP + 1) * 2 * failed)


def test_stops_look_back_as_far_as_lm_eval(tokenizer):
    stops = Stops.of(tokenizer, ("river",), frozenset({3}))
    assert stops.strings == ("river", tokenizer.eos_token)
    ids = tokenizer.encode("a river")
    assert stops.reached(ids)
    assert not stops.reached(ids[:-1])
    assert not stops.reached([*ids, *tokenizer.encode(" x y z w v u t s")])
    assert stops.reached([7, 3])
    assert stops.text([*ids, *tokenizer.encode(" and more")]) == "a "
