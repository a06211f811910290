"""Sparsity at run time: attention that reads fewer keys, prompts that lose tokens, caches of fewer bits.

    {recipe: [...], runtime: {method: twilight, p: 0.85}}      an entry of a matrix

entry       what is known of a run-time method, without importing it; no torch
method      the interface: what a method may decide, and how its options are checked
selection   the papers' choices as functions of tensors
twilight, page_attention, lazyllm, kv_quant, sliding    one method each

A new method is one file here: a frozen dataclass under `@runtime(...)`. `kick.engine.sparse` runs the model
with it. All of it is simulated: every score is computed and then hidden, so nothing here is faster.
"""
