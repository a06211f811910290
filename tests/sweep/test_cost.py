"""Costs: what is measured of a variant, what is not, and where it is shown."""

import json
import math
import shutil
import sys
import types

import pytest
import torch

from kick import cli, paths
from kick.analysis import advised, cost, frame
from kick.errors import KickError
from kick.report import advice_view, page
from kick.store import Store
from kick.sweep import cost as measuring
from tests.support.synthetic import DENSE, FakeStore, fill, pruned, quantized


@pytest.fixture
def results(smoke_results, tmp_path):
    return str(shutil.copytree(smoke_results / "smoke", tmp_path / "smoke"))


def test_every_variant_is_measured_but_simulated_quantization_has_no_speed(results, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["cost", results, "--prompt", "32", "--new", "8", "--batch", "2"])
    assert not ended.value.code
    told = capsys.readouterr().out
    assert "rtn-4bit" in told
    assert "quantization is simulated: it has no speed" in told
    found = {one["variant"]: one for one in Store(results).costs()}
    dense, pruned_one = found["dense"], found["wanda-0.5"]
    assert (dense["prompt"], dense["new"], dense["batch"], dense["engine"]) == (32, 8, 2, "packed")
    assert dense["prefill"] > 0
    assert dense["load_seconds"] > 0
    assert dense["run_memory"] > 10e6
    assert dense["joules"] is None  # a CPU has no NVML
    assert "load_seconds" not in pruned_one
    (simulated,) = [one for one in found.values() if one["simulated"]]
    assert "prefill" not in simulated
    read = frame.read([Store(results)])
    rows = read.frame.drop_duplicates("variant").set_index("variant")
    assert rows.loc["dense", "prefill"] == dense["prefill"]
    assert rows.loc["dense", "cost_of"].startswith("packed on cpu")
    assert math.isnan(rows.loc[simulated["variant"], "prefill"])
    (section,) = page.view(read, title=None, notes=(), examples=0).sections
    lines = {line[0]: line for line in section.costs.cells}
    assert lines["rtn 4-bit"][-1] == "simulated"


def test_a_rate_is_tokens_over_seconds(monkeypatch):
    class Engine:
        """Reads 1000 tokens per second and generates 50; a token read takes 2 joules, a generated one 7."""

        def __init__(self):
            self.now = self.joules = 0.0

        def answer(self, requests):
            from kick.records import Response

            for request in requests:
                read = len(request.tokens) or 10
                self.now += read / 1000 + request.max_tokens / 50
                self.joules += 2 * read + 7 * request.max_tokens
            return [
                Response(text="x", count=request.max_tokens) if request.kind == "generate" else Response()
                for request in requests
            ]

    class Tokenizer:
        all_special_ids, vocab_size = (0,), 100

        def __len__(self):
            return 100

        def decode(self, ids):
            return " ".join(map(str, ids))

    engine = Engine()
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: engine.now)
    options = measuring.CostOptions(prompt=100, new=20, batch=3)
    found = measuring._rates(engine, Tokenizer(), options)
    assert found["prefill"] == pytest.approx(1000)
    assert found["decode"] == pytest.approx(50)
    assert found["joules"] is None
    monkeypatch.setattr(measuring, "_energy", lambda: engine.joules)
    assert measuring._rates(engine, Tokenizer(), options)["joules"] == pytest.approx(7)


def test_energy_is_nvmls_counter_in_joules_of_the_gpu_that_torch_uses(monkeypatch):
    counters = {"GPU-0a": 99_000, "GPU-0b": 12_500}  # millijoules
    nvml = types.SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=counters.get,
        NVMLError=RuntimeError,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert measuring._energy() is None
    monkeypatch.setattr(paths, "device", lambda: "cuda")
    second = types.SimpleNamespace(uuid="0b")  # CUDA_VISIBLE_DEVICES=1
    monkeypatch.setattr(torch.cuda, "get_device_properties", {0: second}.get)
    assert measuring._energy() == 12.5
    nvml.nvmlInit = lambda: (_ for _ in ()).throw(RuntimeError("no permission"))
    assert measuring._energy() is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"engine": "vllm"}, "unknown engine 'vllm'"),
        ({"prompt": 1}, "--prompt: got 1; expected at least 2"),
        ({"batch": 0}, "--batch: got 0"),
    ],
)
def test_wrong_options_are_refused(options, said):
    with pytest.raises(KickError, match=said):
        measuring.CostOptions(**options)


def test_what_cannot_be_measured_is_said_before_a_model_is_loaded(results, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("kick.model.load", None)
    with pytest.raises(SystemExit) as ended:
        cli.main(["cost", results, "--prompt", "3000"])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "--prompt: got 3000, and 64 are generated after it; expected at most 2048 together" in told
    with pytest.raises(SystemExit) as ended:
        cli.main(["cost", str(tmp_path / "absent")])
    assert ended.value.code == 2
    assert "is not a folder of results" in capsys.readouterr().err


def test_costs_are_kept_in_the_matrixs_folder_whichever_folder_is_named(results, tmp_path, monkeypatch):
    monkeypatch.setattr(
        measuring, "_record", lambda variant, work, how: record(variant, 1.0) | {"simulated": True}
    )
    measuring.measure(str(tmp_path), measuring.CostOptions())
    assert not (tmp_path / "costs.json").exists()
    assert {one["variant"] for one in Store(results).costs()} == {"dense", "wanda-0.5", "rtn-4bit-g32"}
    assert len(json.loads(measuring_file(results).read_text())["costs"]) == 3
    measuring.measure(results, measuring.CostOptions())
    assert len(json.loads(measuring_file(results).read_text())["costs"]) == 3


def test_an_unknown_variant_is_refused(results):
    with pytest.raises(KickError, match="unknown variant 'wnda"):
        measuring.measure(results, measuring.CostOptions(variants=("wnda-0.5",)))


def record(variant, decode):
    return {
        "variant": variant.name, "identity": cost.identity(variant), "engine": "packed", "device": "cpu",
        "prompt": 8, "new": 4, "batch": 1, "time": "2026-01-01", "decode": decode, "prefill": 99.0,
    }  # fmt: skip


def test_the_advice_names_the_speed_beside_denses():
    store = fill(FakeStore(), (DENSE, pruned("wanda", 0.3), quantized("rtn", 8)), ["kick_mini_factoid"])
    store.measured = [record(DENSE, 40.0), record(pruned("wanda", 0.3), 55.0)]
    (said,) = advised.advised(frame.read([store]), tolerance=0.9, by="packed")
    assert said.chosen is not None
    assert (said.chosen.variant, said.chosen.dense_decode) == ("wanda-0.3", 40.0)
    assert not said.chosen.simulated
    lines = "\n".join(advice_view.lines(said))
    assert "generates 55.0 tokens/s against 40.0 of dense, packed on cpu" in lines


def test_a_damaged_file_is_left_out_and_said(results, caplog):
    (file := measuring_file(results)).write_text("{")
    assert Store(results).costs() == []
    assert "damaged and left out" in caplog.text
    file.write_text(json.dumps({"costs": [3]}))
    assert Store(results).costs() == []


def measuring_file(results):
    from pathlib import Path

    return Path(results) / "costs.json"
