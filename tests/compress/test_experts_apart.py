"""Experts of a mixture that are read one matrix at a time are compressed as in memory, bit for bit."""

import pytest

from kick.compress import canonical
from kick.model.layered import Layered
from tests.compress.test_streamed import RECIPES as OTHERS
from tests.compress.test_streamed import check_both_ways, tokens  # noqa: F401 (a fixture)

RECIPES = OTHERS | {
    "random": [canonical("random", {"sparsity": 0.5})],
    "awq": [canonical("awq", {"bits": 4, "group_size": 8})],
    "admm": [canonical("admm", {"sparsity": 0.5})],
}
APART = ["wanda", "sparsegpt", "gptq", "random", "awq", "admm"]


@pytest.mark.parametrize(
    ("recipe", "name", "dtype"),
    [
        *((one, "mixtral", None) for one in APART),
        ("wanda", "qwen3_moe", None),
        ("wanda", "mixtral", "bfloat16"),
    ],
)
def test_with_one_matrix_of_an_expert_in_memory_too(recipe, name, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr("kick.model.layered.EXPERTS", 0)
    monkeypatch.setenv("KICK_OFFLOAD", str(tmp_path))
    whole = []
    load = Layered.load

    def watched(self, index):
        block = load(self, index)
        whole.extend(one for one in block.parameters() if one.ndim == 3 and not one.is_meta)
        whole.extend(one for one in self.opened[index] if one.held.numel())
        assert self.opened[index]
        return block

    monkeypatch.setattr(Layered, "load", watched)
    check_both_ways(RECIPES[recipe], name, tmp_path, dtype)
    assert not whole, "experts are read as they are asked for"
