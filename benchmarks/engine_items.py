"""What the engine's benchmark asks: real MMLU and NQ-open items, WikiText-2 windows, from ../shared/data."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd

from kick.records import Request

DATA = Path(__file__).parents[1] / "../shared/data"
SUBJECTS = ("high_school_geography", "philosophy", "computer_security")
LABELS = "ABCD"


def check() -> None:
    """Leave, saying so, where the data is absent."""
    if not DATA.exists():
        sys.exit(f"the benchmark's data is absent: {DATA}; it holds mmlu, nq_open and wikitext2")


def mmlu(per_subject: int) -> dict[str, list[str]]:
    """5-shot prompts by subject, up to 'Answer:'."""
    dev, test = (pd.read_parquet(DATA / f"mmlu/{split}.parquet") for split in ("dev", "test"))
    prompts = {}
    for subject in SUBJECTS:
        title = subject.replace("_", " ")
        head = f"The following are multiple choice questions (with answers) about {title}.\n\n"
        head += "".join(
            f"{_question(row)} {LABELS[row.answer]}\n\n" for row in dev[dev.subject == subject].itertuples()
        )
        rows = test[test.subject == subject].head(per_subject).itertuples()
        prompts[subject] = [head + _question(row) for row in rows]
    return prompts


def _question(row) -> str:
    options = "".join(f"{label}. {text}\n" for label, text in zip(LABELS, row.choices, strict=True))
    return f"{row.question.strip()}\n{options}Answer:"


def choices(prompts: list[str]) -> list[Request]:
    """The four labels of each prompt."""
    return [
        Request("loglikelihood", context=p, continuation=f" {label}") for p in prompts for label in LABELS
    ]


def questions(count: int) -> list[str]:
    """NQ-open questions as short prompts."""
    return [f"Answer this question:\n\nQ: {question}?\nA:" for question in _nq_open(count)]


def conversations(tokenizer, count: int) -> list[str]:
    """NQ-open questions as the first turn of a conversation, in the model's chat form."""
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": f"{question}?"}], tokenize=False, add_generation_prompt=True
        )
        for question in _nq_open(count)
    ]


def _nq_open(count: int) -> list[str]:
    with open(DATA / "nq_open/validation.jsonl", encoding="utf-8") as file:
        return [json.loads(line)["question"] for _, line in zip(range(count), file, strict=False)]


def windows(tokenizer, count: int, length: int) -> list[tuple[int, ...]]:
    """WikiText-2 test text in windows of token ids."""
    with open(DATA / "wikitext2/test.jsonl", encoding="utf-8") as file:
        text = "\n\n".join(json.loads(line)["text"] for line in file)
    ids = tokenizer(text[: 12 * count * length], verbose=False)["input_ids"]
    return [tuple(ids[i * length : (i + 1) * length]) for i in range(count)]
