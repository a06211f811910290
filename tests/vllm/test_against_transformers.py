"""vLLM against transformers: three checkpoints of one model, the same requests (`make vllm-test`).

Right/wrong and generated tokens must be equal outside ties, log-probabilities within TOLERANCE per token.
KICK_VLLM_MODEL names another model than the demo's; KICK_VLLM_ITEMS how many items of each task are asked.
"""

import math
import os
import time

import pytest

from kick import api, model, tasks
from kick.engine import Engine, Reference
from kick.engine.vllm.engine import VllmEngine
from kick.engine.vllm.served import Served
from kick.errors import KickError
from kick.model import decoding
from kick.records import Request, TaskSpec
from kick.store import Store

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(7200)]

NAME = os.environ.get("KICK_VLLM_MODEL", "smollm2-135m")
ITEMS = int(os.environ.get("KICK_VLLM_ITEMS", "16"))
# Nats per scored token, and the lead of a choice that may turn out otherwise, by dtype: vLLM multiplies
# packed weights in half precision alone.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.5}
AVERAGE = {"float32": 1e-4, "bfloat16": 0.15}
TIE = {"float32": 5e-3, "bfloat16": 0.5}
RECIPES = {
    "dense": (None, "float32"),
    "W4A16": ({"method": "rtn", "bits": 4, "group_size": 32}, "bfloat16"),
    "2:4": ({"method": "magnitude", "sparsity": "2:4"}, "float32"),
}
ASKED = {"kick_mini_mcq": False, "kick_mini_factoid": False, "kick_mini_summary": True}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Makes a checkpoint as `kick compress` writes it; its folder."""
    root = tmp_path_factory.mktemp("checkpoints")

    def make(name):
        folder, recipe = root / name.replace(":", "-"), RECIPES[name][0]
        if recipe is None:
            return model.source.locate(NAME)
        if not folder.exists():
            api.compress_model(NAME, recipe, out=folder)
        return folder

    return make


@pytest.fixture(scope="module")
def requests(checkpoint):
    """The requests of three tasks, of windows of text, and a long context, with the tasks' names."""
    tokenizer = model.source.tokenizer_in(checkpoint("dense"))
    loaded = tasks.load(list(ASKED), None, [])
    found = []
    for name, chat in ASKED.items():
        chat = chat and bool(tokenizer.chat_template)
        spec = TaskSpec(name, limit=ITEMS, chat_template=chat)
        found += [(name, item.requests) for item in loaded[name].items(spec, tokenizer)[:ITEMS]]
    prose = " ".join(
        str(item.requests[0].context)
        for item in loaded["kick_mini_summary"].items(TaskSpec("kick_mini_summary", limit=ITEMS), tokenizer)
    )
    ids = tuple(tokenizer(prose)["input_ids"])
    windows = [Request("tokens", tokens=ids[start : start + 257]) for start in (0, 256)]
    return [*found, ("windows", tuple(windows)), ("rolling", (Request("rolling", prose[:3000]),))]


def served(folder, dtype, scratch):
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    return Served(folder, dtype, config, decoding.of_folder(folder), scratch=scratch)


def tie(engine, request, one, other):
    """By how much the first engine prefers the first of two answers where they part."""
    place = next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    prompt = engine.encoder.prompts([request])[0].ids + one[:place]
    asked = [Request("tokens", tokens=(*prompt, token)) for token in (one[place], other[place])]
    alone = Request("tokens", tokens=prompt)
    first, second, before = (answer.logprob for answer in engine.answer([*asked, alone]))
    return (first - before) - (second - before)


def check(engine, asked, mine, theirs, near):
    """Compare answers: the differences of log-probabilities per token, and how many answers were ties."""
    off, ties = [0.0], 0
    for request, a, b in zip(asked, mine, theirs, strict=True):
        if request.kind == "generate":
            if a.tokens != b.tokens:
                assert abs(tie(engine, request, b.tokens, a.tokens)) < near, request
                ties += 1
            else:
                assert a.text == b.text
        elif not math.isnan(b.logprob):
            assert (a.count, a.truncated) == (b.count, b.truncated), request
            off.append(abs(a.logprob - b.logprob) / (b.count or 1))
            ties += a.greedy != b.greedy
    return off, ties


def right(answers):
    """The choice of a multiple-choice item, and by how much it leads."""
    order = sorted(range(len(answers)), key=lambda i: -answers[i].logprob)
    return order[0], answers[order[0]].logprob - answers[order[1]].logprob


def compare_choices(requests, mine, theirs, near):
    """How many multiple-choice items are answered otherwise; each must be at a tie."""
    place, flips = 0, 0
    for name, own in requests:
        part = slice(place, place + len(own))
        place += len(own)
        if name == "kick_mini_mcq":
            (a, _), (b, lead) = right(mine[part]), right(theirs[part])
            flips += a != b
            assert a == b or lead < near * 4
    return flips


def references(dense, tokenizer, asked, folders):
    """What the dense model says of the continuations, as either engine keeps it."""
    network, _ = model.load(model.resolve(str(dense)))
    with Reference(folders[0], write=True) as first, Reference(folders[1], write=True) as second:
        engine = Engine(network, tokenizer, reference=first)
        engine.answer(asked)
        for request in asked:
            logits = engine.reader.network.logits(first.hidden(request))
            second.add_hidden(request, logits.log_softmax(-1))
    return [Reference(folder) for folder in folders]


def compare_divergence(engine, other, asked, dtype):
    """The largest differences of the fidelity numbers, where both diverge at the same tokens."""
    far: dict[str, float] = {}
    for a, b in zip(other.answer(asked), engine.answer(asked), strict=True):
        assert set(a.values) == set(b.values)
        if dtype == "float32" or a.values["sdt"] == b.values["sdt"]:
            for key, value in b.values.items():
                assert math.isnan(value) == math.isnan(a.values[key]), key
                far[key] = max(far.get(key, 0.0), 0.0 if math.isnan(value) else abs(a.values[key] - value))
    assert far.get("kl_mean", 0.0) < TOLERANCE[dtype]
    assert dtype != "float32" or far["fdt"] == far["sdt"] == far["agreement"] == 0
    return {key: float(f"{value:.2g}") for key, value in far.items() if value}


@pytest.mark.parametrize("name", RECIPES)
def test_answers_are_those_of_transformers(checkpoint, requests, tmp_path, name):
    dtype, folder = RECIPES[name][1], checkpoint(name)
    tokenizer = model.source.tokenizer_in(checkpoint("dense"))
    flat = [request for _, own in requests for request in own]
    network, _ = model.load(model.resolve(str(folder), dtype=dtype))
    start = time.perf_counter()
    engine = Engine(network, tokenizer)
    theirs = engine.answer(flat)
    middle = time.perf_counter()
    one = served(folder, dtype, tmp_path)
    try:
        other = VllmEngine(one, tokenizer)
        mine = other.answer(flat)
        end = time.perf_counter()
        off, ties = check(engine, flat, mine, theirs, TIE[dtype])
        flips = compare_choices(requests, mine, theirs, TIE[dtype])
        print(
            f"{name}, {dtype}: {len(flat)} requests, log-probabilities within {max(off):.2g} nats per token"
        )
        print(f"  on average {sum(off) / len(off):.2g}; {ties} ties, {flips} choices otherwise, at a tie")
        print(f"  transformers {middle - start:.1f} s, vLLM {end - middle:.1f} s, start {one.seconds:.1f} s")
        assert max(off) < TOLERANCE[dtype]
        assert sum(off) / len(off) < AVERAGE[dtype]
        continued = [
            Request("fidelity", request.context, tokens=answer.tokens[:24])
            for request, answer in zip(flat, theirs, strict=True)
            if request.kind == "generate" and len(answer.tokens) > 4
        ][:ITEMS]
        dense = references(checkpoint("dense"), tokenizer, continued, (tmp_path / "a", tmp_path / "b"))
        engine.reference, other.reference = dense
        print("  divergence:", compare_divergence(engine, other, continued, dtype))
        print("  notes:", other.notes())
    finally:
        one.close()


MATRIX = """
name: served
model: {name}
dtype: bfloat16
tasks: [kick_mini_mcq, kick_mini_fidelity]
limit: {{kick_mini_mcq: 8, kick_mini_fidelity: 2}}
variants: [{{method: rtn, bits: 4, group_size: 32}}, {{checkpoint: {folder}}}]
replicas: []
engine: {{name: vllm}}
"""


def test_a_matrix_is_answered_by_vllm(checkpoint, tmp_path):
    text = MATRIX.format(name=NAME, folder=checkpoint("W4A16"))
    ran = api.run(text, out=str(tmp_path))
    assert (ran.failed, ran.done) == (0, 6)
    scores = {}
    for run in Store(str(tmp_path), "served").runs():
        assert run.cell.engine.startswith("vllm 1 ")
        assert run.provenance["engine"]["backend"] == "vllm"
        assert run.provenance["engine"]["starts"] == 1
        for score in run.scores:
            scores.setdefault((run.cell.task.name, score.metric), {})[run.cell.variant.name] = score.value
    far = scores["kick_mini_fidelity", "kl_mean"]
    assert len(far) == len(scores["kick_mini_mcq", "acc"]) == 3
    assert far.pop("dense") == 0
    assert all(0 < value < 2 for value in far.values()), "packed 4-bit weights, made here and given"
    with pytest.raises(KickError, match="generation_config"):
        api.plan(text + "generation_config: model\n")
