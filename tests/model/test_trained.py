"""The models of the presets `moe` and `ssm`: trained by a script, apart from what is tested on."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from kick.errors import KickError
from kick.matrix.load import load as load_matrix
from kick.matrix.plan import plan
from kick.matrix.rates import Rates
from kick.model import load, resolve, trained
from kick.tasks import data

WORDS = 8  # in a row that two different texts do not share by chance


@pytest.fixture(scope="module")
def script():
    file = Path(__file__).parents[2] / "benchmarks" / "tiny_models.py"
    spec = importlib.util.spec_from_file_location("tiny_models", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_models"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cache(script, tmp_path_factory):
    """A cache with both models as they are before the first step."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        for name in trained.NAMES:
            assert script.make(name, steps=0) == trained.folder(name)
        yield folder


@pytest.mark.parametrize("name", trained.NAMES)
def test_a_model_that_is_not_there_names_the_script(name, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(
        KickError, match=rf"'{name}' has not been trained.*run benchmarks/tiny_models.py {name}"
    ):
        resolve(name)


def rows_of_words(texts):
    for text in texts:
        words = text.lower().split()
        yield from (tuple(words[place : place + WORDS]) for place in range(len(words) - WORDS + 1))


def test_nothing_is_trained_on_that_is_calibrated_on_or_tested(script):
    others = [row["text"] for part in ("calibration", "perplexity") for row in data.embedded(part)["test"]]
    assert len(script.texts()) > 100
    assert not set(rows_of_words(script.texts())) & set(rows_of_words(others))


def test_training_lowers_the_perplexity_of_what_is_trained_on(script):
    ids = torch.randint(3, 20, (600,), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    special = {"vocab_size": 32, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    model = script.mixtral(special).eval()
    before = script.perplexity(model, ids, 60)
    script.train(model, ids, steps=6, length=60)
    assert script.perplexity(model, ids, 60) < 0.9 * before


@pytest.mark.parametrize(
    ("preset", "methods"),
    [
        ("moe", {"magnitude", "wanda", "moe-pruner", "sparsegpt", "expert-usage", "rtn", "gptq"}),
        ("ssm", {"magnitude", "wanda", "sparsegpt", "ssm-pruning", "rtn", "gptq"}),
    ],
)
@pytest.mark.usefixtures("cache")
def test_the_presets_fit_their_models(preset, methods):
    found = plan(load_matrix(preset), rates=Rates())
    assert {step.method for variant in found.variants for step in variant.recipe} == methods
    assert {cell.task.name for cell in found.cells} == {"kick_mini_perplexity", "kick_mini_fidelity"}


@pytest.mark.parametrize("name", trained.NAMES)
@pytest.mark.usefixtures("cache")
def test_they_load_as_written(name):
    model, tokenizer = load(resolve(name))
    assert model.num_parameters() < 1_000_000
    assert len(tokenizer) == model.config.vocab_size
