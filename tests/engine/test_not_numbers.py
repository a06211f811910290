"""A model that computes no numbers gets no scores, and a checkpoint that is not whole is not loaded."""

import json

import pytest
from safetensors.torch import load_file, save_file

from kick import cli
from kick.errors import KickError
from kick.model import load, resolve
from kick.store import Store
from kick.sweep import run

MATRIX = """
name: broken
model: {model}
tasks: [kick_mini_mcq, kick_mini_factoid, kick_mini_perplexity, kick_mini_fidelity]
limit: 4
variants: [dense, {{checkpoint: {folder}}}, {{method: magnitude, sparsity: 0.5}}]
replicas: []
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "nan"
    model, tokenizer = load(resolve("smoke"))
    model.model.layers[1].mlp.up_proj.weight[3] = float("nan")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def finished(model, folder, out):
    file = out / "matrix.yaml"
    file.write_text(MATRIX.format(model=model, folder=folder))
    options = run.RunOptions(out=str(out / "results"), executor="inline", view="json")
    run.run(str(file), options, ["kick", "run", str(file)], lambda text: None)
    store = Store(out / "results", "broken")
    done = {(x.cell.variant.name, x.cell.task.name): x for x in store.runs()}
    failed = {(x.cell.variant.name, x.cell.task.name): x.cause for x in store.failures() if x.cell}
    return done, failed


@pytest.mark.parametrize("dense", [True, False], ids=["the dense model", "a variant"])
def test_scores_of_a_model_without_numbers_are_missing_or_failed(folder, tmp_path, dense):
    done, failed = finished(folder if dense else "smoke", folder, tmp_path)
    name = (
        "dense"
        if dense
        else next(variant for variant, _ in done if variant not in ("dense", "magnitude-0.5"))
    )
    for task in ("kick_mini_mcq", "kick_mini_perplexity", *(() if dense else ("kick_mini_fidelity",))):
        for score in done[name, task].scores:
            assert score.metric == "length" or (score.value, score.n, score.missing) == (None, 0, 4), score
    assert "logits are NaN or infinite" in failed[name, "kick_mini_factoid"]
    if dense:
        assert "logits are NaN or infinite" in failed[name, "kick_mini_fidelity"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["leaderboard", str(tmp_path / "results"), "--out", str(tmp_path / "page")])
    assert not ended.value.code
    assert (tmp_path / "page" / "index.html").stat().st_size > 10_000


def damaged(folder, tmp_path, change):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    change(tmp_path)
    return str(tmp_path)


def without_a_tensor(folder):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})


def halved(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def other_shape(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))


def a_list(folder):
    (folder / "config.json").write_text("[1]")


def no_number(folder):
    text = (folder / "config.json").read_text().replace('"rms_norm_eps": ', '"rms_norm_eps": NaN, "was": ')
    (folder / "config.json").write_text(text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_a_tensor, "lacks model.layers.1.mlp.up_proj.weight"),
        (halved, "copied or downloaded whole"),
        (other_shape, "transformers cannot load"),
        (a_list, "not a JSON object"),
        (no_number, "NaN is not a number"),
    ],
)
def test_a_damaged_checkpoint_is_refused_in_a_line(folder, tmp_path, change, words):
    name = damaged(folder, tmp_path, change)
    with pytest.raises(KickError, match=words):
        load(resolve(name))
