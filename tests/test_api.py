"""The five functions for notebooks and scripts, and that the command line calls the same."""

import doctest
import importlib
import inspect
import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import kick
from kick import api, cli
from kick.matrix.load import PRESETS, load
from kick.sweep.run import RunOptions

ROOT = Path(__file__).parents[1]
FUNCTIONS = ("plan", "run", "compress_model", "results", "compare")
INLINE = RunOptions(executor="inline")
RTN = {"method": "rtn", "bits": 4, "group_size": 32}


def test_the_examples_of_the_docstrings_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner(optionflags=flags)
    told = io.StringIO()
    for name in ("plan", "run", "compress_model", "results", "compare"):  # results are those of run
        (test,) = finder.find(getattr(api, name), name, globs=vars(api) | {"RunOptions": RunOptions})
        assert test.examples, name
        runner.run(test, out=told.write)
    assert runner.summarize(verbose=False).failed == 0, told.getvalue()


def test_importing_kick_brings_in_neither_torch_nor_pandas():
    program = (
        "import sys, kick; kick.KickError, dir(kick); kick.plan; "
        "print(*{'torch', 'transformers', 'pandas', 'pydantic', 'lm_eval'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == ""


def test_no_function_has_the_name_of_a_room(smoke_results):
    rooms = {path.stem for path in (ROOT / "kick").iterdir()}
    assert not rooms & set(FUNCTIONS)

    def call_all():
        assert len(kick.plan("smoke", out=smoke_results).cells) == 6
        assert kick.run("smoke", out=smoke_results, options=INLINE).done == 6
        assert kick.compress_model("smoke", RTN).report["steps"][0]["method"] == "rtn"
        assert len(kick.results(smoke_results)) > 6
        assert kick.compare(smoke_results, "dense", "wanda-0.5").b == "wanda-0.5"

    call_all()
    for module in ("analysis.compare", "analysis.frame", "compress.method", "matrix.plan", "sweep.run"):
        importlib.import_module(f"kick.{module}")
    call_all()
    assert all(inspect.isfunction(getattr(kick, name)) for name in FUNCTIONS)
    assert set(FUNCTIONS) <= set(dir(kick))
    with pytest.raises(AttributeError, match="plam"):
        _ = kick.plam


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("run", ["smoke"]),
        ("plan", ["smoke"]),
        ("compare", ["results", "a", "b"]),
        ("results", ["results", "--out", "x"]),
    ],
)
def test_the_command_line_calls_the_same_functions(monkeypatch, capsys, command, arguments):
    def refuse(*_, **__):
        raise kick.KickError(f"{command} was called")

    monkeypatch.setattr(api, command, refuse)
    words = {"results": "figures"}.get(command, command)
    with pytest.raises(SystemExit) as ended:
        cli.main([words, *arguments])
    assert ended.value.code == 2
    assert f"kick: {command} was called" in capsys.readouterr().err


# ------------------------------------------------------------------------------ matrices


MINE = {
    "name": "mine",
    "model": "smoke",
    "tasks": ["kick_mini_mcq"],
    "limit": {"kick_mini_mcq": 4},
    "variants": ["dense", {"method": "wanda", "sparsity": ["2:4", 0.5]}, {"method": "rtn", "bits": (3, 4)}],
    "replicas": [],
}
TEXT = """
name: mine
model: smoke
tasks: [kick_mini_mcq]
limit: {kick_mini_mcq: 4}
variants: [dense, {method: wanda, sparsity: ["2:4", 0.5]}, {method: rtn, bits: [3, 4]}]
replicas: []
"""


def test_a_matrix_is_a_path_a_preset_text_or_a_dict(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(TEXT)
    given = [MINE, TEXT, str(file), file, load(MINE), "{" + ", ".join(TEXT.split("\n")[1:-1]) + "}"]
    found = [load(one) for one in given]
    assert all(one.model_dump() == found[0].model_dump() for one in found[1:])
    assert load("smoke").model_dump() == load(PRESETS / "smoke.yaml").model_dump()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"modell": "x"}, "matrix: modell: unknown key 'modell'; did you mean 'model'?"),
        ({"tasks": [1]}, "matrix: tasks[0]: got 1; expected: the name of a task or group"),
        ({"limit": float("nan")}, "matrix: limit: got .nan; expected: a finite number"),
        ({"tasks": {1: 2}}, "matrix: tasks: got dict; expected text"),
        ({"seeds": {1, 2}}, "matrix: seeds: got set; expected text"),
        ({"variants": [RTN, RTN]}, "variants[0] and variants[1]; keep one"),
        ({"variants": [{**RTN, "name": "dense"}]}, "two variants called dense, the other in variants"),
    ],
)
def test_what_is_wrong_with_a_dict_is_told_by_its_keys(change, words):
    with pytest.raises(kick.KickError) as caught:
        kick.plan({**MINE, **change})
    assert words in str(caught.value)


def test_a_run_tells_what_failed_and_goes_on(tmp_path):
    """A window longer than the model's: perplexity fails, multiple choice is done all the same."""
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "too_long.yaml").write_text(
        "task: too_long\ncustom_dataset: !function kick.tasks.data.embedded\n"
        "dataset_kwargs: {file: perplexity}\ntest_split: test\noutput_type: loglikelihood_rolling\n"
        'doc_to_text: ""\ndoc_to_target: text\n'
        "metadata: {version: 1, kick: {protocol: perplexity, seqlen: 4096}}\n"
    )
    matrix = {**MINE, "tasks": ["kick_mini_mcq", "too_long"], "variants": ["dense"]}
    ran = kick.run(matrix, out=tmp_path / "results", limit=2, tasks=[folder], options=INLINE)
    assert (ran.status, ran.total, ran.done, ran.failed) == (1, 2, 1, 1)
    ((place, cause),) = ran.failures().items()
    assert place == ("dense", "too_long")
    assert "window of tokens" in cause
    assert set(ran.results()["task"]) == {"kick_mini_mcq"}
    with pytest.raises(kick.KickError, match="expected a list of paths"):
        kick.run(matrix, tasks=str(folder))


@pytest.mark.usefixtures("forgotten")
def test_methods_from_a_file_of_ones_own(tmp_path):
    file = tmp_path / "zero_out.py"
    file.write_text(
        "from dataclasses import dataclass\nfrom kick.compress.method import method\n"
        "from kick.model import blocks, linears\n\n\n"
        '@method("zero_out_api", title="Zero out", paper="a test", kind="prune")\n@dataclass(frozen=True)\n'
        'class ZeroOut:\n    """All weights of the first block are zero."""\n\n'
        "    def __call__(self, model, calibration):\n"
        "        for linear in linears(blocks(model)[0]):\n            linear.weight.zero_()\n"
    )
    step = {"method": "zero_out_api"}
    made = kick.compress_model("smoke", step, plugins=[file])
    assert not made.model.model.layers[0].mlp.up_proj.weight.any()
    planned = kick.plan({**MINE, "variants": [step]}, plugins=[file], out=tmp_path)
    assert {cell.variant for cell in planned.cells} == {"dense", "zero_out_api"}


def test_a_notebook_is_shown_lines(monkeypatch):
    from rich.console import Console

    from kick.sweep import progress
    from kick.sweep.progress.lines import Lines
    from kick.sweep.progress.live import LiveView

    monkeypatch.setattr(Console, "is_terminal", property(lambda self: True))
    assert isinstance(progress.show((), None)._view, LiveView)
    monkeypatch.setattr(Console, "is_jupyter", True, raising=False)
    original = Console.__init__

    def in_notebook(self, *arguments, **options):
        original(self, *arguments, **options)
        self.is_jupyter = True

    monkeypatch.setattr(Console, "__init__", in_notebook)
    assert isinstance(progress.show((), None)._view, Lines)


def test_offline_holds_for_libraries_that_are_imported_already(monkeypatch):
    import datasets
    from huggingface_hub import constants

    from kick import paths

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", False, raising=False)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "0")
    paths.offline()
    assert constants.is_offline_mode() if hasattr(constants, "is_offline_mode") else constants.HF_HUB_OFFLINE
    assert datasets.config.HF_HUB_OFFLINE


# ------------------------------------------------------------------------------ compress_model


@pytest.fixture
def loaded():
    """The model `smoke` as transformers loads it: with gradients asked, in training mode."""
    from transformers import AutoModelForCausalLM

    from kick.model.source import locate

    return AutoModelForCausalLM.from_pretrained(locate("smoke"), dtype=torch.float32).train()


def test_a_loaded_model_is_compressed_in_place_and_left_as_it_was(loaded):
    recipe = [{"method": "wanda", "sparsity": 0.5}, {"method": "rtn", "bits": 4, "group_size": 32}]
    small = {"sequences": 2, "length": 64}
    made = kick.compress_model(loaded, recipe, calibration=small)
    named = kick.compress_model("smoke", recipe, calibration=small)
    assert made.model is loaded
    assert loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    same = zip(loaded.state_dict().items(), named.model.state_dict().items(), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in same)
    assert made.report["footprint"] == named.report["footprint"]


def test_a_smaller_model_can_be_trained_as_the_whole_one_could(loaded):
    made = kick.compress_model(
        loaded, {"method": "flap", "share": 0.3}, calibration={"sequences": 2, "length": 64}
    )
    assert made.report["footprint"]["parameters"] < 205376
    assert all(parameter.requires_grad for parameter in made.model.parameters())


def test_calibration_as_token_tensors(loaded):
    from kick.compress.calibrate.corpus import sequences
    from kick.model import load as load_model
    from kick.model import resolve
    from kick.records import CalibrationSpec

    spec = CalibrationSpec("kick_mini_calibration", 2, 64)
    tokens = sequences(spec, load_model(resolve("smoke"))[1])
    step = {"method": "wanda", "sparsity": 0.5}
    given = kick.compress_model(loaded, step, calibration=[tokens[0], tokens[1][0]])  # (1, 64) and (64,)
    named = kick.compress_model("smoke", step, calibration=spec)
    assert torch.equal(
        given.model.model.layers[3].mlp.down_proj.weight, named.model.model.layers[3].mlp.down_proj.weight
    )


def test_a_checkpoint_is_saved_at_once_or_later(tmp_path, loaded):
    made = kick.compress_model("smoke", RTN, out=tmp_path / "now")
    assert made.manifest["logit_difference"] <= 1e-3
    assert made.save(tmp_path / "later")["bytes"] == made.manifest["bytes"]
    with pytest.raises(kick.KickError, match="now is there already"):
        kick.compress_model("nowhere", RTN, out=tmp_path / "now")  # before a model is looked for
    with pytest.raises(kick.KickError, match="needs a tokenizer"):
        kick.compress_model(loaded, RTN).save(tmp_path / "without")


@pytest.mark.parametrize(
    ("recipe", "calibration", "words"),
    [
        ({"method": "wnda"}, "c4", "recipe[0]: unknown method 'wnda'; did you mean 'wanda'?"),
        ([RTN, {"bits": 4}], "c4", "recipe[1]: got {'bits': 4}; expected"),
        ([], "c4", "recipe: got no step"),
        (RTN, "c5", "unknown calibration corpus 'c5'"),
        (
            RTN,
            {"corpus": "c4", "lenght": 3},
            "calibration.lenght: unknown key 'lenght'; did you mean 'length'",
        ),
        (
            {"method": "wanda", "sparsity": 0.5},
            [torch.ones(1, 64)],
            "torch.float32; expected token ids (1, length)",
        ),
        ({"method": "wanda", "sparsity": 0.5}, [torch.full((1, 64), 10**6)], "token ids from 1000000 to"),
        ({"method": "wanda", "sparsity": 0.5}, [], "needs calibration sequences; got none"),
        ({"method": "rtn", "bits": 4, "group_size": 7}, "c4", "7"),
    ],
)
def test_what_is_wrong_with_a_recipe_or_calibration_is_told(recipe, calibration, words):
    with pytest.raises(kick.KickError) as caught:
        kick.compress_model("smoke", recipe, calibration=calibration)
    assert words in str(caught.value)


def test_what_is_no_loaded_model_is_refused(loaded):
    with pytest.raises(kick.KickError, match="model: got Linear; expected a name"):
        kick.compress_model(torch.nn.Linear(3, 3), RTN)
    with torch.device("meta"):
        empty = type(loaded)(loaded.config)
    with pytest.raises(kick.KickError, match="meta device"):
        kick.compress_model(empty, RTN)


def test_a_model_that_came_from_nowhere_needs_its_tokenizer(loaded):
    loaded.name_or_path = loaded.config._name_or_path = ""
    with pytest.raises(kick.KickError, match="give tokenizer="):
        kick.compress_model(loaded, {"method": "wanda", "sparsity": 0.5})
