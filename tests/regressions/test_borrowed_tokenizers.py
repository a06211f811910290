"""A checkpoint of weights and config alone is asked with its base's tokenizer, or refused at plan."""

import json
import shutil
from pathlib import Path

import pytest

import kick
from kick.errors import KickError
from kick.matrix.load import load as load_matrix
from kick.matrix.plan import plan
from kick.model import load, resolve
from kick.model.source import locate
from kick.store import Store

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
MATRIX = """
name: borrowed
model: smoke
tasks: [kick_mini_mcq]
limit: 4
replicas: []
variants:
  - {checkpoint: FOLDER, name: theirs}
"""


@pytest.fixture
def bare(tmp_path):
    """The smoke model's weights and config under another name, without the tokenizer's files."""
    folder = tmp_path / "theirs"
    shutil.copytree(locate("smoke"), folder)
    for name in TOKENIZER:
        (folder / name).unlink(missing_ok=True)
    return folder


def changed(folder: Path, **values: object) -> None:
    """Values of config.json, in place."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def planned(folder: Path, tmp_path: Path):
    """The plan of a matrix in which the folder is a variant."""
    file = tmp_path / "matrix.yaml"
    file.write_text(MATRIX.replace("FOLDER", str(folder)))
    return plan(load_matrix(str(file)))


def test_its_cells_are_those_of_the_checkpoint_with_the_bases_files_in_it(bare, tmp_path):
    whole = tmp_path / "whole"
    shutil.copytree(bare, whole)
    for name in TOKENIZER:
        if (locate("smoke") / name).is_file():
            shutil.copy(locate("smoke") / name, whole)
    without, beside = planned(bare, tmp_path), planned(whole, tmp_path)
    assert without.keys == beside.keys
    model = without.variants[1].model
    assert (model.tokenizer, model.tokenizer_from) == (resolve("smoke").tokenizer, "smoke")
    assert beside.variants[1].model.tokenizer_from == ""
    text = "What is 2 + 3?"
    ids = [load(one.variants[1].model)[1](text).input_ids for one in (without, beside)]
    assert ids[0] == ids[1] == load(resolve("smoke"))[1](text).input_ids


def test_it_is_measured_and_the_record_names_the_base(bare, tmp_path):
    """Weights, config and tokenizer are the dense model's, and so are the answers."""
    file = tmp_path / "matrix.yaml"
    file.write_text(MATRIX.replace("FOLDER", str(bare)))
    kick.run(file, options=kick.RunOptions(out=str(tmp_path / "results"), executor="inline"))
    dense, theirs = sorted(
        Store(tmp_path / "results", "borrowed").runs(), key=lambda one: one.cell.variant.name
    )
    assert theirs.scores == dense.scores
    written = next(file for file in (tmp_path / "results").rglob("run.json") if theirs.key in str(file))
    assert json.loads(written.read_text())["cell"]["variant"]["model"]["tokenizer_from"] == "smoke"


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"vocab_size": 600}, r"another vocabulary: vocab_size: expected \d+ \(of smoke\), got 600"),
        ({"eos_token_id": 5}, r"another vocabulary: eos_token_id: expected \[\d+\] \(of smoke\), got \[5\]"),
    ],
)
def test_another_vocabulary_is_refused_at_plan(values, line, bare, tmp_path):
    changed(bare, **values)
    with pytest.raises(KickError, match=line):
        planned(bare, tmp_path)


def test_padding_of_the_quantizers_own_is_no_difference(bare, tmp_path):
    changed(bare, pad_token_id=7)
    assert planned(bare, tmp_path).variants[1].model.tokenizer_from == "smoke"


def test_a_base_whose_tokenizer_changed_is_not_used(bare, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(locate("smoke"), base)
    spec = resolve(str(bare), base=resolve(str(base)))
    changed_file = base / "tokenizer_config.json"
    changed_file.write_text(json.dumps(json.loads(changed_file.read_text()) | {"model_max_length": 7}))
    with pytest.raises(KickError, match=r"the tokenizer of .*base.* changed; plan the matrix again"):
        load(spec)
