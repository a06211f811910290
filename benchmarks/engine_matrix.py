"""A whole small matrix, compression included, three ways.

Dense and four variants on four tasks, 24 items each: short factual questions (32 tokens), MMLU 5-shot (one
token), closed-book questions (32 tokens), perplexity.

published   compress again for every task, batch 1, plain `generate`, a forward a window
per variant compress once, lm-eval's HFLM with batch 8
ours        compress once, our engine, drafts from the dense answers
"""

from __future__ import annotations

import copy
import tempfile

import engine_items as items
import torch
from contest import Line, timed
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from kick.compress import canonical, compress
from kick.compress.calibrate.corpus import sequences
from kick.engine import Engine, Reference
from kick.records import CalibrationSpec, Request

ITEMS = 24
RECIPES = {
    "dense": [],
    "magnitude 50 %": [canonical("magnitude", {"sparsity": 0.5})],
    "wanda 50 %": [canonical("wanda", {"sparsity": 0.5})],
    "rtn 8": [canonical("rtn", {"bits": 8})],
    "rtn 4": [canonical("rtn", {"bits": 4})],
}


def tasks(tokenizer, count: int) -> dict[str, list[Request]]:
    """The four tasks' requests, so many each."""
    asked = items.questions(2 * count)
    per_subject = count // len(items.SUBJECTS)
    prompts = [p for part in items.mmlu(per_subject).values() for p in part]
    return {
        "factoid": [Request("generate", context=p, max_tokens=32, until=("\n",)) for p in asked[:count]],
        "mmlu": [Request("generate", context=p, max_tokens=1) for p in prompts],
        "closed": [Request("generate", context=p, max_tokens=32, until=("\n",)) for p in asked[count:]],
        "perplexity": [Request("tokens", tokens=w) for w in items.windows(tokenizer, count, 256)],
    }


def variant(model, name: str, data):
    """The compressed model."""
    if name == "dense":
        return model
    made = copy.deepcopy(model)
    compress(made, RECIPES[name], data)
    return made


def cut(text: str) -> str:
    """An answer is its first line."""
    return text.split("\n")[0]


def published(model, tokenizer, work, data) -> dict:
    """Compress for every task; batch 1; the whole answer generated, then cut."""
    found = {}
    for name in RECIPES:
        for task, requests in work.items():
            network = variant(model, name, data)
            if task == "perplexity":
                found[name, task] = windows_one_by_one(network, requests)
                continue
            texts = []
            for request in requests:
                ids = torch.tensor([tokenizer.encode(request.context)])
                options = {"max_new_tokens": request.max_tokens, "do_sample": False}
                out = network.generate(
                    ids, attention_mask=torch.ones_like(ids), pad_token_id=tokenizer.eos_token_id, **options
                )
                text = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
                texts.append(cut(text) if request.until else text)
            found[name, task] = texts
    return found


@torch.inference_mode()
def windows_one_by_one(network, requests) -> list[float]:
    """Log-probability of each window, a forward each, all logits."""
    found = []
    for request in requests:
        ids = torch.tensor([request.tokens])
        logs = network(input_ids=ids).logits[0, :-1].log_softmax(-1)
        found.append(float(logs.gather(1, ids[0, 1:, None]).sum()))
    return found


def per_variant(model, tokenizer, work, data) -> dict:
    """Compress once; lm-eval's HFLM."""
    found = {}
    for name in RECIPES:
        network = variant(model, name, data)
        lm = HFLM(pretrained=network, tokenizer=tokenizer, batch_size=8)
        for task, requests in work.items():
            if task == "perplexity":
                pairs = [(None, list(r.tokens[:1]), list(r.tokens[1:])) for r in requests]
                found[name, task] = [a for a, _ in lm._loglikelihood_tokens(pairs, disable_tqdm=True)]
                continue
            asked = [
                Instance("g", {}, (r.context, {"until": list(r.until), "max_gen_toks": r.max_tokens}), 0)
                for r in requests
            ]
            found[name, task] = lm.generate_until(asked, disable_tqdm=True)
    return found


def ours(model, tokenizer, work, data) -> dict:
    """Compress once; all tasks in one call; the dense answers draft the others'."""
    found = {}
    everything = [request for requests in work.values() for request in requests]
    with tempfile.TemporaryDirectory() as folder:
        for name in RECIPES:
            network = variant(model, name, data)
            with Reference(folder, write=name == "dense") as reference:
                engine = Engine(network, tokenizer, reference=reference, token_cache=folder)
                responses = iter(engine.answer(everything))
            for task, requests in work.items():
                mine = [next(responses) for _ in requests]
                found[name, task] = [r.logprob if r.text is None else r.text for r in mine]
    return found


def same(found: dict, wanted: dict) -> str:
    """Texts equal, perplexities to 1e-5."""
    different = total = 0
    for cell, answers in wanted.items():
        for mine, theirs in zip(found[cell], answers, strict=True):
            if isinstance(theirs, float):
                assert abs(mine / theirs - 1) < 1e-5, (cell, mine, theirs)
            else:
                total += 1
                different += mine != theirs
    assert different <= total // 100, f"{different} of {total} answers differ"
    return f"{total - different} of {total} answers equal"


def matrix(model, tokenizer, count: int = ITEMS) -> list[Line]:
    """Two lines of the table."""
    work = tasks(tokenizer, count)
    data = sequences(CalibrationSpec("kick_mini_calibration", sequences=8, length=256), tokenizer)
    found, mine = timed(lambda: ours(model, tokenizer, work, data))
    lines = []
    for against, target, way in (
        ("published workflow: compress per task, batch 1", 4.0, published),
        ("compress once, lm-eval HFLM per variant", 2.5, per_variant),
    ):
        wanted, theirs = timed(lambda way=way: way(model, tokenizer, work, data))
        name = f"matrix: dense + 4 variants x 4 tasks x {count}"
        lines.append(Line(name, against, theirs / mine, target, mine, theirs, same(found, wanted)))
    return lines
