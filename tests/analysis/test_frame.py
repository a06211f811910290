"""The frame says what the samples say."""

import math
from dataclasses import replace

import numpy as np
import pytest

from kick.analysis import bits, headlines
from kick.analysis import traits as analysis_traits
from kick.analysis.frame import read
from kick.analysis.groups import DISCIPLINES, MACRO, SUBJECTS, macro
from kick.analysis.groups import of as groups_of
from kick.analysis.items import Items
from kick.errors import KickError
from kick.records import Step
from kick.report import wording
from kick.stats import intervals, metrics, paired
from tests.support.synthetic import (
    BATCH,
    DENSE,
    MODEL,
    FakeStore,
    fill,
    pruned,
    quantized,
    result,
    samples,
    variant,
)


def one(frame, name, task, metric, group=""):
    rows = frame[
        (frame["variant"] == name)
        & (frame["task"] == task)
        & (frame["metric"] == metric)
        & (frame["group"] == group)
    ]
    assert len(rows) == 1
    return rows.iloc[0]


def column(store, name, task, score):
    key = next(k for k, r in store.results.items() if (r.cell.variant.name, r.cell.task.name) == (name, task))
    return np.array([sample.scores[score] for sample in store.items[key]])


def test_scores_are_those_of_the_runs(store, frame):
    for run in store.runs():
        for score in run.scores:
            row = one(frame, run.cell.variant.name, run.cell.task.name, score.metric)
            assert row["value"] == pytest.approx(
                math.nan if score.value is None else score.value, nan_ok=True
            )
            assert row["n"] == score.n
            assert row["key"] == run.key


@pytest.mark.parametrize(
    ("task", "metric", "score", "kind"),
    [
        ("kick_mini_factoid", "exact_match", "exact_match", "mean"),
        ("kick_mini_factoid", "f1", "f1", "mean"),
        ("kick_mini_perplexity", "perplexity", "nll", "exp_mean"),
    ],
)
def test_gaps_are_the_paired_statistics_of_the_samples(store, frame, task, metric, score, kind):
    row = one(frame, "magnitude-0.5", task, metric)
    dense, theirs = column(store, "dense", task, score), column(store, "magnitude-0.5", task, score)
    found = paired.paired(dense, theirs, kind, support=metrics.describe(metric).support)
    for name, value in (
        ("gap", found.gap),
        ("gap_low", found.low),
        ("gap_high", found.high),
        ("relative_low", found.relative_low),
        ("relative_high", found.relative_high),
        ("p", found.p),
        ("detectable", found.detectable),
        ("dense_value", intervals.aggregate(dense, kind)),
    ):
        assert row[name] == pytest.approx(value)
    assert row["verdict"] == found.verdict
    assert row["test"] == found.test
    if found.lost is not None:
        assert (row["lost"], row["won"]) == (found.lost, found.won)


def test_pairs_are_made_by_item_not_by_place(store):
    task, other = "kick_mini_factoid", pruned("magnitude", 0.5)
    shuffled = FakeStore()
    dense = samples(task, DENSE, 60)
    theirs = samples(task, other, 60)
    shuffled.put(result(task, DENSE, dense), dense)
    shuffled.put(result(task, other, theirs[::-1]), theirs[::-1])
    ordered = fill(FakeStore(), [DENSE, other], [task], n=60)
    rows = [one(read([s]).frame, other.name, task, "exact_match") for s in (shuffled, ordered)]
    assert rows[0]["lost"] == rows[1]["lost"]
    assert rows[0]["gap_low"] == rows[1]["gap_low"]


def test_the_noise_band_is_the_largest_gap_of_a_replica(frame):
    for metric in ("exact_match", "f1"):
        replicas = [one(frame, name, "kick_mini_factoid", metric) for name in ("dense-batch", "dense-dtype")]
        noise = max(abs(row["gap"]) for row in replicas)
        row = one(frame, "gptq-8bit", "kick_mini_factoid", metric)
        assert row["noise"] == pytest.approx(noise)
        assert row["within_noise"] == (noise > 0 and abs(row["gap"]) <= noise)
        assert not replicas[0]["within_noise"]


def test_holm_runs_over_the_headline_comparisons_of_a_matrix(frame):
    tested = frame[frame["primary"] & (frame["group"] == "") & ~frame["dense"] & (frame["replica"] == "")]
    family = tested[tested["metric"] != "fdt"]
    assert family["p_holm"].to_numpy() == pytest.approx(paired.holm(family["p"].to_numpy()))
    assert frame.loc[frame["replica"] != "", "p_holm"].isna().all()
    assert (family["p_holm"] >= family["p"]).all()


def test_distances_to_dense_have_no_verdict_and_dense_is_called_dense(frame):
    distances = frame[frame["metric"].isin(["fdt", "kl_mean", "sdt"]) & ~frame["dense"]]
    assert set(distances["verdict"]) == {""}
    assert set(frame.loc[frame["dense"], "verdict"]) == {"dense"}
    assert set(frame["verdict"]) <= {"", "dense", "matching", "not matching", "undecided"}


def test_each_task_has_one_headline_metric(frame):
    overall = frame[(frame["group"] == "") & ~frame["task"].str.contains("|", regex=False)]
    assert (overall.groupby(["variant", "task"])["primary"].sum() == 1).all()


def test_seeds_are_spread_apart_from_items(store, frame):
    rows = frame[
        (frame["metric"] == "exact_match") & (frame["task"] == "kick_mini_factoid") & (frame["group"] == "")
    ]
    seeded = rows[rows["variant"].isin(["wanda-0.5", "wanda-0.5-seed1"])]
    assert list(seeded["label"]) == ["wanda 50 %, seed 0", "wanda 50 %, seed 1"]
    assert set(seeded["seeds"]) == {2}
    assert seeded["seed_mean"].iloc[0] == pytest.approx(seeded["value"].mean())
    assert seeded["seed_sd"].iloc[0] == pytest.approx(seeded["value"].std())
    assert set(rows.loc[rows["variant"] == "wanda-0.3", "seeds"]) == {1}


def test_groups_are_the_items_of_a_category_and_macro_is_their_mean(store, frame):
    groups = ("geography", "science", "history")
    rows = [one(frame, "wanda-0.5", "kick_mini_factoid", "exact_match", name) for name in groups]
    key = rows[0]["key"]
    wanted = [s.scores["exact_match"] for s in store.items[key] if s.group == "science"]
    assert rows[1]["value"] == pytest.approx(np.mean(wanted))
    assert rows[1]["n"] == len(wanted)
    mean = one(frame, "wanda-0.5", "kick_mini_factoid", "exact_match", MACRO)
    assert mean["value"] == pytest.approx(np.mean([row["value"] for row in rows]))
    assert mean["low"] < mean["value"] < mean["high"]


def test_the_mean_over_subjects_is_covered_and_never_a_point():
    rng = np.random.default_rng(2)
    sizes, shares = np.arange(6, 18), np.linspace(0.02, 0.6, 12)
    names = tuple(f"{group:02}" for group in np.arange(12).repeat(sizes))
    acc, ids, inside = metrics.describe("acc"), tuple(map(str, range(len(names)))), 0
    for _ in range(300):
        right = (rng.random(len(names)) < shares.repeat(sizes)).astype(float)
        found = macro(Items(ids, names, {"acc": right}), acc)
        inside += found.low <= shares.mean() <= found.high
    assert inside / 300 >= 0.92
    nothing = macro(Items(ids, names, {"acc": np.zeros(len(names))}), acc)
    assert nothing.low == 0 < nothing.high < 0.1
    assert math.isnan(macro(Items(ids, names, {"acc": np.full(len(names), np.nan)}), acc).value)


def test_mmlu_subjects_become_disciplines():
    assert len(SUBJECTS) == 57
    assert sum(map(len, DISCIPLINES.values())) == 57
    found = groups_of(("anatomy", "virology", "philosophy", "sociology", "astronomy"))
    assert found["STEM"] == {"anatomy", "astronomy"}
    assert groups_of(("a",)) == {}
    assert groups_of(tuple(str(i) for i in range(100))) == {}


def test_closed_and_open_book_are_paired_item_by_item(store, frame):
    task = "kick_mini_closed|kick_mini_open"
    closed = column(store, "magnitude-0.5", "kick_mini_closed", "exact_match")
    opened = column(store, "magnitude-0.5", "kick_mini_open", "exact_match")
    knew = column(store, "dense", "kick_mini_closed", "exact_match") == 1
    assert one(frame, "magnitude-0.5", task, "read_only")["value"] == pytest.approx(
        np.mean((1 - closed) * opened)
    )
    lost = one(frame, "magnitude-0.5", task, "knowledge_lost")
    assert lost["value"] == pytest.approx(1 - closed[knew].mean())
    assert lost["n"] == knew.sum()
    shares = [one(frame, "magnitude-0.5", task, name)["value"] for name in
              ("known_and_read", "known_not_read", "read_only", "neither")]  # fmt: skip
    assert sum(shares) == pytest.approx(1)


def test_matrices_are_joined_and_base_models_told_apart():
    store = fill(FakeStore(), [DENSE, pruned("magnitude", 0.5)], ["kick_mini_factoid"], n=30)
    other = replace(MODEL, name="another", digest="f" * 64)
    variants = [replace(v, model=other) for v in (DENSE, pruned("magnitude", 0.5))]
    second = fill(FakeStore(), variants, ["kick_mini_factoid"], matrix="second", n=30)
    same_name = fill(
        FakeStore(),
        [replace(DENSE, model=replace(MODEL, digest="0" * 64))],
        ["kick_mini_mcq"],
        matrix="third",
        n=30,
    )
    frame = read([store, second, same_name]).frame
    assert set(frame["matrix"]) == {"synthetic", "second", "third"}
    bases = set(frame["base"])
    assert "another" in bases
    assert len(bases) == 3
    for matrix in ("synthetic", "second"):
        rows = frame[frame["matrix"] == matrix]
        mine, dense = (one(rows, name, "kick_mini_factoid", "f1") for name in ("magnitude-0.5", "dense"))
        assert mine["dense_value"] == dense["value"]


def test_a_checkpoint_is_held_against_the_dense_model_of_its_matrix():
    theirs = replace(variant("model-GPTQ"), model=replace(MODEL, name="someone/model-GPTQ"), checkpoint=True)
    frame = read([fill(FakeStore(), [DENSE, theirs], ["kick_mini_factoid"], n=30)]).frame
    row = one(frame, "model-GPTQ", "kick_mini_factoid", "exact_match")
    assert row["base"] == "smollm2-135m"
    assert row["method"] == "checkpoint"
    assert row["verdict"] in ("matching", "undecided")


def test_labels_are_the_file_s_own_names_and_never_paths():
    model = replace(MODEL, name="/home/someone/models/tiny")
    dense = replace(DENSE, model=model)
    found = [
        dense,
        replace(pruned("wanda", 0.5), model=model, name="Ours", label="Ours"),
        replace(pruned("wanda", 0.5, seed=1), model=model, label="Ours"),
        replace(
            variant("packed"), model=replace(MODEL, name="/data/out/packed", digest="a"), checkpoint=True
        ),
        replace(
            variant("/data/b/packed"), model=replace(MODEL, name="/b/packed", digest="b"), checkpoint=True
        ),
        replace(
            variant("theirs"),
            model=replace(MODEL, name="/data/x", digest="x"),
            checkpoint=True,
            label="theirs",
        ),
    ]
    frame = read([fill(FakeStore(), found, ["kick_mini_factoid"], n=30)]).frame
    assert set(frame["base"]) == {"tiny"}
    labels = dict(zip(frame["variant"], frame["label"], strict=True))
    assert labels == {
        "dense": "dense",
        "Ours": "Ours, seed 0",
        "wanda-0.5-seed1": "Ours, seed 1",
        "packed": "packed",
        "/data/b/packed": "b/packed",
        "theirs": "theirs",
    }


def test_settings_keep_limits_apart_and_only_the_newest_result_stays():
    store = fill(FakeStore(), [DENSE], ["kick_mini_factoid"], n=30)
    fill(store, [DENSE], ["kick_mini_factoid"], n=20, limit=20, shots=5)
    again = replace(DENSE, model=replace(MODEL, tokenizer="u" * 64))
    found = samples("kick_mini_factoid", again, 30)
    newer = result("kick_mini_factoid", again, found)
    store.put(replace(newer, provenance={"time": "2027-01-01"}), found)
    report = read([store])
    assert set(report.frame["setting"]) == {"", "5-shot, first 20"}
    assert newer.key in set(report.frame["key"])
    assert len(set(report.frame["key"])) == 2
    assert "1 older result" in report.notes[0]


def test_without_samples_scores_and_plain_gaps_stay(store):
    row = one(read([store], paired=False).frame, "magnitude-0.5", "kick_mini_factoid", "exact_match")
    assert row["gap"] == pytest.approx(row["value"] - row["dense_value"])
    assert math.isnan(row["p"])
    assert row["verdict"] == ""


def test_a_matrix_without_dense_or_other_variants_is_no_error():
    alone = read([fill(FakeStore(), [DENSE], ["kick_mini_factoid"], n=20)]).frame
    assert set(alone["verdict"]) == {"dense"}
    orphan = read([fill(FakeStore(), [pruned("wanda", 0.5), BATCH], ["kick_mini_factoid"], n=20)]).frame
    assert set(orphan["verdict"]) == {""}


def test_no_results_at_all_are_an_error_that_says_so():
    with pytest.raises(KickError, match="no finished cell"):
        read([FakeStore()])


def test_a_recipe_is_told_in_columns():
    two_four = analysis_traits.traits(pruned("wanda", "2:4"))
    assert (two_four["sparsity"], two_four["pattern"], two_four["method"]) == (0.5, "2:4", "wanda")
    both = variant("x", Step("wanda", {"sparsity": 0.5}), Step("rtn", {"bits": 4, "group_size": 32}))
    traits = analysis_traits.traits(both)
    assert (traits["method"], traits["bits"], traits["group_size"]) == ("wanda + rtn", 4, 32)
    assert analysis_traits.label(both) == "wanda 50 % + rtn 4-bit"
    twice = variant("y", Step("magnitude", {"sparsity": 0.5}), Step("flap", {"sparsity": 0.5}))
    assert analysis_traits.traits(twice)["sparsity"] == pytest.approx(0.75)
    assert analysis_traits.traits(twice)["structured"]
    assert math.isnan(analysis_traits.traits(DENSE)["bits"])
    assert analysis_traits.traits(quantized("llm.int8", 8))["bits"] == 8
    only = variant("z", Step("wanda", {"sparsity": 0.75, "only": "model.layers.11.self_attn.q_proj"}))
    assert (analysis_traits.traits(only)["layer"], analysis_traits.traits(only)["component"]) == (
        11,
        "q_proj",
    )


@pytest.mark.parametrize(
    ("metric", "higher_is_better", "band"),
    [
        ("exact_match", True, (0.4, 0.6)),
        ("perplexity", False, (0.4, 0.6)),
        ("fdt", True, (0.4, 0.5)),  # nothing diverges later than dense from itself
        ("sdt", False, (0.5, 0.6)),
    ],
)
def test_the_noise_band_of_a_distance_ends_at_dense(metric, higher_is_better, band):
    row = {"metric": metric, "value": 0.5, "noise": 0.1, "higher_is_better": higher_is_better}
    assert wording.noise_band(row) == pytest.approx(band)
    assert wording.noise_band(row | {"noise": float("nan")}) is None


def test_a_family_is_stored_with_the_result_and_older_results_have_one_by_their_file(frame, store):
    """Results of a task that is not installed are in the figures of the family that they name."""
    mine = FakeStore()
    for one_result in list(fill(FakeStore(), [DENSE], ["kick_mini_mcq"], n=20).results.values()):
        other = replace(one_result, about={"family": "mcr_qa", "title": "Mine", "pair": ["not text"]})
        other = replace(other, cell=replace(other.cell, task=replace(other.cell.task, name="my_own")))
        mine.put(other, store.samples(next(iter(store.items))))
    rows = read([mine], paired=False).frame
    assert set(rows["family"]) == {"mcr_qa"}
    assert set(rows["title"]) == {"Mine"}
    found = frame[frame["group"] == ""].groupby("task")["family"].first()
    assert found["kick_mini_open"] == "icra_qa_open"
    assert found["kick_mini_mcq"] == "mcr_qa"
    assert headlines.task_info("mmlu_astronomy").family == "mcr_qa"  # lm-eval's, which says nothing
    assert headlines.task_info("arc_easy").family == ""


@pytest.mark.parametrize("turn", [1, -1])
def test_of_several_dense_models_the_one_of_that_name_is_compared_with_and_a_note_says_so(turn):
    store = fill(FakeStore(), [DENSE, pruned("magnitude", 0.5)], ["kick_mini_factoid"], n=20)
    mine = next(run for run in store.results.values() if run.cell.variant == DENSE)
    cell = replace(mine.cell, variant=replace(DENSE, name="a server's"), engine="a server")
    perfect = [replace(one, scores=dict.fromkeys(one.scores, 1.0)) for one in store.items[mine.key]]
    store.put(replace(mine, key=cell.key, cell=cell), perfect)
    store.results = dict(list(store.results.items())[::turn])
    found = read([store])
    row = one(found.frame, "magnitude-0.5", "kick_mini_factoid", "exact_match")
    right = [sample.scores["exact_match"] for sample in store.items[mine.key]]
    other = [sample.scores["exact_match"] for sample in store.items[row["key"]]]
    lost = sum(before > after for before, after in zip(right, other, strict=True))
    assert lost != sum(after < 1 for after in other)
    assert row["lost"] == lost, "beside the server's model every wrong item is lost"
    (note,) = (text for text in found.notes if "dense models" in text)
    assert "compared with dense, not with" in note


def test_bits_are_the_items_scores_in_the_order_of_dense_s_items():
    dense = Items(("a", "b", "c"), ("",) * 3, {"acc": np.array([1.0, 0.0, 1.0])})
    other = Items(("c", "a"), ("",) * 2, {"acc": np.array([0.0, 1.0])})
    made = bits.of(dense, other, metrics.describe("acc"))
    assert made["n"] == 3
    assert bits.unpacked(made["right"], 3).tolist() == [True, False, False]
    assert bits.unpacked(made["known"], 3).tolist() == [True, False, True]
    assert bits.of(dense, dense, metrics.describe("acc"))["known"] == ""
    graded = Items(("a",), ("",), {"f1": np.array([0.5])})
    assert bits.of(graded, graded, metrics.describe("f1")) is None
