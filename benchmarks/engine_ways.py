"""The usual ways to ask a model: lm-eval's HFLM and transformers' `generate`."""

from __future__ import annotations

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from kick.records import Request


def hflm_scores(model, tokenizer, requests: list[Request]) -> list[tuple[float, bool]]:
    """lm-eval's HFLM, batch 8."""
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8)
    asked = [Instance("loglikelihood", {}, (r.context, r.continuation), 0) for r in requests]
    return lm.loglikelihood(asked, disable_tqdm=True)


def hflm_texts(model, tokenizer, requests: list[Request]) -> list[str]:
    """lm-eval's HFLM, batch 8."""
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8)
    options = [{"until": list(r.until), "max_gen_toks": r.max_tokens} for r in requests]
    asked = [
        Instance("generate_until", {}, (r.context, o), 0) for r, o in zip(requests, options, strict=True)
    ]
    return lm.generate_until(asked, disable_tqdm=True)


@torch.inference_mode()
def whole_forwards(model, tokenizer, requests: list[Request]) -> list[tuple[float, bool]]:
    """One forward a question with every logit; its options read from the last position."""
    found = []
    for start in range(0, len(requests), 4):
        ids = torch.tensor([tokenizer.encode(requests[start].context)])
        logs = model(input_ids=ids).logits[0].log_softmax(-1)[-1]
        for request in requests[start : start + 4]:
            (token,) = tokenizer.encode(request.continuation)
            found.append((float(logs[token]), bool(logs.argmax() == token)))
    return found


def one_by_one(model, tokenizer, requests: list[Request]) -> list[tuple[int, ...]]:
    """transformers' `generate`, batch 1."""
    found = []
    for request in requests:
        ids = torch.tensor([tokenizer.encode(request.context)])
        found.append(greedy(model, tokenizer, ids, torch.ones_like(ids), request.max_tokens)[0])
    return found


def together(model, tokenizer, requests: list[Request]) -> list[tuple[int, ...]]:
    """transformers' `generate`, all rows in one left-padded batch."""
    batch = tokenizer([r.context for r in requests], return_tensors="pt", padding=True, padding_side="left")
    return greedy(model, tokenizer, batch["input_ids"], batch["attention_mask"], requests[0].max_tokens)


def greedy(model, tokenizer, ids, mask, count: int) -> list[tuple[int, ...]]:
    """Greedy tokens of each row, up to its end of text."""
    options = {"max_new_tokens": count, "do_sample": False, "pad_token_id": tokenizer.eos_token_id}
    rows = model.generate(ids, attention_mask=mask, **options)[:, ids.shape[1] :].tolist()
    end = tokenizer.eos_token_id
    return [tuple(row[: row.index(end) + 1] if end in row else row) for row in rows]
