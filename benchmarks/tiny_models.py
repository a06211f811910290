"""Train the models of the presets `moe` and `ssm`: a tiny Mixtral and a tiny Mamba-2, a few minutes each.

    .venv/bin/python benchmarks/tiny_models.py               # both, into kick's cache, where presets look
    .venv/bin/python benchmarks/tiny_models.py tiny-mamba2

They are for mechanics: whether methods for experts and for states run in a matrix and move its scores. They
are trained on the passages, articles and summaries of the embedded suite's reading and summary tasks, about
160,000 characters, never on the prose that methods calibrate on or on that of perplexity and fidelity, and
with the tokenizer of the model `smoke` (512 entries). Seeded: the same machine makes the same weights, and
another one differs in how it rounds.
"""

from __future__ import annotations

import argparse
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    Mamba2Config,
    Mamba2ForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from kick.model import resolve, trained
from kick.model.source import tokenizer_of
from kick.tasks import data

SEED, RATE, WARM_UP = 0, 3e-3, 20
BATCH = 8
HELD_OUT = 12  # every so many texts one is not trained on, to see whether it learns


def mixtral(ids: dict[str, int]) -> PreTrainedModel:
    """A mixture of eight experts, two for each token: 0.8 million weights."""
    config = MixtralConfig(
        **ids,
        hidden_size=96,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=16,
        num_local_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=2048,
        sliding_window=None,
        tie_word_embeddings=True,
        output_router_logits=True,  # adds the loss that keeps experts in use
        router_aux_loss_coef=0.02,
    )
    return MixtralForCausalLM(config)


def mamba2(ids: dict[str, int]) -> PreTrainedModel:
    """Four mixers with two groups of 16 states: 0.3 million weights."""
    config = Mamba2Config(
        **ids,
        hidden_size=96,
        num_hidden_layers=4,
        expand=2,
        num_heads=12,
        head_dim=16,
        n_groups=2,
        state_size=16,
        chunk_size=32,
        tie_word_embeddings=True,
    )
    return Mamba2ForCausalLM(config)


@dataclass(frozen=True)
class Training:
    """A model, for how many steps it is trained, and on windows of how many tokens."""

    build: Callable[[dict[str, int]], PreTrainedModel]
    steps: int
    length: int


MODELS = {
    "tiny-mixtral": Training(mixtral, steps=400, length=256),  # ten times through the corpus
    "tiny-mamba2": Training(mamba2, steps=160, length=128),  # twice: without CUDA its scan is slow
}


def texts() -> list[str]:
    """What is trained on: no text that a method calibrates on, and none of perplexity and fidelity."""
    passages = [row["passage"] for row in data.embedded("reading")["test"]]
    articles = [f"{row['article']}\n\n{row['summary']}" for row in data.embedded("summary")["test"]]
    return [*dict.fromkeys(passages), *articles]


def tokens(tokenizer: PreTrainedTokenizerBase, some: list[str]) -> Tensor:
    """(tokens,) of texts, joined as calibration and perplexity join theirs."""
    return torch.tensor(tokenizer("\n\n".join(some), add_special_tokens=False, verbose=False).input_ids)


def train(model: PreTrainedModel, ids: Tensor, steps: int, length: int) -> None:
    """Train in place on random windows of so many tokens: AdamW, a linear warm-up, then half a cosine."""
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.1, betas=(0.9, 0.95))
    draw = torch.Generator().manual_seed(SEED)
    start = time.monotonic()
    model.train()
    for step in range(1, steps + 1):
        rate = min(step / WARM_UP, 0.5 * (1 + math.cos(math.pi * step / steps)))
        optimizer.param_groups[0]["lr"] = RATE * rate
        places = torch.randint(len(ids) - length, (BATCH,), generator=draw)
        batch = torch.stack([ids[place : place + length] for place in places.tolist()])
        loss = model(batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f"  step {step}: loss {loss.item():.3f}, {time.monotonic() - start:.0f} s", flush=True)
    model.eval()


@torch.no_grad()
def perplexity(model: PreTrainedModel, ids: Tensor, length: int) -> float:
    """Of windows of so many tokens, each token predicted from those before it in its window."""
    windows = ids[: len(ids) // length * length].view(-1, length)
    logits = model(windows).logits[:, :-1].flatten(0, 1)
    return math.exp(torch.nn.functional.cross_entropy(logits, windows[:, 1:].flatten()))


def make(name: str, steps: int | None = None) -> Path:
    """Train a model, for its plan's steps or so many, and write it where its name leads."""
    given = MODELS[name]
    steps = given.steps if steps is None else steps
    tokenizer = tokenizer_of(resolve("smoke"))
    special = ("bos_token_id", "eos_token_id", "pad_token_id")
    ids = {key: getattr(tokenizer, key) for key in special} | {"vocab_size": len(tokenizer)}
    some = texts()
    torch.manual_seed(SEED)
    model = given.build(ids)
    seen = tokens(tokenizer, [text for place, text in enumerate(some) if place % HELD_OUT])
    unseen = tokens(tokenizer, some[::HELD_OUT])
    print(f"{name}: {model.num_parameters():,} weights, {len(seen):,} tokens", flush=True)
    train(model, seen, steps, given.length)
    if steps:
        found = [perplexity(model, part, given.length) for part in (seen[: len(unseen)], unseen)]
        print(f"  perplexity {found[0]:.1f} on text it was trained on, {found[1]:.1f} on other text")
    folder = trained.folder(name)
    shutil.rmtree(folder, ignore_errors=True)
    model.config.output_router_logits = False
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", default=sorted(MODELS), help=f"of {', '.join(trained.NAMES)}")
    parser.add_argument("--steps", type=int, help="instead of each model's own number")
    given = parser.parse_args()
    if unknown := sorted(set(given.names) - set(MODELS)):
        parser.error(f"unknown model {', '.join(unknown)}; expected {', '.join(sorted(MODELS))}")
    for name in given.names:
        print(f"  in {make(name, given.steps)}")


if __name__ == "__main__":
    main()
