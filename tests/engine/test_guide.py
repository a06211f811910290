"""Guided decoding: tokens are those of a plain loop with the same rule, and other requests notice nothing."""

from __future__ import annotations

import pytest
import torch

from kick.engine import Engine, Reference
from kick.engine.guide import MOST, Guide
from kick.engine.plain import Plain
from kick.errors import KickError
from kick.records import Request
from kick.tasks.generation import generate_request
from kick.tasks.prefix import Program

pytest.importorskip("lark")

PROMPTS = [
    'def f(x):\n    """Half of x."""',
    "def g(a, b):\n    # the sum\n    return a",
    "x = [1, 2",
    "x = )",
]
UNTIL = ("\ndef ",)


def asked(guide: str) -> list[Request]:
    return [Request("generate", prompt, until=UNTIL, max_tokens=12, guide=guide) for prompt in PROMPTS]


def by_hand(model, tokenizer, prompt: str) -> tuple[int, ...]:
    """A whole forward per token; of the 20 likeliest tokens the first after which Python may go on."""
    ids, tokens, going = tokenizer.encode(prompt), [], Program().can_continue(prompt)
    for _ in range(12):
        with torch.inference_mode():
            order = model(torch.tensor([ids + tokens])).logits[0, -1].argsort(descending=True).tolist()
        fit = [token for token in order[:MOST] if fits(tokenizer, prompt, [*tokens, token])] if going else []
        going = bool(fit)
        tokens.append(fit[0] if fit else order[0])
        if tokens[-1] == tokenizer.eos_token_id:
            break
    return tuple(tokens)


def fits(tokenizer, prompt: str, tokens: list[int]) -> bool:
    answer = tokenizer.decode(tokens, skip_special_tokens=True)
    first = answer.lstrip()[:1]
    if prompt.startswith("def") and first and answer[: answer.index(first)].endswith("\n"):
        return False
    if tokens[-1] == tokenizer.eos_token_id:
        return bool(answer.strip()) and Program().is_whole(prompt + answer)
    return Program().can_continue(prompt + answer)


@pytest.mark.parametrize("backend", [Engine, Plain])
def test_tokens_are_those_of_a_plain_loop(backend, models, tokenizer):
    model = models("llama")
    found = backend(model, tokenizer).answer(asked("python"))
    for prompt, response in zip(PROMPTS, found, strict=True):
        assert response.tokens == by_hand(model, tokenizer, prompt)
        whole = response.values["strayed"] == 1 or Program().can_continue(prompt + response.text)
        assert whole
    assert sum(response.values["replaced"] for response in found) > 3
    assert found[3].values == {"replaced": 0, "strayed": 1}  # its prompt can be no program


def test_other_requests_in_the_same_call_are_answered_as_alone(models, tokenizer, tmp_path):
    model = models("llama")
    plain = Engine(model, tokenizer).answer(asked(""))
    with Reference(tmp_path, write=True) as reference:
        both = Engine(model, tokenizer, reference=reference).answer([*asked("python"), *asked("")])
        assert [reference.draft(one) for one in asked("")] == [one.tokens for one in plain]
    assert [(one.text, one.values) for one in both[4:]] == [(one.text, None) for one in plain]
    assert [one.tokens for one in both[:3]] != [one.tokens for one in plain[:3]]
    again = Engine(model, tokenizer, reference=Reference(tmp_path)).answer(asked("python"))
    assert [one.tokens for one in again] == [one.tokens for one in both[:4]]


def answer_of(prompt: str, logits_of: list[str]) -> tuple[str, Guide]:
    """What a guide makes of letters in the order of their likelihood, one list per place; "$" ends."""
    letters = sorted({letter for one in logits_of for letter in one})
    said = lambda tokens: "".join(letters[t] for t in tokens)  # noqa: E731
    guide = Guide(prompt, lambda tokens: (said(tokens).partition("$")[0], "$" in said(tokens)))
    tokens: list[int] = []
    for place in logits_of:
        logits = torch.full((len(letters),), -9.0)
        for rank, letter in enumerate(place):
            logits[letters.index(letter)] = -float(rank)
        tokens.append(guide.choose(tokens, logits))
    return said(tokens), guide


def test_a_stub_is_not_left_and_only_a_program_ends():
    prompt = 'def f():\n    """A stub."""\n'
    assert answer_of(prompt, ["$x ", "$x ", "$x ", "$x ", "$x", "$x"])[0] == "    x$"
    found, guide = answer_of(prompt, ["\nx ", "x ", " ", " ", " ", "$x"])
    assert found == "\n    x"
    assert guide.values == {"replaced": 2, "strayed": 0}
    assert answer_of("x = (", ["$1)", "$1)", "$)1", "$1"])[0] == "1" + "1)$"


def test_without_a_token_that_will_do_the_rest_is_decoded_plainly():
    found, guide = answer_of("x = 1", ["a)", "1)", ")1"])
    assert (found, guide.values) == ("a1)", {"replaced": 0, "strayed": 1})
    guide.reset()
    assert guide.values == {"replaced": 0, "strayed": 0}


def test_guiding_is_an_option_of_greedy_generation():
    assert generate_request("x", {"guide": "python", "do_sample": False}).guide == "python"
    for options in ({"guide": "java"}, {"guide": "python", "temperature": 0.7}):
        with pytest.raises(KickError, match=r"guide: got .*expected: python, without sampling"):
            generate_request("x", options)
