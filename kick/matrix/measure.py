"""Speed of this machine with a model: one timed forward, kept for later estimates."""

from __future__ import annotations

import time

from kick import paths
from kick.matrix.rates import Rates, load_rates, measured, save_rates
from kick.records import ModelSpec

TOKENS = 256


def measure(spec: ModelSpec) -> Rates:
    """The rates of this machine after a forward of TOKENS tokens of the model, the second of two; stored."""
    import torch

    from kick import model

    device = paths.device()
    network, _ = model.load(spec, device=device)
    ids = torch.arange(TOKENS, device=device).remainder(network.config.vocab_size)[None]
    with torch.inference_mode():
        network(input_ids=ids, use_cache=False)
        start = time.perf_counter()
        network(input_ids=ids, use_cache=False)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    parameters = sum(p.numel() for p in network.parameters())
    rates = measured(load_rates(), TOKENS, seconds, parameters)
    save_rates(rates)
    return rates
