"""vLLM against transformers: three checkpoints of one model, the same requests (`make vllm-test`).

Right/wrong and generated tokens must be equal outside ties, log-probabilities within TOLERANCE per token.
KICK_VLLM_MODEL names another model than the demo's; KICK_VLLM_ITEMS how many items of each task are asked.
"""

import math
import os
import time
from dataclasses import replace

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
TOLERANCE = 1e-3  # nats per scored token, float32
TIE = 5e-3  # nats: what is nearer than this may be chosen otherwise
RECIPES = {
    "dense": None,
    "W4A16": {"method": "rtn", "bits": 4, "group_size": 32},
    "2:4": {"method": "magnitude", "sparsity": "2:4"},
}
ASKED = {"kick_mini_mcq": False, "kick_mini_factoid": False, "kick_mini_summary": True}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The three checkpoints, each as `kick compress` writes it."""
    root, found = tmp_path_factory.mktemp("checkpoints"), {}
    for name, recipe in RECIPES.items():
        found[name] = model.source.locate(NAME)
        if recipe is not None:
            found[name] = root / name.replace(":", "-")
            api.compress_model(NAME, recipe, out=found[name])
    return found


@pytest.fixture(scope="module")
def requests(folders):
    """The requests of three tasks, of windows of text, and a long context, with the tasks' names."""
    tokenizer = model.source.tokenizer_in(folders["dense"])
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


def served(folder, scratch):
    from transformers import AutoConfig

    scratch.mkdir()
    config = AutoConfig.from_pretrained(folder)
    return Served(folder, "float32", config, decoding.of_folder(folder), scratch=scratch)


def tie(engine, request, one, other):
    """By how much the first engine prefers the first of two answers where they part."""
    place = next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    prompt = engine.encoder.prompts([request])[0].ids + one[:place]
    asked = [Request("tokens", tokens=(*prompt, token)) for token in (one[place], other[place])]
    alone = Request("tokens", tokens=prompt)
    first, second, before = (answer.logprob for answer in engine.answer([*asked, alone]))
    return (first - before) - (second - before)


def check(engine, asked, mine, theirs):
    """Compare answers; the largest difference of a log-probability per token, and how many were ties."""
    worst, ties = 0.0, 0
    for request, a, b in zip(asked, mine, theirs, strict=True):
        if request.kind == "generate":
            if a.tokens != b.tokens:
                assert abs(tie(engine, request, b.tokens, a.tokens)) < TIE, request
                ties += 1
            else:
                assert a.text == b.text
        elif b.logprob is not None and not math.isnan(b.logprob):
            tokens = b.count or 1
            worst = max(worst, abs(a.logprob - b.logprob) / tokens)
            assert (a.count, a.truncated) == (b.count, b.truncated), request
            if a.greedy != b.greedy:
                ties += 1
    return worst, ties


def right(answers):
    """The choice of each multiple-choice item, and by how much it leads."""
    order = sorted(range(len(answers)), key=lambda i: -answers[i].logprob)
    return order[0], answers[order[0]].logprob - answers[order[1]].logprob


def test_answers_are_those_of_transformers(folders, requests, tmp_path):
    tokenizer = model.source.tokenizer_in(folders["dense"])
    flat = [request for _, own in requests for request in own]
    continued: list[Request] = []
    for name, folder in folders.items():
        network, _ = model.load(model.resolve(str(folder)))
        one = served(folder, tmp_path / f"scratch-{name}")
        references = [tmp_path / kind for kind in ("transformers", "vllm")]
        try:
            with (
                Reference(references[0], write=name == "dense") as first,
                Reference(references[1], write=name == "dense") as second,
            ):
                engine = Engine(network, tokenizer, reference=first)
                other = VllmEngine(one, tokenizer, reference=second)
                start = time.perf_counter()
                theirs = engine.answer(flat)
                middle = time.perf_counter()
                mine = other.answer(flat)
                end = time.perf_counter()
                worst, ties = check(engine, flat, mine, theirs)
                flips = compare_choices(requests, mine, theirs)
                continued = (
                    continued
                    or [
                        replace(request, kind="fidelity", tokens=answer.tokens[:24], until=(), max_tokens=0)
                        for request, answer in zip(flat, theirs, strict=True)
                        if request.kind == "generate" and len(answer.tokens) > 4
                    ][:ITEMS]
                )
                far = compare_divergence(engine, other, continued)
            seconds = f"transformers {middle - start:.1f} s, vLLM {end - middle:.1f} s"
            print(
                f"{name}: {len(flat)} requests, within {worst:.2g} nats a token, {ties} ties, {flips} choices"
            )
            print(f"  divergence: {far}; {seconds} of which {one.seconds:.1f} s to start; {other.notes()}")
            assert worst < TOLERANCE
        finally:
            one.close()


def compare_choices(requests, mine, theirs):
    """How many multiple-choice items are answered otherwise; each must be at a tie."""
    place, flips = 0, 0
    for name, own in requests:
        part = slice(place, place + len(own))
        place += len(own)
        if name != "kick_mini_mcq":
            continue
        (a, _), (b, lead) = right(mine[part]), right(theirs[part])
        if a != b:
            flips += 1
            assert lead < TIE * 10
    return flips


def compare_divergence(engine, other, asked):
    """The fidelity numbers of both, those that hang on one token outside ties; the largest differences."""
    far: dict[str, float] = {}
    for a, b in zip(other.answer(asked), engine.answer(asked), strict=True):
        if a.values["sdt"] != b.values["sdt"]:
            assert abs(a.values["sdt"] - b.values["sdt"]) * b.values["length"] <= 2
            continue
        for key, value in b.values.items():
            assert math.isnan(value) == math.isnan(a.values[key]), key
            if not math.isnan(value):
                far[key] = max(far.get(key, 0.0), abs(a.values[key] - value))
    assert far["fdt"] == 0
    assert far["kl_mean"] < TOLERANCE
    return {key: float(f"{value:.2g}") for key, value in far.items() if value}


MATRIX = """
name: served
model: {name}
tasks: [kick_mini_mcq, kick_mini_fidelity]
limit: {{kick_mini_mcq: 8, kick_mini_fidelity: 2}}
variants: [{{method: rtn, bits: 4, group_size: 32}}, {{checkpoint: {folder}}}]
replicas: []
engine: {{name: vllm}}
"""


def test_a_matrix_is_answered_by_vllm(folders, tmp_path):
    ran = api.run(MATRIX.format(name=NAME, folder=folders["W4A16"]), out=str(tmp_path), executor="inline")
    assert (ran.failed, ran.done) == (0, 6)
    scores = {}
    for run in Store(str(tmp_path), "served").runs():
        assert run.cell.engine.startswith("vllm 1 ")
        assert run.provenance["engine"]["backend"] == "vllm"
        assert run.provenance["engine"]["starts"] == 1
        for score in run.scores:
            scores.setdefault((run.cell.task.name, score.metric), {})[run.cell.variant.name] = score.value
    for found in scores.values():  # the checkpoint is what kick makes of the same recipe
        made, elsewhere = [value for name, value in found.items() if name != "dense"]
        assert made == pytest.approx(elsewhere, abs=1e-6)
    with pytest.raises(KickError, match="generation_config"):
        api.plan(MATRIX.format(name=NAME, folder=folders["W4A16"]) + "generation_config: model\n")
