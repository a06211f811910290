"""lm-eval's generation options, read as lm-eval reads them; what the engine cannot do is refused."""

import pytest
from lm_eval.models.utils import normalize_gen_kwargs

from kick.errors import KickError
from kick.records import Request
from kick.tasks.generation import chat_renderer, generate_request

OPTIONS = [
    {"until": "\n", "max_gen_toks": 8},
    {"until": ["a", "b"], "do_sample": False, "temperature": 0.0},
    {"until": [], "temperature": 0.7, "max_new_tokens": 3},
    {"max_tokens": 5, "max_gen_toks": 7, "temperature": 0.0},
    {"max_completion_tokens": 9},
    {},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_options_are_read_as_lm_eval_reads_them(options):
    known = normalize_gen_kwargs(options)
    request = generate_request("Q", options)
    assert list(request.until) == known["until"]
    assert request.max_tokens == known["max_gen_toks"]
    assert request.temperature == known.get("temperature", 0.0)


def test_a_sampled_answer_has_its_seed_and_a_greedy_one_none():
    options = {"until": "x", "do_sample": True, "temperature": 0.7, "top_p": 0.9}
    sampled = generate_request("a", options, 4)
    assert (sampled.until, sampled.temperature, sampled.top_p, sampled.seed) == (("x",), 0.7, 0.9, 4)
    assert generate_request("a", options | {"seed": 9}, 4).seed == 9
    assert generate_request("a", {"do_sample": True}).temperature == 1.0
    greedy = generate_request("a", {"do_sample": False, "temperature": 0.9, "top_p": 0.5}, 4)
    assert greedy == Request("generate", "a", max_tokens=256)


@pytest.mark.parametrize("option", [{"num_beams": 3}, {"repetition_penalty": 1.2}, {"top_k": 5}])
def test_an_option_that_would_change_the_answer_is_refused(option):
    with pytest.raises(KickError, match=f"{next(iter(option))}.*; supported: do_sample"):
        generate_request("a", {"do_sample": True} | option)


@pytest.mark.parametrize("option", [{"num_beams": 1}, {"top_k": 5}, {"min_p": 0.1}])
def test_an_option_that_changes_nothing_is_taken(option):
    assert generate_request("a", option) == generate_request("a", {})


def test_a_tokenizer_without_a_chat_template_is_refused():
    with pytest.raises(KickError, match="task x: a chat template was asked for"):
        chat_renderer(object(), "task x: ")
