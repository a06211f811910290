"""The choices of keys, pages and tokens against what the authors' code gives (../shared/golden/seeds)."""

import json

import pytest
import torch

from kick.runtime.lazyllm import LazyLLM
from kick.runtime.method import Sight
from kick.runtime.page_attention import PageAttention
from kick.runtime.selection import (
    attention,
    best_pages,
    page_bounds,
    page_scores,
    quest,
    rounded,
    survivors,
    top_p,
    window,
)
from kick.runtime.twilight import Twilight
from tests.support.golden import FOLDER, seeds

PAGES = [(16, 20), (4, 16), (8, 24)]


@pytest.fixture(scope="module")
def twilight():
    return seeds("runtime_twilight")


@pytest.mark.parametrize(("page", "budget"), PAGES)
def test_quest_keeps_the_pages_that_its_authors_keep(twilight, page, budget):
    found = quest(twilight["q"][0, :, 0], twilight["k"][0], page, budget)
    assert torch.equal(found, twilight[f"quest.chunk{page}.budget{budget}.mask"][0, :, 0].bool())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_keys_are_rounded_per_token_and_head(twilight, bits):
    torch.testing.assert_close(
        rounded(twilight["k"], bits), twilight[f"k_dequant.int{bits}"], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("p", [0.5, 0.85, 0.95])
@pytest.mark.parametrize("selector", ["none", "quest"])
def test_twilight_keeps_the_smallest_set_that_reaches_p(twilight, p, selector):
    method = Twilight(p=p, selector=selector, page=4, budget=16, dense_layers=0)
    sight = Sight(0, 1, twilight["q"][0], twilight["k"][0], 0.25, prompt=49, decoding=True)
    name = "none" if selector == "none" else "quest.chunk4.budget16"
    assert torch.equal(method.look(sight), twilight[f"top_p.{p}.{name}.mask"][0].bool())


def test_a_row_without_a_sink_keeps_two_keys_where_the_authors_kernel_keeps_five(twilight):
    found = top_p(twilight["no_sink.probs"], 0.5)
    assert torch.equal(found, twilight["no_sink.top_p.0.5.mask"].bool())
    assert int(found.sum()) == 2 < int(twilight["no_sink.top_p.0.5.kernel_mask"].sum())


def test_a_window_has_the_first_and_the_last_tokens(twilight):
    expected = twilight["streaming.sink4.recent8.mask"][0, 0].bool()
    assert torch.equal(window(50, 1, 4, 8), expected)
    assert window(5, 5, 1, 2).tril().tolist() == [
        [True, False, False, False, False],
        [True, True, False, False, False],
        [True, True, True, False, False],
        [True, False, True, True, False],
        [True, False, False, True, True],
    ]


def test_pages_are_those_of_lserve():
    vectors = seeds("runtime_lserve")
    bounds = page_bounds(vectors["q"][0], vectors["k"][0], 4)
    torch.testing.assert_close(bounds, vectors["sub_chunk_scores"][0], rtol=0, atol=1e-5)
    scores = page_scores(bounds, 4)
    torch.testing.assert_close(scores, vectors["page_scores"][0], rtol=0, atol=1e-5)
    for budget in (32, 48, 64, 96, 256):
        expected = vectors[f"budget{budget}.pages"][0]
        if budget < 170:
            assert best_pages(scores, budget, 16).tolist() == expected.tolist()
        method = PageAttention(budget=budget, page=16, sub_page=4)
        sight = Sight(0, 1, vectors["q"][0][:, None], vectors["k"][0], 1.0, prompt=169, decoding=True)
        mask = method.look(sight)
        if budget >= 170:
            assert mask is None
            continue
        for head, pages in enumerate(expected.tolist()):
            read = {place // 16 for place in mask[head, 0].nonzero()[:, 0].tolist()}
            assert read == set(pages)


def test_pages_are_chosen_anew_every_few_steps():
    keys, queries = torch.randn(1, 200, 8), torch.randn(8, 1, 1, 8)
    queries[4:] = -queries[:4]  # other pages are the nearest, whatever the numbers
    method, memory = PageAttention(budget=64, every=4), {}
    read = []
    for step, query in enumerate(queries):
        length = 161 + step
        sight = Sight(0, 1, query, keys[:, :length], 1.0, prompt=160, decoding=True, memory=memory)
        mask = method.look(sight)[0, 0]
        assert mask[160:].all()  # what was generated since is read whenever pages were chosen
        read.append(mask[:160])
    assert all(torch.equal(read[0], one) for one in read[1:4])
    assert all(torch.equal(read[4], one) for one in read[5:])
    assert not torch.equal(read[0], read[4])


def test_lazyllm_drops_the_tokens_that_its_definition_drops():
    logits = seeds("runtime_lazyllm")["attention_logits"]
    told = json.loads((FOLDER / "seeds" / "runtime_lazyllm.json").read_text())
    alive = torch.ones(24, dtype=torch.bool)
    for layer, share in zip(told["layers"], told["keep_share_of_prompt"], strict=True):
        assert alive.nonzero()[:, 0].tolist() == layer["alive_in"]
        last = logits[layer["layer"], :, -1].double().masked_fill(~alive, -torch.inf).softmax(-1).mean(0)
        torch.testing.assert_close(
            last[alive], torch.tensor(layer["score"], dtype=torch.float64), rtol=0, atol=1e-6
        )
        alive = survivors(last, alive, -int(-24 * share // 1))
        assert alive.nonzero()[:, 0].tolist() == layer["alive_out"]


def test_the_schedule_of_lazyllm_is_by_block_or_by_depth():
    by_depth = LazyLLM()
    assert [by_depth.share_after(layer, 32) for layer in (0, 6, 7, 15, 23, 31)] == [1, 1, 0.7, 0.5, 0.3, 0.3]
    assert [LazyLLM(schedule="2:0.5").share_after(layer, 32) for layer in range(3)] == [1, 0.5, 0.5]


def test_attention_hides_the_dead():
    weights = attention(torch.ones(1, 2), torch.zeros(1, 4, 2), 1.0, torch.tensor([True, False, True, True]))
    assert weights.tolist() == [[pytest.approx(1 / 3), 0, pytest.approx(1 / 3), pytest.approx(1 / 3)]]
