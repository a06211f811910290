"""Two tasks of a few made-up documents in a folder: multiple choice, and generation with two filters."""

import json

CHOICES = [{"question": f"Is {i} a number?", "gold": i % 2} for i in range(6)]
WORDS = [{"question": f"Name {i} of the words.", "gold": word} for i, word in enumerate("abcd")]
TASKS = {
    "tiny_numbers": (
        CHOICES,
        'output_type: multiple_choice\ndoc_to_text: "{{question}}"\n'
        'doc_to_choice: [" no", " yes"]\ndoc_to_target: gold\nmetadata: {version: 3}\n',
    ),
    "tiny_words": (
        WORDS,
        'output_type: generate_until\ndoc_to_text: "{{question}}\\nAnswer:"\ndoc_to_target: gold\n'
        'generation_kwargs: {until: ["\\n"], max_gen_toks: 6, do_sample: false}\n'
        "filter_list:\n"
        "  - {name: whole, filter: [{function: remove_whitespace}, {function: take_first}]}\n"
        "  - {name: letter, filter: [{function: regex, regex_pattern: '([a-z])'}, {function: take_first}]}\n"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n",
    ),
}


def write(folder):
    """Task files with their documents; the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (docs, form) in TASKS.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
        (folder / f"{name}.yaml").write_text(
            f"task: {name}\ndataset_path: json\n"
            f"dataset_kwargs: {{data_files: {{test: {folder}/{name}.jsonl}}}}\ntest_split: test\n{form}"
        )
    return folder


def matrix(model="smoke", tasks=tuple(TASKS), **keys):
    """A matrix of these tasks as a dict, dense and one variant."""
    variants = ["dense", {"method": "magnitude", "sparsity": 0.5}]
    whole = {"name": "tiny", "model": model, "tasks": list(tasks), "variants": variants, "replicas": []}
    return whole | keys
