"""Whether an architecture may be run in packs: found out on a few tokens, never assumed from its name.

A model passes if a packed forward (a shared prefix computed first, two branches side by side, explicit
positions) and a decoding step give the hidden states of plain whole forwards. Mamba keeps no keys and
values, ALiBi takes positions from a mask, some attentions do not go through transformers' interface: they
fail here and are run plainly. What shows only on long texts is read from the configuration.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from kick.engine.network import Network, out_of_memory
from kick.engine.packed.attend import Unsupported
from kick.engine.packed.pack import Done, Runner
from kick.engine.packed.slots import Row, Slots
from kick.engine.packed.tree import grow
from kick.engine.stopping import Decoding, Stops
from kick.model.elsewhere import looks_ahead

if TYPE_CHECKING:
    from transformers import PretrainedConfig

log = logging.getLogger("kick.engine")

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}  # of the length of a hidden state, at every position
LOOSE = 6e-2  # the tolerance of half precision, at the median position
BUDGET = 10  # tokens of a forward: less than the tree has
STRIDE = 997  # spreads the tokens below over the vocabulary: its first ones are special, and hardly trained
_SHARED, _BRANCHES = (5, 3, 7, 4, 9), ((8, 6, 5), (3, 11, 2, 10), (3, 11, 12))


def trusted_length(config: PretrainedConfig) -> int | None:
    """Tokens up to which packing is right, None for any: windows and rotations that change with length."""
    config = getattr(config, "text_config", None) or config
    limits = []
    if getattr(config, "use_sliding_window", True) and getattr(config, "sliding_window", None):
        limits.append(config.sliding_window)
    if getattr(config, "attention_chunk_size", None):
        limits.append(config.attention_chunk_size)
    stretched = stretched_beyond(config)
    return min([*limits, stretched] if stretched else limits, default=None)


def stretched_beyond(config: PretrainedConfig) -> int | None:
    """Tokens from which on rotations depend on a text's whole length, None for never: such a text shares its
    forwards with texts of its own length alone."""
    config = getattr(config, "text_config", None) or config
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    if not any(kind.get("rope_type", kind.get("type")) in ("dynamic", "longrope") for kind in kinds):
        return None
    original = [kind.get("original_max_position_embeddings") for kind in kinds]
    return min(filter(None, original), default=config.max_position_embeddings)


@torch.inference_mode()
def packs_well(network: Network) -> bool:
    """Whether packs and decoding steps give this model's own hidden states.

    In half precision a position may differ for no fault: where a model's largest activations hang on a
    rounding, two right ways to compute it part. A wrong mask or a wrong position moves all of them, so
    there the median must hold, of the packs and of the steps.
    """
    if looks_ahead(network.model):
        return False
    sequences = [tuple(i * STRIDE % network.vocabulary for i in (*_SHARED, *branch)) for branch in _BRANCHES]
    plain = _whole(network, sequences)
    root = grow([ids[:-1] for ids in sequences], lambda tokens, _: tokens > 1)
    counts = [len(ids) - 2 for ids in sequences]
    try:
        with network.ours():
            batches = list(Runner(network, root, counts, BUDGET, keep=True))
            done = [one for batch in batches for one in batch]
            if not all(one.tail.keys for one in done):
                return False
            steps = [_step(network, sequences[one.reading], one) for one in done]
    except (Unsupported, TypeError, AttributeError, ValueError, LookupError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and out_of_memory(error):
            raise
        log.info("not answered in packs: %s: %s", type(error).__name__, error)
        return False  # it cannot even be called like this
    packs = [_off(one.hidden, plain[one.reading, 1 : 1 + len(one.hidden)]) for one in done]
    steps = [
        _off(step, plain[one.reading, len(sequences[one.reading]) - 1][None])
        for one, step in zip(done, steps, strict=True)
    ]
    exact = TOLERANCE.get(plain.dtype)
    parts = [torch.cat(part) for part in (packs, steps)]
    if exact is not None:
        return all(bool((part <= exact).all()) for part in parts)
    return all(float(part.median()) <= LOOSE for part in parts)


def _whole(network: Network, sequences: list[tuple[int, ...]]) -> torch.Tensor:
    """Hidden states (B, T, H) of whole forwards, where rows may share one; else of each, then padded."""
    if not network.manner.alone:
        return network.whole(sequences)
    rows = [network.whole([ids])[0] for ids in sequences]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def _off(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Distance of hidden states (N, H) from the expected ones, per position (N), relative to their length."""
    return (found - wanted).float().norm(dim=-1) / wanted.float().norm(dim=-1)


def _step(network: Network, ids: tuple[int, ...], done: Done) -> torch.Tensor:
    slots = Slots(2**40, 4)
    stops = Stops(frozenset(), (), (), None)
    row = Row(0, Decoding(ids[:-1], 9, stops, tokens=[ids[-1]]), done.spans, len(done.tail))
    slots.enter(row, (done.tail,))
    tokens, positions = slots.begin(network.device)
    return network.hidden(tokens, position_ids=positions, layout=slots)[0]
