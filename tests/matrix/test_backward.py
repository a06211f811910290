"""What gradients take, against what autograd keeps of small models, and by method."""

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kick.compress import canonical, method
from kick.matrix.backward import FREED, FREED_BY_ADAPTERS, KEPT, LOSSES, Backward
from kick.matrix.shapes import Shape
from kick.model import linears

SHAPE = Shape(
    1000, 100, widest=8, hidden=4, vocabulary=50, largest=40, blocks=9, cached=6, edges=12, squares=1000
)


def saved(hidden: int, channels: int, groups: int, blocks: int, length: int, matrices: bool) -> int:
    """Bytes of the distinct tensors that autograd keeps of a Llama with 4 heads, weights and logits aside."""
    config = LlamaConfig(
        vocab_size=7, hidden_size=hidden, intermediate_size=channels, num_hidden_layers=blocks,
        num_attention_heads=4, num_key_value_heads=groups, attn_implementation="sdpa",
    )  # fmt: skip
    model = LlamaForCausalLM(config).requires_grad_(False)
    weights = {one.untyped_storage().data_ptr() for one in model.parameters()}
    if matrices:
        for linear in (one for block in model.model.layers for one in linears(block)):
            linear.module.weight.requires_grad_(True)
    else:
        model.model.embed_tokens.register_forward_hook(lambda _module, _args, out: out.requires_grad_(True))
    held = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = model(torch.zeros(1, length, dtype=torch.long), use_cache=False).logits
    assert logits.requires_grad
    return sum(one.untyped_storage().nbytes() for place, one in held.items() if place not in weights)


@pytest.mark.parametrize("matrices", [True, False])
@pytest.mark.parametrize(("hidden", "channels", "groups"), [(128, 352, 2), (192, 256, 4)])
def test_a_block_keeps_what_autograd_keeps(hidden, channels, groups, matrices):
    length, width = 32, hidden // 4
    one = Shape(0, 0, channels, hidden, 7, blocks=1, cached=2 * groups * width)
    three = replace(one, blocks=3)
    way = Backward() if matrices else Backward(sums=0, rank=8)
    freed = FREED if matrices else FREED_BY_ADAPTERS
    formula = (way.memory(three, length, 0) - way.memory(one, length, 0)) / (1 + freed)
    found = [saved(hidden, channels, groups, blocks, length, matrices) for blocks in (1, 3)]
    assert formula == pytest.approx(found[1] - found[0], rel=0.01)


def test_sums_and_a_sequence_or_the_walk_after_it():
    sequence = 4 * (10 * (9 * (6 * 4 + 6 + 4 * 8) * 4 // 3 + 3 * 50) + 40)
    assert Backward().memory(SHAPE, 10, walking=7) == 4 * 900 + sequence
    assert Backward().memory(SHAPE, 10, walking=10**6) == 4 * 900 + 10**6
    assert Backward(sums=2).memory(SHAPE, 10, walking=7) == 8 * 900 + sequence
    assert Backward().memory(SHAPE, 10, walking=7, offload=True) == 4 * 100 + sequence
    assert Backward(sums=2).memory(SHAPE, 10, walking=7, offload=True) == 8 * 900 + sequence
    adapted, without = (4 * (10 * (times * 9 * (4 * 4 + 6 + 3 * 8) // 6 + 3 * 50) + 40) for times in (15, 8))
    assert Backward(sums=0, rank=2).memory(SHAPE, 10, walking=7) == 24 * 12 + adapted
    lines = Backward(sums=0, curvature=KEPT)
    assert lines.memory(SHAPE, 10, walking=7) == 4 * 1000 + 2 * 900 + without
    wide = replace(SHAPE, widest=10**4)
    assert lines.memory(wide, 1, walking=7) == 4 * 1000 + 2 * 900 + 32 * 10**8


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("gblm", {"sparsity": 0.5}, Backward()),
        ("pruner-zero", {"sparsity": 0.5}, Backward()),
        ("llm-pruner", {"share": 0.2}, Backward()),
        ("adapt-pruner", {"share": 0.2}, Backward()),
        ("d-pruner", {"sparsity": 0.5}, Backward(sums=2)),
        ("loraprune", {"share": 0.2, "rank": 4}, Backward(sums=0, rank=4)),
        ("llm-surgeon", {"sparsity": 0.2}, Backward(sums=0, curvature=KEPT + LOSSES)),
        ("llm-surgeon", {"sparsity": 0.2, "structure": "row-column"}, Backward(sums=0, curvature=KEPT)),
        ("wanda", {"sparsity": 0.5}, None),
        ("sparsegpt", {"sparsity": 0.5}, None),
    ],
)
def test_each_way_is_known_by_its_options(name, options, expected):
    step = canonical(name, options)
    assert Backward.of(step, method.methods[name].needed(step.options)) == expected
