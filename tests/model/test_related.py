"""A checkpoint beside the dense model: another vocabulary is refused, what else differs is said."""

import json
import shutil

import pytest

from kick.analysis import doubts, frame
from kick.errors import KickError
from kick.matrix.load import load as load_matrix
from kick.matrix.plan import plan
from kick.model import related, resolve
from kick.model.source import locate
from kick.store import Store


@pytest.fixture
def theirs(tmp_path):
    """A copy of the smoke model."""
    return shutil.copytree(locate("smoke"), tmp_path / "theirs")


def tokens(folder, change):
    """tokenizer.json changed in place by a function of its content."""
    file = folder / "tokenizer.json"
    whole = json.loads(file.read_text("utf-8"))
    change(whole)
    file.write_text(json.dumps(whole), "utf-8")


def add(whole):
    size = len(whole["model"]["vocab"])
    token = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    whole["added_tokens"].append({"id": size, "content": "<|tool|>", **token})


def swap(whole):
    vocabulary = whole["model"]["vocab"]
    one, other = sorted(vocabulary, key=vocabulary.get)[100:102]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]


def unmerge(whole):
    whole["model"]["merges"] = whole["model"]["merges"][:10]


def matrix(folder):
    variants = [{"checkpoint": str(folder), "name": "theirs"}]
    return {
        "name": "m",
        "model": "smoke",
        "tasks": ["kick_mini_mcq"],
        "limit": 2,
        "replicas": [],
        "variants": variants,
    }


@pytest.mark.parametrize(
    ("change", "said"), [(swap, "2 tokens have other"), (unmerge, "cuts text otherwise")]
)
def test_another_tokenizer_is_refused_at_plan(theirs, change, said):
    tokens(theirs, change)
    with pytest.raises(KickError, match=said):
        plan(load_matrix(matrix(theirs)))


def test_added_tokens_are_said(theirs):
    tokens(theirs, add)
    dense, own = resolve("smoke"), resolve(str(theirs))
    related.check(own, dense)
    assert related.notes(own, dense) == ("its tokenizer differs from dense's by 1 added tokens ('<|tool|>')",)


def test_the_same_files_and_the_same_tokenizer_written_otherwise_have_no_note(theirs):
    dense = resolve("smoke")
    assert related.notes(resolve(str(theirs)), dense) == ()
    tokens(theirs, lambda whole: None)  # the same content, other bytes
    own = resolve(str(theirs))
    assert own.tokenizer != dense.tokenizer
    related.check(own, dense)
    assert related.notes(own, dense) == ()


def test_another_shape_is_said_on_the_page(tmp_path):
    import torch
    import transformers as tf

    import kick

    config = tf.AutoConfig.from_pretrained(locate("smoke"))
    config.num_hidden_layers, config.intermediate_size = 2, 96
    torch.manual_seed(0)
    folder = tmp_path / "other"
    tf.LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(locate("smoke") / name, folder)
    options = kick.RunOptions(out=str(tmp_path / "results"), executor="inline", view="json")
    ran = kick.run(matrix(folder), options=options)
    assert ran.status == 0
    said = "\n".join(doubts.signs(frame.read([Store(ran.folder)]).cells))
    assert "not the base model's shape (2 for 4 layers, 96 for 160 intermediate size)" in said
    assert "theirs" in said


def test_answers_that_are_all_denses_own_are_said_on_the_page(theirs, tmp_path):
    import kick

    options = kick.RunOptions(out=str(tmp_path / "results"), executor="inline", view="json")
    ran = kick.run(matrix(theirs), options=options)
    said = "\n".join(doubts.signs(frame.read([Store(ran.folder)]).cells))
    assert "all 2 answers are identical to dense's (theirs)" in said
