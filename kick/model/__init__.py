"""Models: where they are, which bytes they are made of, and what in them can be compressed.

resolve("smollm2-135m")  -> ModelSpec, with digests; no weights are loaded
load(spec)               -> (model, tokenizer)
blocks(model)            -> the decoder layers
linears(block)           -> every weight matrix of a block, as (out, in)
"""

from kick.model.source import ALIASES, load, resolve
from kick.model.structure import Linear, block_list, blocks, linears, watch

__all__ = [
    "ALIASES",
    "Linear",
    "block_list",
    "blocks",
    "linears",
    "load",
    "resolve",
    "watch",
]
