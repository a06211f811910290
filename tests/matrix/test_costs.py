"""Estimates of time, memory and disk: what they grow with, what is learned, and what is refused for them."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from kick import paths
from kick.errors import KickError
from kick.matrix import costs
from kick.matrix import rates as matrix_rates
from kick.matrix.backward import Backward
from kick.matrix.costs import JobWork, Shape
from kick.matrix.plan import plan
from kick.matrix.rates import Rates
from kick.records import ModelSpec
from tests.support.small_tables import KEYED, SOURCES, bare, planned


def test_costs_grow_with_work_and_shrink_with_what_was_learned():
    text = KEYED + "  - {method: magnitude, sparsity: 0.5}\n"
    found = planned(text)
    dense, wanda, magnitude = (found.estimates[v.name] for v in found.variants)
    assert dense.seconds["compress"] == 0 < magnitude.seconds["compress"] < wanda.seconds["compress"]
    assert dense.memory > 4 * 135_000_000
    assert found.seconds == pytest.approx(sum(e.total for e in found.estimates.values()))
    quick = matrix_rates.learned(Rates(), "facts", items=100, seconds=1.0, parameters=135_000_000)
    learned = plan(bare(text), sources=SOURCES, rates=quick)
    assert learned.jobs[0].cost < found.jobs[0].cost


def test_rates_are_kept_and_a_damaged_file_is_left_out(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert matrix_rates.load_rates() == Rates()
    rates = matrix_rates.measured(matrix_rates.learned(Rates(), "facts", 10, 2.0, 10**9), 512, 1.0, 10**8)
    matrix_rates.save_rates(rates)
    assert matrix_rates.load_rates() == rates
    assert rates.items == {"facts@1000000000": 0.2}
    paths.rates_file().write_text("{")
    assert matrix_rates.load_rates() == Rates()
    assert "damaged" in caplog.text


def test_what_cannot_fit_is_refused_before_a_model_is_loaded(tmp_path):
    estimates = planned(KEYED).estimates
    most = max(one.memory for one in estimates.values())
    assert costs.preflight(estimates, tmp_path, memory=10 * most) == []
    assert "needs about" in costs.preflight(estimates, tmp_path, memory=most + 1)[0]
    with pytest.raises(KickError, match=r"variant .* of memory, there is"):
        costs.preflight(estimates, tmp_path, memory=most - 1)
    with pytest.raises(KickError, match=r"of disk, .* free"):
        costs.preflight(estimates, tmp_path, memory=10 * most, disk=10)


def test_a_shape_is_read_off_headers(tmp_path):
    import numpy as np
    from safetensors.numpy import save_file

    tensors = {
        "model.embed.weight": np.zeros((32, 8), np.float32),
        "model.layers.0.up.weight": np.zeros((24, 8), np.float32),
        "model.layers.0.down.weight": np.zeros((8, 24), np.float32),
        "model.layers.1.up.weight": np.zeros((24, 8), np.float32),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    wanted = Shape(
        parameters=256 + 3 * 192, block=384, widest=24, hidden=8, vocabulary=32,
        stored=4 * (256 + 3 * 192), largest=192, blocks=2, cached=2 * 8, edges=3 * (24 + 8),
        squares=3 * (24**2 + 8**2),
    )  # fmt: skip
    sizes = {"hidden_size": 8, "vocab_size": 32}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    for config, found in (
        (sizes, wanted),
        ({**sizes, **heads}, replace(wanted, cached=2 * 2 * 2)),
        ({**sizes, **heads, "head_dim": 6}, replace(wanted, cached=2 * 2 * 6)),
        ({**sizes, "quantization_config": {"quant_method": "gptq"}}, replace(wanted, quantized=True)),
        ({"text_config": {**sizes, **heads}}, replace(wanted, cached=2 * 2 * 2)),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert costs.shape(tmp_path) == found
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(KickError, match="header cannot be read"):
        costs.shape(tmp_path)


def test_gradients_take_memory_for_every_weight_of_the_blocks():
    size, model = Shape(10**9, 10**7, 4096, 1024, 32000, blocks=80), ModelSpec("m")
    work = JobWork({"facts": 1}, {}, calibrated=1, sequences=8, length=256)
    without, with_gradients = (
        costs.estimate(model, size, one, Rates()).memory
        for one in (work, replace(work, gradients=(Backward(),)))
    )
    assert with_gradients - without > 4 * 80 * 10**7


def test_on_a_gpu_a_job_must_fit_the_smallest(monkeypatch):
    sizes = [8 * 10**9, 3 * 10**9]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: SimpleNamespace(total_memory=sizes[i]))
    assert costs.job_memory() == 3 * 10**9
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert costs.job_memory() == costs.machine_memory()
