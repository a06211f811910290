"""The tree of shared prefixes holds every sequence once, whatever is shared."""

from __future__ import annotations

import random

import pytest
import torch

from kick.engine.network import Network
from kick.engine.packed.pack import Runner
from kick.engine.packed.tree import common, grow


def paths(root):
    """(reading, its token ids read off the tree)."""
    for node in root.below():
        for reading in node.readings:
            ids, above = node.ids, node.parent
            while above is not None:
                ids, above = above.ids + ids, above.parent
            yield reading, ids


def sequences(seed: int, count: int = 40):
    random.seed(seed)
    heads = [tuple(random.choices(range(9), k=random.randint(1, 12))) for _ in range(4)]
    return [
        random.choice(heads) + tuple(random.choices(range(3), k=random.randint(0, 5))) for _ in range(count)
    ]


@pytest.mark.parametrize("least", [1, 3, 1000])
def test_every_sequence_is_in_the_tree_once(least):
    for seed in range(20):
        wanted = sequences(seed)
        root = grow(wanted, lambda tokens, n: tokens >= least)
        assert sorted(paths(root)) == sorted(enumerate(wanted))
        assert root.size == sum(len(node.ids) for node in root.below())
        for node in root.below():
            assert node.parent is None or node.start == node.parent.start + len(node.parent.ids)


def test_sharing_saves_tokens_and_can_be_refused():
    same = [(1, 2, 3, 4, i) for i in range(10)]
    assert grow(same, lambda tokens, n: True).size == 14
    assert grow(same, lambda tokens, n: tokens * (n - 1) > 100).size == 50


def test_equal_sequences_share_a_node():
    root = grow([(5, 6, 7)] * 3, lambda tokens, n: True)
    assert [sorted(node.readings) for node in root.below() if node.readings] == [[0, 1, 2]]


def test_common_prefix_length():
    assert common((1, 2, 3), (1, 2, 4, 5)) == 2
    assert common((), (1,)) == 0
    assert common((1, 2), (1, 2)) == 2


@pytest.mark.parametrize("budget", [5, 16, 64, 4096])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_packed_reading_is_whole_reading(name, budget, models):
    """Whatever the budget: nested prefixes, blocks, pieces split in two, and prefixes of one another."""
    network = Network(models(name))
    wanted = [*sequences(3, 25), (1, 2, 3), (1, 2, 3, 4), (1, 2, 3, 4, 5, 6), tuple(range(9)) * 8]
    counts = [1 + i % len(ids) for i, ids in enumerate(wanted)]
    root = grow(wanted, lambda tokens, n: tokens * (n - 1) >= 4)
    seen = []
    with torch.inference_mode():
        with network.ours():
            done = [one for batch in Runner(network, root, counts, budget) for one in batch]
        for one in done:
            whole = network.hidden(torch.tensor([wanted[one.reading]]))[0, -counts[one.reading] :]
            assert torch.allclose(one.hidden, whole, atol=2e-4), one.reading
            seen.append(one.reading)
    assert sorted(seen) == list(range(len(wanted)))


def test_running_out_of_memory_halves_the_budget_and_changes_nothing(models, monkeypatch):
    network = Network(models("llama"))
    wanted = sequences(5, 30)
    plain = {i: network.hidden(torch.tensor([ids]))[0, -1] for i, ids in enumerate(wanted)}
    free = network.hidden

    def small(ids, **options):
        if ids.numel() > 40:
            raise torch.OutOfMemoryError("out of memory")
        return free(ids, **options)

    monkeypatch.setattr(network, "hidden", small)
    runner = Runner(network, grow(wanted, lambda tokens, n: tokens >= 2), [1] * len(wanted), 256)
    with torch.inference_mode(), network.ours():
        found = {one.reading: one.hidden[0] for batch in runner for one in batch}
    assert runner.budget == 32
    assert found.keys() == plain.keys()
    assert all(torch.allclose(found[i], plain[i], atol=2e-4) for i in plain)


def test_another_error_is_not_taken_for_lack_of_memory(models, monkeypatch):
    network = Network(models("llama"))

    def broken(ids, **options):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(network, "hidden", broken)
    with network.ours(), pytest.raises(RuntimeError, match="shapes"):
        list(Runner(network, grow([(1, 2)], lambda tokens, n: True), [1], 256))
