"""Chat templates with arguments, with thinking, without a system role; and what a model's files add to a key.

The right values: the prompt that the template writes by hand, and lm-eval's rule for thinking, by which only
what follows the mark is answered, without blanks before it, and stop strings are looked for there.
"""

from __future__ import annotations

import json

import pytest
import torch
from transformers import GenerationConfig

from kick import tasks
from kick.engine import Engine
from kick.engine.plain import Plain
from kick.engine.stopping import Decoding, Stops
from kick.engine.thinking import Thinking
from kick.errors import KickError
from kick.matrix.load import parse
from kick.matrix.plan import plan
from kick.matrix.rates import Rates
from kick.records import Request, TaskSpec, cell_from_json
from kick.store.samples import response_from_json, response_to_json
from kick.tasks.generation import chat_renderer, without_system
from tests.engine import conftest

GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] | trim }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
SILENT = (
    "{% for m in messages if m['role'] != 'system' %}[{{ m['content'] }}]{% endfor %}"
    "{% if add_generation_prompt %}>{% endif %}"
)
QWEN = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<a>"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
HISTORY = [{"role": "system", "content": "Answer in one word.\n\n"}, {"role": "user", "content": "Hot?"}]


class Tokenizer:
    """The tokenizer with another template, and nothing else changed."""

    def __init__(self, inner, template):
        self.inner, self.chat_template = inner, template

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def apply_chat_template(self, history, **options):
        return self.inner.apply_chat_template(history, chat_template=self.chat_template, **options)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (GEMMA, "<turn>user\nAnswer in one word.\n\nHot?<end>\n<turn>model\n"),
        (SILENT, "[Answer in one word.\n\nHot?]>"),
        (QWEN, "<system>Answer in one word.\n\n\n<user>Hot?\n<a>"),
    ],
)
def test_a_template_without_a_system_role_has_it_in_the_first_user_turn(template, expected, tokenizer):
    assert chat_renderer(Tokenizer(tokenizer, template))(HISTORY) == expected


def test_a_description_reaches_a_model_without_a_system_role(tokenizer, tmp_path):
    (tmp_path / "d.jsonl").write_text('{"q": "Hot?", "a": "cold"}\n')
    (tmp_path / "d.yaml").write_text(
        f"task: described\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/d.jsonl}}}}\n"
        'test_split: test\noutput_type: generate_until\ndescription: "Answer in one word.\\n\\n"\n'
        'doc_to_text: "{{q}}"\ndoc_to_target: a\n'
    )
    task = tasks.load(["described"], None, [tmp_path])["described"]
    (item,) = task.items(TaskSpec("described", chat_template=True), Tokenizer(tokenizer, GEMMA))
    assert item.requests[0].context == "<turn>user\nAnswer in one word.\n\nHot?<end>\n<turn>model\n"


def test_conversations_keep_their_turns():
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert without_system(turns) == turns
    assert without_system([{"role": "system", "content": "s"}]) == [{"role": "user", "content": "s"}]


# ---------------------------------------------------------------------------------------- thinking


def answered(tokenizer, said: str, prompt: str = "<a>", until=("\n",), limit=400):
    """What becomes of a text that a model generates, token by token."""
    thinking = Thinking(tokenizer, "</think>", prompt)
    row = Decoding((1,), limit, Stops.of(tokenizer, until, frozenset({2})), thinking=thinking)
    for token in tokenizer.encode(said):
        if row.done:
            break
        row.accept(token)
    return *row.text(), row.done


@pytest.mark.parametrize(
    ("said", "prompt", "expected"),
    [
        ("<think>1 + 1\nis 2</think>\n\n2\nmore", "<a>", ("2", "<think>1 + 1\nis 2", True)),
        ("1 + 1\nis 2</think>\n\n2\nmore", "<a><think>\n", ("2", "1 + 1\nis 2", True)),
        ("2\nmore", "<a><think>\n\n</think>\n\n", ("2", None, True)),
        ("2\nmore", "<a>", ("2", None, True)),
        ("<b> 2\nmore", "<a>", ("<b> 2", None, True)),
        ("<think>it never\nends", "<a>", ("", "<think>it never\nends", False)),
        ("<think>a</think>", "<a>", ("", "<think>a", False)),
    ],
)
def test_only_what_follows_the_thinking_is_the_answer(said, prompt, expected, tokenizer):
    assert answered(tokenizer, said, prompt) == expected


def test_a_row_that_starts_again_thinks_again(tokenizer):
    thinking = Thinking(tokenizer, "</think>", "<a>")
    row = Decoding((1,), 99, Stops.of(tokenizer, ("\n",), frozenset()), thinking=thinking)
    for token in tokenizer.encode("<think>a</think>b\n"):
        row.accept(token)
    first = row.text()
    row.restart()
    for token in tokenizer.encode("<think>a</think>b\n"):
        row.accept(token)
    assert row.text() == first == ("b", "<think>a")


@pytest.mark.parametrize("plain", [False, True])
def test_the_engine_keeps_it_apart_and_the_store_too(plain, models, tokenizer):
    """A mark that this model says by itself: what it generates up to there is its thinking."""
    engine = (Plain if plain else Engine)(models("llama"), tokenizer)
    prompts = ["The river", "What is a cat?", "x", "A house by the water", "one two three"]
    texts = engine.answer([Request("generate", context=p, max_tokens=12) for p in prompts])
    prompt, free, mark = next(
        (prompt, response, mark)
        for prompt, response in zip(prompts, texts, strict=True)
        for mark in (tokenizer.decode([token]) for token in response.tokens[1:])
        if mark.isascii() and mark.isprintable() and not mark.isspace() and response.text.find(mark) > 0
    )
    asked = Request("generate", context=prompt, max_tokens=12, reasoning_end=mark)
    (found,) = engine.answer([asked])
    before, after = free.text.split(mark, 1)
    assert found.tokens == free.tokens
    assert (found.reasoning, found.text) == (before, after.lstrip())
    assert response_from_json(response_to_json(found)) == found


# ---------------------------------------------------------------------------------------- plan

MATRIX = """\
name: asked
model: {folder}
tasks: [kick_mini_closed, kick_mini_mcq]
limit: 2
replicas: []
variants: [dense]
"""


@pytest.fixture
def folder(tokenizer, tmp_path):
    """A tiny model whose template thinks and whose configuration changes logits."""
    model = conftest.build("llama", tokenizer)
    model.generation_config = GenerationConfig(eos_token_id=2, repetition_penalty=1.3, forced_bos_token_id=0)
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "chat_template.jinja").write_text(QWEN)
    return tmp_path / "m"


def cells(folder, more="", head=MATRIX):
    return plan(parse(head.format(folder=folder) + more, "m.yaml"), rates=Rates()).cells


def test_what_is_asked_for_is_part_of_the_key_where_it_changes_an_answer(folder):
    plain = cells(folder)
    assert [(c.task.template, c.task.generation, c.task.reasoning_end) for c in plain] == [("", "", "")] * 2
    obeyed = cells(folder, "generation_config: model\n")
    assert json.loads(obeyed[0].task.generation) == {"repetition_penalty": 1.3, "forced_bos_token_id": 0}
    assert obeyed[0].key != plain[0].key
    assert obeyed[1].key == plain[1].key  # log-likelihoods know nothing of it
    assert cells(folder, "generation_config: greedy\n")[0].key == plain[0].key
    chat = cells(folder, "chat_template: true\n")
    assert chat[0].task.reasoning_end == "</think>"
    still = cells(folder, "chat_template: {arguments: {enable_thinking: false}}\n")
    assert [json.loads(c.task.template) for c in still] == [{"enable_thinking": False}] * 2
    assert len({c[0].key for c in (plain, obeyed, chat, still)}) == 4
    by_task = cells(folder, "chat_template: {kick_mini_mcq: {arguments: {enable_thinking: false}}}\n")
    assert (by_task[0].key, by_task[1].key) == (plain[0].key, still[1].key)
    none = cells(folder, 'chat_template: {reasoning_end: ""}\n')
    assert none[0].task.reasoning_end == ""


def test_a_cell_is_the_same_when_it_is_read_again(folder):
    from dataclasses import asdict

    for cell in cells(folder, "chat_template: {arguments: {enable_thinking: false}}\n"):
        again = cell_from_json(json.loads(json.dumps(asdict(cell))))
        assert (again, again.key) == (cell, cell.key)


def test_requests_say_so_too(folder, tokenizer):
    (cell, _) = cells(folder, "generation_config: model\nchat_template: true\n")
    task = tasks.load(["kick_mini_closed"])["kick_mini_closed"]
    for item in task.items(cell.task, Tokenizer(tokenizer, QWEN)):
        assert all(request.configured for request in item.requests)
        assert {request.reasoning_end for request in item.requests} == {"</think>"}


@pytest.mark.parametrize(
    ("keys", "end"),
    [("true", "\n<a>"), ("{arguments: {enable_thinking: false}}", "\n<a><think>\n\n</think>\n\n")],
)
def test_the_template_gets_its_arguments(keys, end, folder, tokenizer):
    (cell, _) = cells(folder, f"chat_template: {keys}\n")
    task = tasks.load(["kick_mini_closed"])["kick_mini_closed"]
    for item in task.items(cell.task, Tokenizer(tokenizer, QWEN)):
        assert all(request.context.endswith(end) for request in item.requests)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("chat_template: {arguments: {enable_thinkin: false}}\n", "reads no argument 'enable_thinkin'"),
        ("generation_config: model\ntasks: [kick_mini_fidelity]\n", "repetition_penalty.*cannot be obeyed"),
        ("generation_config: sampled\n", "'sampled'"),
        ("chat_template: {arguments: yes}\n", r"chat_template\.arguments"),
    ],
)
def test_what_cannot_be_asked_is_refused_at_plan(more, words, folder):
    head = MATRIX.replace("tasks: [kick_mini_closed, kick_mini_mcq]\n", "") if "tasks" in more else MATRIX
    with pytest.raises(KickError, match=words):
        cells(folder, more, head)


def test_a_search_that_no_backend_obeys_is_refused_at_plan(folder):
    GenerationConfig(eos_token_id=2, num_beams=4).save_pretrained(folder)
    assert cells(folder)
    with pytest.raises(KickError, match="sets num_beams, which no backend obeys"):
        cells(folder, "generation_config: model\n")


def test_a_model_without_a_template_is_refused_at_plan(folder):
    (folder / "chat_template.jinja").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(KickError, match="has no chat template"):
        cells(folder, "chat_template: true\n")


def test_a_tokenizer_beyond_the_embedding_is_refused_at_plan(folder, tokenizer):
    small = conftest.build("llama", tokenizer)
    small.resize_token_embeddings(400)
    small.save_pretrained(folder)
    assert small.get_input_embeddings().weight.shape == torch.Size([400, 32])
    with pytest.raises(KickError, match="the model has 400 rows of embedding"):
        cells(folder)
