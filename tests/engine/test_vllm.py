"""The engine 'vllm' without vLLM: a program that speaks its protocol stands in, with a Llama in numpy.

That vLLM itself gives these numbers is `make vllm-test` (tests/vllm).
"""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from kick.engine import Engine, Reference
from kick.engine.backend import backends, identity, named
from kick.engine.vllm import served as served_module
from kick.engine.vllm import server, where
from kick.engine.vllm.engine import MOST_LAST, VllmEngine
from kick.engine.vllm.process import Limits
from kick.engine.vllm.served import Served
from kick.engine.vllm.where import Installed
from kick.errors import CellFailed, KickError
from kick.matrix import load, needs
from kick.records import Request
from tests.engine.conftest import WINDOW, build
from tests.support.small_tables import KEYED, planned

STAND_IN = Path(__file__).parents[1] / "support" / "vllm_stand_in.py"
HERE = Installed(sys.executable, "0.0.0")
TEXT = "The quick brown fox jumps over the lazy dog. " * 9


@pytest.fixture(scope="module")
def checkpoint(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "llama"
    model = build("llama", tokenizer)
    model.save_pretrained(folder)
    return folder, model


@pytest.fixture
def serving(checkpoint, monkeypatch, tmp_path):
    """Makes a `Served` of the stand-in; its processes are ended."""
    monkeypatch.setattr(served_module, "installed", lambda: HERE)
    folder, model = checkpoint
    made = []

    def serve(trouble="", **options):
        name = Path(f"{folder}#{trouble}") if trouble else folder
        one = Served(
            name,
            "float32",
            model.config,
            model.generation_config,
            server=STAND_IN,
            scratch=tmp_path,
            **options,
        )
        made.append(one)
        return one

    yield serve
    for one in made:
        one.close()


def requests(tokenizer):
    ids = tuple(tokenizer(TEXT)["input_ids"])
    choices = [" red", " blue", " a", " b", "", " a rather long answer"]
    return [
        *[Request("loglikelihood", "The colour is", choice) for choice in choices],
        Request("loglikelihood", "", "nothing before it"),
        Request("loglikelihood", TEXT, " and more"),
        Request("rolling", TEXT),
        Request("rolling", ""),
        Request("tokens", tokens=ids[: WINDOW + 1]),
        Request("tokens", tokens=ids[:5]),
        Request("generate", "Once", until=("e",), max_tokens=20),
        Request("generate", "Twice upon", until=("zzz", "\n"), max_tokens=7),
        Request("generate", TEXT, max_tokens=3),
        Request("generate", "Nothing", max_tokens=0),
        Request("fidelity", "Once upon", tokens=ids[:12]),
        Request("fidelity", "Once", tokens=()),
    ]


def test_answers_are_those_of_the_engine_on_transformers(serving, checkpoint, tokenizer):
    one = serving()
    asked = requests(tokenizer)
    expected = Engine(checkpoint[1], tokenizer).answer(asked)
    seen = []
    found = VllmEngine(one, tokenizer).answer(asked, lambda i, response: seen.append(i))
    assert sorted(seen) == list(range(len(asked)))
    for request, mine, theirs in zip(asked, found, expected, strict=True):
        assert (mine.text, mine.tokens, mine.count) == (theirs.text, theirs.tokens, theirs.count), request
        assert (mine.greedy, mine.truncated) == (theirs.greedy, theirs.truncated), request
        if theirs.logprob is not None:
            assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-4, nan_ok=True), request
        if theirs.values is not None:
            assert mine.values == pytest.approx(theirs.values, rel=1e-5, abs=1e-4, nan_ok=True)
    assert one.starts == 1


def test_divergence_from_the_dense_model_is_that_of_the_engine_on_transformers(
    serving, checkpoint, tokenizer, tmp_path
):
    model = checkpoint[1]
    other = build("llama", tokenizer)
    for parameter in other.parameters():
        parameter.data = parameter.data * 1.05 + 0.01
    other.save_pretrained(tmp_path / "other")
    ids = tuple(tokenizer(TEXT)["input_ids"])
    asked = [
        Request("fidelity", text, tokens=ids[place : place + 12]) for place, text in ((0, "A"), (9, "B"))
    ]
    found = []
    for kind, first, second in (
        (Engine, model, other),
        (VllmEngine, serving(), replace(serving(), folder=tmp_path / "other")),
    ):
        folder = tmp_path / kind.__name__
        with Reference(folder, write=True) as written:
            own = kind(first, tokenizer, reference=written).answer(asked)
        assert all(one.values["kl_max"] == pytest.approx(0, abs=1e-6) for one in own)
        answers = kind(second, tokenizer, reference=Reference(folder)).answer(asked)
        found.append([dict(one.values) for one in answers])
        if isinstance(second, Served):
            second.close()
    assert found[0][0]["kl_mean"] > 1e-3
    for expected, mine in zip(*found, strict=True):
        assert mine == pytest.approx(expected, rel=1e-3, abs=1e-4, nan_ok=True)


def test_many_choices_of_one_prompt_are_asked_in_parts(serving, checkpoint, tokenizer):
    vocabulary = checkpoint[1].config.vocab_size
    targets = [(token,) for token in range(vocabulary)]
    assert vocabulary > 2 * MOST_LAST
    [(index, found)] = VllmEngine(serving(), tokenizer)._scored([((5, 6, 7), targets)])
    assert index == 0
    assert math.fsum(math.exp(logprob) for logprob, _ in found) == pytest.approx(1, abs=1e-5)
    assert sum(greedy for _, greedy in found) == 1


def test_a_longer_text_starts_the_process_again(serving, tokenizer, monkeypatch):
    monkeypatch.setattr(served_module, "SHORTEST", 8)
    one = serving()
    engine = VllmEngine(one, tokenizer)
    short, long = Request("tokens", tokens=(5, 6, 7)), Request("tokens", tokens=tuple(range(5, 30)))
    first = engine.answer([short])
    engine.answer([long])
    assert engine.answer([short]) == first
    assert one.starts == 2
    assert engine.notes()["starts"] == 2
    assert engine.notes()["vllm"] == "0.0.0"


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("crash", r"ended \(status 3\)(.|\n)*the machine is on fire"),
        ("garbage", "said 'INFO: hello', which is not a message"),
        ("stranger", "answered what was not asked"),
        ("silent", "said nothing within 1 seconds"),
        ("refuse", "vLLM refuses a request: prompt too long"),
        ("early", "ended an answer after 1 of 9 tokens"),
        ("lost", "NaN or infinite"),
        ("stillborn", r"ended \(status 1\)(.|\n)*no such architecture"),
    ],
)
def test_a_process_that_misbehaves_fails_the_cell_with_its_cause(serving, tokenizer, trouble, message):
    one = serving(trouble, limits=Limits(silent=1, end=0.2))
    engine = VllmEngine(one, tokenizer)
    asked = [Request("generate", "Once", max_tokens=9)]
    for _ in range(2):  # the next cell of the job says so as well
        with pytest.raises(CellFailed, match=message):
            engine.answer(asked)
    assert one.starts == {"stranger": 2}.get(trouble, 1), "what fails at once is not tried again"
    one.close()
    assert one.memory_used() == 0


def test_a_process_that_crashes_after_it_has_answered_is_started_again(serving, tokenizer):
    one = serving("later")
    engine = VllmEngine(one, tokenizer)
    asked = [Request("generate", "Once", max_tokens=1)]
    assert engine.answer(asked)[0].tokens == (5,)
    with pytest.raises(CellFailed, match=r"ended \(status 3\)"):
        engine.answer(asked)
    assert engine.answer(asked)[0].tokens == (5,)
    assert one.starts == 2


def test_a_process_that_is_never_ready_is_ended(serving, tokenizer, monkeypatch, tmp_path):
    (tmp_path / "sleep.py").write_text("import time\ntime.sleep(60)\n")
    one = replace(serving(), server=tmp_path / "sleep.py", limits=Limits(start=0.3, end=0.1))
    with pytest.raises(CellFailed, match=r"was not ready within 0\.3 seconds"):
        VllmEngine(one, tokenizer).answer([Request("tokens", tokens=(5, 6))])


def test_of_ties_the_first_token_is_chosen_as_argmax_does():
    assert server.choice([(9, -0.5), (4, -0.5), (7, -2.0)]) == 4
    assert server.choice([(9, -0.5), (4, -0.6)]) == 9


def test_a_score_is_read_from_what_vllm_gives():
    def position(**found):
        return {int(name[1:]): SimpleNamespace(logprob=value) for name, value in found.items()}

    made = SimpleNamespace(token_ids=[8], logprobs=[position(_8=-0.1, _3=-2.0)])
    prompt = [None, position(_6=-9.0, _1=-0.5), position(_7=-1.0, _2=-1.0)]
    output = SimpleNamespace(prompt_logprobs=prompt, outputs=[made])
    found = server.scored(output, {"score": [5, 6, 7], "count": 2, "last": [3]})
    assert found == {"before": [[-9.0, 1], [-1.0, 2]], "chosen": 8, "last": [-2.0]}


# ---------------------------------------------------------------------------------------- plan


@pytest.fixture
def python(monkeypatch):
    def give(name):
        monkeypatch.setenv(where.PYTHON, name)
        where._installed.cache_clear()

    yield give
    where._installed.cache_clear()


@pytest.mark.parametrize(
    ("name", "message"),
    [("/nowhere/python", "cannot be run"), (sys.executable, "vLLM is not installed there")],
)
def test_a_python_without_vllm_is_refused_in_a_line_with_its_place(python, name, message):
    python(name)
    if name == sys.executable and "vllm" in sys.modules:
        pytest.skip("vLLM is installed here")
    matrix = load.parse(KEYED + "engine: {name: vllm}\n", "m.yaml")
    with pytest.raises(KickError, match=rf"m\.yaml:\d+: .*{where.PYTHON}={name}.*{message}") as refused:
        needs.check(matrix)
    assert "\n" not in str(refused.value).strip()


def test_what_vllm_does_not_obey_is_refused(monkeypatch):
    monkeypatch.setattr("kick.engine.backend.installed", lambda: HERE)
    matrix = load.parse(KEYED + "engine: {name: vllm}\ngeneration_config: model\n", "m.yaml")
    with pytest.raises(KickError, match="obeys nothing of a model's generation configuration"):
        needs.check(matrix)
    with pytest.raises(KickError, match="generate are of the engine named layered"):
        load.parse(KEYED + "engine: {name: vllm, generate: true}\n", "m.yaml")


@pytest.mark.parametrize(
    ("config", "dtype", "refused"),
    [
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "float32", True),
        ({"quant_method": "gptq"}, "float32", True),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "bfloat16", False),
        ({"quant_method": "compressed-tensors", "format": "dense"}, "float32", False),
        (None, "float32", False),
    ],
)
def test_packed_weights_need_half_precision(config, dtype, refused, monkeypatch, tmp_path):
    monkeypatch.setattr("kick.engine.backend.installed", lambda: HERE)
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": config} if config else {}))
    text = f"variants:\n  - {{checkpoint: {tmp_path}}}\ndtype: {dtype}\nengine: {{name: vllm}}\n"
    matrix = load.parse(KEYED.partition("variants:")[0] + text, "m.yaml")
    if not refused:
        needs.check(matrix)
        return
    place = r"m\.yaml:\d+: variants\[0\]\.checkpoint: "
    with pytest.raises(KickError, match=place + ".*expected: dtype: bfloat16"):
        needs.check(matrix)


def test_keys_name_engine_version_and_dtype(monkeypatch):
    monkeypatch.setattr("kick.engine.backend.installed", lambda: HERE)
    assert named("vllm").apart
    assert backends["vllm"] is VllmEngine
    plan = planned(KEYED + "replicas: [dtype]\nengine: {name: vllm, memory: 4GB}\n")
    assert {cell.engine for cell in plan.cells} == {"vllm 1 0.0.0"}
    assert len({cell.key for cell in plan.cells}) == len(plan.cells), "the dtype is in the key"
    others = planned(KEYED + "replicas: [dtype]\n")
    assert not set(plan.keys) & set(others.keys)
    dense = {cell.task.name: cell.key for cell in plan.cells if cell.variant.dense}
    diverging = [cell for cell in plan.cells if cell.task.name == "diverge" and not cell.variant.dense]
    assert {cell.reference for cell in diverging} == {dense["diverge"]}, "dense is on the same engine"
    monkeypatch.setattr("kick.engine.backend.installed", lambda: Installed("", "0.0.1"))
    assert identity("vllm") == "vllm 1 0.0.1"
