"""Tasks of mteb: scores against mteb's own evaluators on the same vectors, and what is refused."""

import json
import math
from dataclasses import replace
from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest
from scipy import stats

from kick import model
from kick.engine.engine import Engine
from kick.engine.states import embedded, nearest
from kick.errors import KickError
from kick.matrix import stopping
from kick.records import ModelSpec, Request, Response, TaskSpec
from kick.tasks import index, mteb_data
from kick.tasks.evaluate import evaluate, rescore
from kick.tasks.mteb_task import HEADLINE, POOLED, EmbeddingTask, correlated
from tests.support.small_tables import SOURCES, SUITE, bare, planned

pytestmark = pytest.mark.skipif(
    find_spec("mteb") is None, reason="LOUD: mteb is absent, its tasks are NOT checked against it"
)

MATRIX = "name: t\nmodel: tiny\ntasks: [facts]\nlimit: {}\nvariants:\n  - {{method: wanda, sparsity: 0.5}}\n"
QUERIES = {"q1": "rain in spring", "q2": "who sleeps", "q3": "an old bridge", "c2": "a cat in the rain"}
CORPUS = {
    "c9": ("Bridges", "The old bridge was closed in the spring."),
    "c10": ("", "A cat sleeps in the rain."),
    "c2": ("Cats", "A cat sleeps."),
    "c1": ("Weather", "Rain fell all spring, and the river rose."),
    "c3": ("", " Nobody was in the house. "),
    **{f"d{n}": (f"Number {n}", f"The house with number {n} has {n + 2} windows.") for n in range(8)},
}
JUDGED = {"q1": {"c1": 2, "c9": 1}, "q2": {"c2": 1, "c10": 1}, "q3": {"c9": 1, "gone": 1}, "c2": {"c10": 1}}
README = """\
- config_name: default
  data_files: [{split: test, path: qrels/test.jsonl}]
- config_name: corpus
  data_files: [{split: corpus, path: corpus.jsonl}]
- config_name: queries
  data_files: [{split: queries, path: queries.jsonl}]
"""
RANKED = """\
- config_name: top_ranked
  data_files: [{split: test, path: top.jsonl}]
"""


def write(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    """A mirror with copies of the repositories of four tasks, in the forms that they have on the hub; of
    retrieval one ranks candidates."""
    root = tmp_path_factory.mktemp("mirror")
    queries = [{"_id": name, "text": text} for name, text in [*QUERIES.items(), ("unjudged", "x")]]
    corpus = [{"_id": name, "title": title, "text": text} for name, (title, text) in CORPUS.items()]
    judged = [
        {"query-id": query, "corpus-id": name, "score": grade}
        for query, grades in JUDGED.items()
        for name, grade in grades.items()
    ]
    top = {
        query: [*(name for name in grades if name in CORPUS), "d1", "d2", "c3"]
        for query, grades in JUDGED.items()
    }
    forms = {"scifact": README, "arguana": README + RANKED, "AskUbuntuDupQuestions": README + RANKED}
    for name, config in forms.items():
        folder = root / "mteb" / name
        write(folder / "queries.jsonl", queries)
        write(folder / "corpus.jsonl", corpus)
        write(folder / "qrels" / "test.jsonl", judged)
        (folder / "README.md").write_text(f"---\nconfigs:\n{config}---\n")
        if RANKED in config:
            listed = [{"query-id": query, "corpus-ids": ids} for query, ids in top.items()]
            write(folder / "top.jsonl", listed)
    texts = [text for _, text in CORPUS.values()]
    pairs = [
        {"sentence1": texts[n], "sentence2": texts[(3 * n + 1) % len(texts)], "score": (n * 7) % 5}
        for n in range(len(texts))
    ]
    write(root / "mteb" / "biosses-sts" / "test.jsonl", pairs)
    return root


@pytest.fixture(scope="module", autouse=True)
def caches(tmp_path_factory):
    """What datasets keeps of the mirrors, in a folder of the test's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


@pytest.fixture(scope="module")
def engine():
    """The tiny random model, as an engine."""
    return Engine(*model.load(ModelSpec("smoke")))


@pytest.fixture(scope="module")
def load(mirror):
    """A task of the mirror by its name, loaded once."""
    return cache(lambda name: index.load([name], str(mirror))[name])


class Encoder:
    """An encoder of mteb that gives the vectors of kick's engine under one pooling."""

    mteb_model_meta = None

    def __init__(self, engine, pooling):
        self.engine, self.pooling = engine, pooling

    def encode(self, inputs, **_):
        texts = [text for batch in inputs for text in batch["text"]]
        ids = [found or (self.engine.encoder.prefix,) for found in self.engine.encoder.scored(texts)]
        network = self.engine.reader.network
        return embedded(network, [one[:256] for one in ids], [self.pooling], 512)[:, 0].double().numpy()

    def similarity(self, one, other):
        return np.asarray(one) @ np.asarray(other).T

    def similarity_pairwise(self, one, other):
        return (np.asarray(one) * np.asarray(other)).sum(axis=1)


def theirs(name, mirror, ignores):
    """mteb's own task, which reads the mirror by itself."""
    import mteb

    task = mteb.get_task(name.removeprefix("mteb_"))
    dataset = {**task.metadata.dataset, "path": str(mirror / task.metadata.dataset["path"])}
    task.metadata = task.metadata.model_copy(update={"dataset": dataset})
    task.ignore_identical_ids = ignores
    return task


@pytest.mark.parametrize(
    ("name", "ignores", "pairs"),
    [
        ("mteb_SciFact", False, {"ndcg_10": "ndcg_at_10", "recall_1": "recall_at_1"}),
        ("mteb_SciFact", True, {"ndcg_10": "ndcg_at_10", "recall_10": "recall_at_10"}),
        ("mteb_ArguAna", False, {"ndcg_10": "ndcg_at_10", "recall_1": "recall_at_1"}),
        ("mteb_AskUbuntuDupQuestions", False, {"map_1000": "map_at_1000", "ndcg_10": "ndcg_at_10"}),
        ("mteb_BIOSSES", False, {"spearman_pairs": "cosine_spearman"}),
    ],
)
def test_scores_are_those_of_mteb_on_the_same_vectors(name, ignores, pairs, load, mirror, engine):
    task = EmbeddingTask(replace(load(name)._set, ignores_itself=ignores))
    other = theirs(name, mirror, ignores)
    found = evaluate(task, task.items(TaskSpec(name), None), engine)
    scores = {score.metric: score for score in found.scores}
    for pooling in (HEADLINE, "mean-25"):
        quiet = {"show_progress_bar": False}
        expected = other.evaluate(Encoder(engine, pooling), "test", encode_kwargs=quiet)["default"]
        for ours, same in pairs.items():
            score = scores[ours if pooling == HEADLINE else f"{ours}@{pooling}"]
            assert score.value == pytest.approx(expected[same], abs=1e-5), (
                ours,
                pooling,
            )  # theirs is rounded
            assert score.low <= score.value <= score.high
    assert task.about["primary"] in pairs
    assert {name.partition("@")[2] for name in scores} == {"", *POOLED} - {HEADLINE}
    again = rescore(task, TaskSpec(name), found.samples)
    assert again.scores == found.scores


def test_a_limit_leaves_the_corpus_whole_and_the_plan_says_what_that_costs(load, mirror):
    task = load("mteb_SciFact")
    items = task.items(TaskSpec("mteb_SciFact", limit=2), None)
    assert [item.doc["id"] for item in items] == ["q1", "q2"]
    assert all(
        item.requests[0].others == task.items(TaskSpec("x"), None)[3].requests[0].others for item in items
    )
    assert len(items[0].requests[0].others) == len(CORPUS)
    assert "Cats A cat sleeps." in items[0].requests[0].others
    assert "Nobody was in the house." in items[0].requests[0].others
    told = f"each query is ranked against all {len(CORPUS)} texts"
    assert told in task.note
    assert "licence cc-by-nc-4.0" in task.note
    assert str(mirror / "mteb" / "scifact") in task.note
    characters = sum(len(f"{title} {text}".strip()) for title, text in CORPUS.values())
    assert task.beside(2) == task.beside(None) == (math.ceil(characters / 4 / 160), len(CORPUS))
    assert "licence not stated by mteb" in load("mteb_BIOSSES").note


def test_the_corpus_counts_in_a_plans_estimate_whatever_the_limit(load):
    task = load("mteb_SciFact")
    large = EmbeddingTask(replace(task._set, corpus={f"t{n:03}": "word " * 640 for n in range(100)}))
    sources = replace(SOURCES, tasks=lambda names, root: {large.name: large})
    one, four = (planned(MATRIX.format(limit), sources).estimates["dense"] for limit in (1, 4))
    read = 100 * 3200 / 4 / 160  # items' worth
    assert large.beside(1) == large.beside(None) == (read, 100)
    assert one.seconds["answer"] / four.seconds["answer"] == pytest.approx((1 + read) / (4 + read))


def test_of_candidates_only_those_of_the_queries_asked_are_read(load):
    for name in ("mteb_ArguAna", "mteb_AskUbuntuDupQuestions"):
        task = load(name)
        assert "each query's own candidates are ranked" in task.note
        asked = [
            {
                text
                for item in task.items(TaskSpec(name, limit=limit), None)
                for text in item.requests[0].others
            }
            for limit in (1, None)
        ]
        assert len(asked[0]) == 5 < len(asked[1]) < len(CORPUS)
        for limit, texts in zip((1, None), asked, strict=True):
            assert task.beside(limit) == (math.ceil(sum(map(len, texts)) / 4 / 160), len(texts))


def test_vectors_of_all_texts_count_in_a_plans_memory_however_short_they_are(load):
    task = load("mteb_SciFact")
    short = EmbeddingTask(replace(task._set, corpus={f"t{n:06}": "a" for n in range(10**6)}))
    sources = replace(SOURCES, tasks=lambda names, root: {short.name: short})
    needs = planned(MATRIX.format(1), sources).estimates["dense"]
    hidden = SOURCES.shape(ModelSpec("tiny")).hidden
    assert needs.memory > 2 * len(POOLED) * 10**6 * hidden * 4


def test_keys_have_the_revision_and_the_texts(load, mirror):
    task = load("mteb_SciFact")
    assert EmbeddingTask(mteb_data.read("mteb_SciFact", str(mirror))).digest == task.digest
    other = {**task._set.identity, "revision": "0" * 40}
    changed = {**task._set.corpus, "c3": "Somebody was in the house."}
    found = {
        EmbeddingTask(replace(task._set, **one)).digest for one in ({"identity": other}, {"corpus": changed})
    }
    assert len(found | {task.digest}) == 3
    assert len(str(task._set.identity["revision"])) == 40


def test_jackknife_values_are_those_of_scipy_without_each_pair():
    chance = np.random.default_rng(4)
    for n in (7, 300):
        grades = chance.integers(0, 5, n).astype(float)
        cosines = (grades + chance.normal(0, 3, n)).round(1)
        whole = stats.spearmanr(cosines, grades).statistic
        without = [stats.spearmanr(np.delete(cosines, i), np.delete(grades, i)).statistic for i in range(n)]
        expected = n * whole - (n - 1) * np.array(without)
        found = correlated(cosines, grades)
        assert found == pytest.approx(expected - expected.mean() + whole, abs=1e-9)
        assert found.mean() == pytest.approx(whole, abs=1e-12)
    holes = correlated(np.array([0.1, math.nan, 0.3, 0.2]), np.array([1.0, 5.0, 3.0, 2.0]))
    assert np.isnan(holes).tolist() == [False, True, False, False]
    assert holes[[0, 2, 3]].mean() == pytest.approx(1)
    assert np.isnan(correlated(np.full(5, 0.5), np.arange(5.0))).all()


def test_the_nearest_are_kept_and_of_equal_ones_the_last():
    cosines = [0.2, 0.5, 0.5, 0.9, 0.5, -1.0]
    assert nearest(cosines, 3) == [3, 4, 2]
    assert nearest(cosines, 9) == [3, 4, 2, 1, 0, 5]
    assert nearest([0.1, math.nan], 1) == []


def test_a_cut_ranking_is_the_head_of_the_whole_one(engine):
    asked = Request("similarity", "rain", others=tuple(QUERIES.values()), pooled=("mean-100", "last-100"))
    whole, head = engine.answer([asked, replace(asked, top=2)])
    for name in asked.pooled:
        best = sorted(range(4), key=lambda n: whole.values[f"{name} {n}"], reverse=True)[:2]
        assert {key: one for key, one in head.values.items() if key.startswith(name)} == {
            f"{name} {n}": whole.values[f"{name} {n}"] for n in best
        }


def test_without_a_cosine_there_is_no_score(load):
    for name in ("mteb_SciFact", "mteb_BIOSSES"):
        task = load(name)
        items = task.items(TaskSpec(name), None)
        found = task.score(items, [[Response(values={})]] * len(items))
        assert all(math.isnan(value) for scores in found for value in scores.values())
        assert task.about["primary"] in found[0]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "mteb_Banking77Classification",
            "of mteb's type Classification, of text; served: Retrieval, Reranking",
        ),
        (
            "mteb_CQADupstackRetrieval",
            "is the mean of other tasks of mteb; name those: mteb_CQADupstackAndroid",
        ),
        ("mteb_StakeholderGrounding", "is loaded or scored in a way that is not served"),
        ("mteb_STS22", "it has several subsets; expected: mteb_STS22:SUBSET, of en, de"),
        ("mteb_STS22:xx", "it has no subset 'xx'; expected"),
        ("mteb_Scifact", "has no task 'Scifact'; did you mean 'mteb_SciFact'"),
        ("mteb_NFCorpus", "data set mteb/nfcorpus was not found; searched: the mirror"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_line(name, told, load, monkeypatch):
    monkeypatch.setattr("kick.hub.online", lambda: False)
    with pytest.raises(KickError) as error:
        load(name)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_without_the_package_it_is_refused_before_data_are_looked_for(monkeypatch):
    monkeypatch.setattr(mteb_data, "find_spec", lambda name: None)
    with pytest.raises(
        KickError, match=r"package mteb, which is not installed; pip install 'kick\[beyond\]'"
    ):
        index.check_names(["mteb_SciFact"])


def test_all_items_are_asked_at_once(load):
    task = load("mteb_BIOSSES")
    matrix = bare(MATRIX.format(4) + "stop: decided\n")
    assert stopping.rule(matrix, SUITE["facts"]) is not None
    assert stopping.rule(matrix, task) is None
    with pytest.raises(KickError, match="texts are compared as they are; ask with shots: 0"):
        task.check(TaskSpec("mteb_BIOSSES", shots=2))
