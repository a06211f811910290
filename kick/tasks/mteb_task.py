"""A task of the package mteb, asked by hidden states: retrieval, reranking, similarity of pairs.

Retrieval ranks the whole corpus for each query (nDCG@10 and recall as trec_eval computes them; the first 101
texts of a ranking are kept), or the candidates that the task has for it; reranking has candidates (average
precision first). An item is a query. Similarity is Spearman's correlation of cosines and grades over all
pairs, which no single pair has. So a pair's score is its jackknife value: n times the correlation less
n - 1 times that without the pair, moved so that their mean is the correlation of all pairs to the digit.
Intervals and paired differences of that mean are then the jackknife's (Efron and Stein 1981).

Texts are compared as they are: without the prompts that mteb has for models that follow instructions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from kick import meaning
from kick.errors import KickError
from kick.records import Request, Response, Sample, TaskSpec
from kick.tasks.lm_eval_task import item_ids
from kick.tasks.mteb_data import EmbeddingSet, read
from kick.tasks.protocol import protocols
from kick.tasks.similarity import CUT, average_precision, ndcg, recall
from kick.tasks.task import Aggregate, AlsoRead, Item, digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VERSION = 1
POOLED = ("mean-25", "mean-50", "mean-100", "last-100")
HEADLINE = "mean-100"
RECALLS = (1, 10, 100)
MAP_CUT = 1000  # mteb's main cut of average precision
KIND = "similarity"  # whose estimate of tokens an item has
CHARACTERS = 4  # of a token, of text that no tokenizer has read yet
PRIMARY = {"Retrieval": "ndcg_10", "Reranking": "map_1000", "STS": "spearman_pairs"}
ROWS = 256  # pairs left out at once

Floats = NDArray[np.float64]


class EmbeddingTask:
    """A task of mteb. `beside` and `note`: what it reads beside the queries, for plans."""

    needs_reference = generates = reads_text = guided = False
    reads_states = at_once = True
    longest = default_shots = 0
    kind = KIND

    def __init__(self, content: EmbeddingSet):
        self.name, self._set = content.name, content
        self._docs = list(content.docs)
        if not self._docs:
            raise KickError(f"task {self.name}: its data set has no query with a judgment and texts to rank")
        self.size: int | None = len(self._docs)
        self._others = tuple(content.corpus.values())
        shown = content.name.replace("_", " ", 1)
        self.about: Mapping[str, str] = {
            "title": f"{shown}, by hidden states",
            "family": "embeddings",
            "primary": PRIMARY[content.type],
            "licence": content.licence,
        }
        self.digest = digest(
            [
                dict(content.identity),
                [list(POOLED), HEADLINE, content.ignores_itself],
                meaning.versions(type(self).__module__),
                self._docs,
                [list(content.corpus), list(self._others)],
            ]
        )
        self.scoring = digest([meaning.digest(one) for one in (ranked, correlated)])
        self._picks = any("candidates" in doc for doc in self._docs)
        self.note = self._note()

    def beside(self, limit: int | None) -> AlsoRead:
        """The corpus, whole whatever the limit, or the candidates of the first `limit` queries."""
        read: Sequence[str] = self._others
        if self._picks:
            asked = {name for doc in self._docs[:limit] for name in doc["candidates"]}
            read = [self._set.corpus[name] for name in asked]
        tokens = sum(map(len, read)) / CHARACTERS
        return AlsoRead(math.ceil(tokens / protocols.facts()[KIND].tokens), len(read))

    def _note(self) -> str:
        """What a plan says of it: the corpus, where the data are from, their licence."""
        content, identity = self._set, self._set.identity
        licence = content.licence or "not stated by mteb"
        told = (
            f"data from {content.place}, by mteb revision {str(identity['revision'])[:8]}, licence {licence}"
        )
        if content.type == "STS":
            return f"{self.name}: {len(self._docs):,} pairs, all asked at once; {told}"
        size = f"{len(self._others):,} texts ({sum(map(len, self._others)) / 1e6:.1f} million characters)"
        what = f"each query is ranked against all {size}, which every variant reads whatever the limit"
        if self._picks:
            what = f"each query's own candidates are ranked, of {size}"
        return f"{self.name}: {what}; {told}"

    def check(self, spec: TaskSpec) -> None:
        """Raises KickError for worked examples."""
        if spec.shots:
            raise KickError(
                f"task {self.name} with {spec.shots} shots: texts are compared as they are; ask with shots: 0"
            )

    def items(
        self,
        spec: TaskSpec,
        tokenizer: PreTrainedTokenizerBase | None,
        reference: Mapping[str, Sample] | None = None,
    ) -> list[Item]:
        """The first `spec.limit` queries or pairs, each with the texts that it is compared with."""
        docs = self._docs[: spec.limit]
        return [
            Item(name, (self._request(doc),), self._target(doc), doc=doc)
            for name, doc in zip(item_ids(docs), docs, strict=True)
        ]

    def _request(self, doc: Mapping[str, Any]) -> Request:
        others, top = self._others, max(RECALLS) + 1  # one more, for the query itself
        if "other" in doc:
            others, top = (doc["other"],), 0
        elif "candidates" in doc:
            others, top = tuple(self._set.corpus[name] for name in doc["candidates"]), MAP_CUT + 1
        return Request("similarity", doc["text"], others=others, pooled=POOLED, top=top)

    def _target(self, doc: Mapping[str, Any]) -> str:
        if "other" in doc:
            return f"{doc['grade']:g}"
        return ", ".join(name for name, grade in doc["relevant"].items() if grade > 0)

    def follow_up(self, items: Sequence[Item], responses: Sequence[Sequence[Response]]) -> list[Item] | None:
        """None: texts are compared once."""
        return None

    def texts(self) -> list[str]:
        """All text of each of its documents: the query with its right texts, or the pair."""
        corpus = self._set.corpus
        return [
            "\n".join([doc["text"], *([doc["other"]] if "other" in doc else _right(doc, corpus))])
            for doc in self._docs
        ]

    def answered(self, spec: TaskSpec, samples: Sequence[Sample]) -> list[Item]:
        """The items: no tokenizer is needed for them."""
        return self.items(spec, None)

    def score(self, items: Sequence[Item], responses: Sequence[Sequence[Response]]) -> list[dict[str, float]]:
        """The headline's scores by their names, each other pooling's with a mark; NaN without cosines."""
        found: list[dict[str, float]] = [{} for _ in items]
        values = [answers[0].values or {} for answers in responses]
        for pooling in POOLED:
            mark = "" if pooling == HEADLINE else f"@{pooling}"
            for scores, one in zip(found, self._scores(items, values, pooling), strict=True):
                scores |= {f"{metric}{mark}": value for metric, value in one.items()}
        return found

    def _scores(
        self, items: Sequence[Item], values: Sequence[Mapping[str, float]], pooling: str
    ) -> list[dict[str, float]]:
        """The scores of every item under one pooling."""
        if self._set.type == "STS":
            cosines = np.array([one.get(f"{pooling} 0", math.nan) for one in values])
            grades = np.array([item.doc["grade"] for item in items])
            return [{PRIMARY["STS"]: float(value)} for value in correlated(cosines, grades)]
        reranks = self._set.type == "Reranking"
        return [
            ranked(self._run(item.doc, one, pooling), item.doc["relevant"], reranks)
            for item, one in zip(items, values, strict=True)
        ]

    def _run(self, doc: Mapping[str, Any], values: Mapping[str, float], pooling: str) -> dict[str, float]:
        """Cosines by corpus id, as far as they were kept."""
        ids = doc.get("candidates") or self._ids
        start = f"{pooling} "
        run = {ids[int(key.removeprefix(start))]: one for key, one in values.items() if key.startswith(start)}
        if self._set.ignores_itself:
            run.pop(doc["id"], None)
        return run

    @cached_property
    def _ids(self) -> list[str]:
        return list(self._set.corpus)

    def unparsed(self, items: Sequence[Item]) -> list[str]:
        """None: there are no filters."""
        return []

    def aggregates(self) -> dict[str, Aggregate]:
        """None: all scores are means of items' scores."""
        return {}

    def higher_is_better(self) -> dict[str, bool]:
        """More is better in all of them."""
        return dict.fromkeys((*PRIMARY.values(), *(f"recall_{k}" for k in RECALLS)), True)


def load(name: str, root: str | None = None) -> EmbeddingTask:
    """The task of that name. Raises KickError for one that cannot be asked, or has its data nowhere."""
    return EmbeddingTask(read(name, root))


def _right(doc: Mapping[str, Any], corpus: Mapping[str, str]) -> list[str]:
    return [corpus[name] for name, grade in doc["relevant"].items() if grade > 0 and name in corpus]


def ranked(run: Mapping[str, float], judged: Mapping[str, int], reranks: bool) -> dict[str, float]:
    """nDCG@10 and recall of a query's ranking, or average precision first; NaN without one."""
    kept: dict[str, float] = {"map_1000": average_precision(run, judged, MAP_CUT)} if reranks else {}
    kept["ndcg_10"] = ndcg(run, judged, CUT)
    if not reranks:
        kept |= {f"recall_{k}": recall(run, judged, k) for k in RECALLS}
    return kept if run else dict.fromkeys(kept, math.nan)


def correlated(cosines: Floats, grades: Floats) -> Floats:
    """Each pair's jackknife value of Spearman's correlation `(n,)`, whose mean is the correlation itself.

    NaN for a pair without a cosine, and for all if the correlation, or that without some pair, is not
    defined because nothing varies.
    """
    known = np.isfinite(cosines)
    found = np.full(len(cosines), math.nan)
    found[known] = _jackknife(cosines[known], grades[known])
    return found


def _jackknife(one: Floats, other: Floats) -> Floats:
    n = len(one)
    if not n:
        return np.empty(0)
    ranks = [rankdata(values) for values in (one, other)]
    whole = _correlations(*(values[None] - (n + 1) / 2 for values in ranks))
    parts = np.split(np.arange(n), range(ROWS, n, ROWS))
    without = np.concatenate([_without(one, other, ranks, left) for left in parts])
    values: Floats = n * whole - (n - 1) * without
    return values - values.mean() + whole


def _without(one: Floats, other: Floats, ranks: Sequence[Floats], left: NDArray[np.intp]) -> Floats:
    """Correlations `(len(left),)` of all pairs but one: ranks behind it are one less, equal ones a half."""
    n, centred = len(one), []
    for values, rank in zip((one, other), ranks, strict=True):
        rest = rank - (1 + np.sign(values[None] - values[left, None])) / 2 - n / 2
        rest[np.arange(len(left)), left] = 0.0
        centred.append(rest)
    return _correlations(*centred)


def _correlations(one: Floats, other: Floats) -> Floats:
    """Correlations over the last axis of two that are centred; NaN where one is constant."""
    size = np.sqrt((one**2).sum(axis=-1) * (other**2).sum(axis=-1))
    found: Floats = np.full(size.shape, math.nan)
    np.divide((one * other).sum(axis=-1), size, out=found, where=size > 0)
    return found
