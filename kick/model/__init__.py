"""Models: where they are, which bytes they are made of, and what in them can be compressed.

resolve("smollm2-135m")  -> ModelSpec, with digests; no weights are loaded
load(spec)               -> (model, tokenizer)
blocks(model)            -> the decoder layers
linears(block)           -> every weight matrix of a block, as (out, in)
named_linears(model)     -> those of all blocks, with their full names
skeleton(config)         -> the model without its weights, on the meta device
"""

from kick.model.source import ALIASES, load, resolve
from kick.model.structure import Linear, block_list, blocks, linears, named_linears, skeleton, watch

__all__ = [
    "ALIASES",
    "Linear",
    "block_list",
    "blocks",
    "linears",
    "load",
    "named_linears",
    "resolve",
    "skeleton",
    "watch",
]
