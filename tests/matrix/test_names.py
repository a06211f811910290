"""Names are checked before anything slow is imported, and a wrong option is told at its own place."""

import pytest

from kick.compress import canonical
from kick.errors import KickError, WrongOption
from kick.matrix import names
from kick.matrix.load import parse
from kick.matrix.plan import plan
from kick.matrix.rates import Rates
from kick.records import canonical as text_of
from kick.sweep.executors import make_executor

UP = "model.layers.1.mlp.up_proj"
HEAD = "name: m\nmodel: smoke\ntasks: [kick_mini_mcq]\n"


def test_all_mistyped_names_are_told_at_once_with_their_lines():
    text = HEAD.replace("kick_mini_mcq", "kick_mini_mqc") + (
        "variants:\n  - {method: [wanda, wnda], sparsity: 0.5}\n"
        "  - recipe:\n    - {method: rtn, bits: 4}\n    - {method: gtpq, bits: 4}\n"
    )
    with pytest.raises(KickError) as caught:
        names.check(parse(text, "m.yaml"))
    lines = str(caught.value).split("\n")
    assert [line.split(": ")[0] for line in lines] == ["m.yaml:3", "m.yaml:5", "m.yaml:8"]
    assert "'wanda'" in lines[1]
    assert "'gptq'" in lines[2]


def test_names_of_other_methods_can_be_given():
    names.check(parse(HEAD + "variants: [{method: mine}]\n", "m.yaml"), methods=["mine"])


def test_a_wrong_option_says_its_name_and_is_told_where_it_is_written():
    """The message says "per" too, which is an option here: its line is not the one that is wrong."""
    with pytest.raises(WrongOption) as caught:
        canonical("magnitude", {"per": "row", "sparsities": {UP: 0.5}, "sparsity": "0.5 per row"})
    assert caught.value.option == "sparsity"
    text = HEAD + "variants:\n  - method: magnitude\n    per: row\n    sparsity: 0.5 per row\n"
    with pytest.raises(KickError, match=r"^m\.yaml:7: variants\[0\]\.sparsity: "):
        plan(parse(text, "m.yaml"), rates=Rates())


def test_one_matrix_is_the_same_variant_in_a_list_or_not():
    steps = [canonical("wanda", {"sparsity": 0.5, "only": only}) for only in (UP, [UP], [UP, UP])]
    assert len({text_of(dict(step.options)) for step in steps}) == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"seeds: [{2**64}]", ["m.yaml:5: seeds[0]", "from 0 to 2^64 - 1"]),
        (f"calibration: {{seed: {2**64}}}", ["m.yaml:5: calibration.seed", "from 0 to 2^64 - 1"]),
        ("shots: {examples: 2}", ["m.yaml:5: shots.examples", "2 shots", "1 worked examples"]),
        ("shots: 5", ["m.yaml:5: shots", "task examples with 5 shots"]),
    ],
)
def test_seeds_and_shots_that_cannot_be_are_refused_by_the_plan(tmp_path, line, words):
    (tmp_path / "examples.yaml").write_text(
        "task: examples\ncustom_dataset: !function kick.tasks.data.embedded\n"
        "dataset_kwargs: {file: factoid}\ntest_split: test\noutput_type: generate_until\n"
        'doc_to_text: "{{question}}"\ndoc_to_target: answer\n'
        "fewshot_config: {samples: [{question: one, answer: two}]}\n"
    )
    from kick.matrix.sources import own_sources

    text = HEAD.replace("kick_mini_mcq", "examples") + "variants: [dense]\n" + line + "\n"
    with pytest.raises(KickError) as caught:
        plan(parse(text, "m.yaml"), sources=own_sources([tmp_path]), rates=Rates())
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_as_many_shots_as_there_are_other_items(tmp_path):
    """Where examples come from the questions themselves, the one that is asked is left out."""
    from kick.tasks import load

    rows = "".join(f'{{"q": "q{n}", "a": "a{n}"}}\n' for n in range(4))
    (tmp_path / "rows.jsonl").write_text(rows)
    (tmp_path / "own.yaml").write_text(
        f"task: own\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}\n"
        'test_split: test\nfewshot_split: test\noutput_type: generate_until\ndoc_to_text: "{{q}}"\n'
        "doc_to_target: a\n"
    )
    from kick.records import TaskSpec

    task = load(["own"], None, [tmp_path])["own"]
    assert task.items(TaskSpec("own", shots=3), None)
    with pytest.raises(KickError, match="4 shots: it has 3 worked examples"):
        task.check(TaskSpec("own", shots=4))


def test_an_address_without_ray_is_refused():
    with pytest.raises(KickError, match="address: got 'ray://head' with the executor local"):
        make_executor("local", address="ray://head")
