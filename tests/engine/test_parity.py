"""The engine's numbers are lm-eval's own: whole tasks through simple_evaluate, with HFLM and with kick."""

from __future__ import annotations

import json

import lm_eval
import pytest
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from kick.engine.lm_eval_model import KickLM

TASKS = {
    "choice": """
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nA. {{options[0]}}\\nB. {{options[1]}}\\nC. {{options[2]}}\\nAnswer:"
doc_to_choice: ["A", "B", "C"]
doc_to_target: gold
""",
    "cloze": """
output_type: multiple_choice
doc_to_text: "{{question}} It is"
doc_to_choice: "{{options}}"
doc_to_target: gold
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "free": """
output_type: generate_until
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{options[gold]}}"
generation_kwargs: {until: ["a", "\\n\\n", "the"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match}]
""",
    "long": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{long}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
""",
}
DOCS = [
    {
        "question": "What flows through the old town?",
        "options": ["a river", "the western road north", "sand"],
    },
    {
        "question": "Who wrote the letter?",
        "options": ["her older brother Ämne", "nobody", "two men from 東京"],
    },
    {"question": "Where is the tree?", "options": ["house", "by the water behind the house", "in glass"]},
    {"question": "Which colour has snow?", "options": ["white", "green and red and blue", "no"]},
]


@pytest.fixture(scope="module")
def manager(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    with open(folder / "docs.jsonl", "w") as file:
        for i, doc in enumerate(DOCS):
            words = " ".join(
                f"{doc['question']} {j * 7919 % 1000} {doc['options'][j % 3]}" for j in range(5 * i + 1)
            )
            file.write(json.dumps({**doc, "gold": i % 3, "long": words}) + "\n")
    head = f"""
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/docs.jsonl}}}}
test_split: test
fewshot_split: test
"""
    for name, body in TASKS.items():
        (folder / f"{name}.yaml").write_text(f"task: tiny_{name}\n{head}{body}")
    return TaskManager(include_path=str(folder), include_defaults=False)


def run(model, manager, shots: int, chat: bool, tasks=TASKS):
    names = [f"tiny_{name}" for name in tasks]
    return lm_eval.simple_evaluate(
        model=model,
        tasks=names,
        num_fewshot=shots,
        task_manager=manager,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        bootstrap_iters=0,
        log_samples=True,
    )


def compare(found, wanted):
    for task, metrics in wanted["results"].items():
        for name, value in metrics.items():
            if isinstance(value, float) and ("perplexity" in name or "bits" in name):
                assert found["results"][task][name] == pytest.approx(value, rel=1e-5)
            elif isinstance(value, (int, float)):
                assert found["results"][task][name] == value, (task, name)
    for task, samples in wanted["samples"].items():
        for mine, theirs in zip(found["samples"][task], samples, strict=True):
            assert mine["doc_id"] == theirs["doc_id"]
            for a, b in zip(mine["resps"], theirs["resps"], strict=True):
                if task == "tiny_free":
                    assert a == b
                else:
                    assert numbers(a[0]) == pytest.approx(numbers(b[0]), rel=1e-5, abs=1e-4)


def numbers(response) -> list[float]:
    """Of a log-likelihood response, as text or tuple: (log-probability, greedy), or the former alone."""
    return [float(x) for x in (response if isinstance(response, (tuple, list)) else [response])]


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gpt_neox", "mamba"])
def test_tasks_score_as_with_hflm(name, models, tokenizer, manager):
    model = models(name)
    wanted = run(HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1), manager, 0, False)
    lm = KickLM(model, tokenizer)
    compare(run(lm, manager, 0, False), wanted)
    assert lm.engine.reader.packed is (name != "mamba")


@pytest.mark.parametrize(("name", "chat"), [("llama", False), ("gpt2", False), ("llama", True)])
def test_few_shots_and_chat_template(name, chat, models, tokenizer, manager):
    model, tasks = models(name), ("choice", "free")
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3, max_length=400)
    mine = KickLM(model, tokenizer, max_length=400)
    if name == "gpt2":  # learned positions end at the window: prompts are cut
        theirs, mine = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3), KickLM(model, tokenizer)
    compare(run(mine, manager, 2, chat, tasks), run(theirs, manager, 2, chat, tasks))
