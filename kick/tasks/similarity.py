"""Retrieval and similarity of texts, by a model's hidden states as embeddings.

    custom_dataset: !function kick.tasks.similarity.graded

A document has either a `passage`, and all passages of the task are ranked for it, or `others` with `grades`,
a few texts that are more or less like it. The engine gives cosines (`kick.engine.states`); here they become
nDCG@10 and recall (trec_eval's: linear gain, equal scores by id, descending) or Spearman's correlation of
cosines and grades. Each pooling's score has a mark, as `ndcg_10@mean-50`, and the headline's has none.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kick.errors import KickError
from kick.records import Request, Response, Sample, TaskSpec
from kick.tasks.data import read_rows, tasks_folder
from kick.tasks.lm_eval_task import HarnessTask
from kick.tasks.perplexity import UNIT
from kick.tasks.protocol import protocol
from kick.tasks.task import Item

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

VERSION = 1
CUT = 10  # ranks that count


@protocol("similarity", title="texts compared by hidden states", keys=("pooled", "headline"), tokens=160)
class Similarity(HarnessTask):
    """A task whose documents are compared with others. `pooled`: how states become vectors; `headline`: which
    of them gives the scores without a mark."""

    reads_states = True

    def __init__(self, name: str, task: Any, config: Mapping[str, Any]):
        super().__init__(name, task, config)
        self.generates = False
        self.pooled = tuple(map(str, self.options.get("pooled") or ()))
        self.headline = str(self.options.get("headline", self.pooled[0] if self.pooled else ""))
        if self.headline not in self.pooled:
            raise KickError(
                f"metadata.kick: pooled: got {self.pooled}; expected: a list with {self.headline!r}"
            )
        self.passages = sorted({doc["passage"] for doc in self._docs if doc.get("passage")})
        units = list(dict.fromkeys(doc.get("passage") for doc in self._docs))
        self._unit = {passage: float(number) for number, passage in enumerate(units)}

    def items(
        self,
        spec: TaskSpec,
        tokenizer: PreTrainedTokenizerBase,
        reference: Mapping[str, Sample] | None = None,
    ) -> list[Item]:
        """The documents with the texts that each is compared with. Texts are as they are: no template."""
        found = super().items(replace(spec, chat_template=False, generation="", reasoning_end=""), tokenizer)
        return [self._compared(item) for item in found]

    def _compared(self, item: Item) -> Item:
        others = item.doc.get("others") or self.passages
        text = str(item.doc["text"])
        return replace(
            item, requests=(Request("similarity", text, others=tuple(others), pooled=self.pooled),)
        )

    def score(self, items: Sequence[Item], responses: Sequence[Sequence[Response]]) -> list[dict[str, float]]:
        """The headline's scores by their names, each other pooling's with a mark; NaN without cosines."""
        return [
            self._scored(item.doc, answers[0].values or {})
            for item, answers in zip(items, responses, strict=True)
        ]

    def _scored(self, doc: Mapping[str, Any], values: Mapping[str, float]) -> dict[str, float]:
        graded = bool(doc.get("others"))
        count = len(doc["others"]) if graded else len(self.passages)
        right = doc["grades"] if graded else self.passages.index(doc["passage"])
        scores: dict[str, float] = {} if graded else {UNIT: self._unit[doc["passage"]]}
        for name in self.pooled:
            cosines = [values.get(f"{name} {number}", math.nan) for number in range(count)]
            mark = "" if name == self.headline else f"@{name}"
            found = self.task.process_results(doc, [cosines, right])
            scores |= {f"{metric}{mark}": value for metric, value in found.items()}
        return scores

    def higher_is_better(self) -> dict[str, bool]:
        """More is better in all of them."""
        return dict.fromkeys(("ndcg_10", "recall_1", "recall_10", "spearman"), True)


def ranked(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, float]:
    """nDCG@10, recall@1 and @10 of the one right text among all: results are the cosines of all, and the
    right one's place. NaN if a cosine is not known."""
    cosines, right = results
    names = ("ndcg_10", "recall_1", "recall_10")
    if any(map(math.isnan, cosines)):
        return dict.fromkeys(names, math.nan)
    run = {f"{number:06d}": value for number, value in enumerate(cosines)}
    judged = {f"{right:06d}": 1}
    scores = (ndcg(run, judged, CUT), recall(run, judged, 1), recall(run, judged, CUT))
    return dict(zip(names, scores, strict=True))


def correlated(doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, float]:
    """Spearman's correlation of the two results: cosines of a document's other texts, and their grades."""
    return {"spearman": spearman(*results)}


def _order(run: Mapping[str, float]) -> list[str]:
    """The ids by score, the highest first; of equal ones the last id first, as trec_eval has it."""
    return sorted(run, key=lambda name: (run[name], name), reverse=True)


def ndcg(run: Mapping[str, float], judged: Mapping[str, int], cut: int) -> float:
    """Discounted gain of the first `cut` ids over the best that is possible; 0 if nothing is relevant."""

    def gain(grades: Sequence[int]) -> float:
        return sum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades[:cut], 1))

    best = gain(sorted((grade for grade in judged.values() if grade > 0), reverse=True))
    return gain([max(0, judged.get(name, 0)) for name in _order(run)]) / best if best else 0.0


def recall(run: Mapping[str, float], judged: Mapping[str, int], cut: int) -> float:
    """The share of relevant ids that are among the first `cut`; 0 if nothing is relevant."""
    relevant = {name for name, grade in judged.items() if grade > 0}
    return len(relevant.intersection(_order(run)[:cut])) / len(relevant) if relevant else 0.0


def average_precision(run: Mapping[str, float], judged: Mapping[str, int], cut: int) -> float:
    """The mean over relevant ids of the precision at their ranks, 0 behind `cut`; 0 without any."""
    relevant = {name for name, grade in judged.items() if grade > 0}
    ranks = [rank for rank, name in enumerate(_order(run)[:cut], 1) if name in relevant]
    return sum(number / rank for number, rank in enumerate(ranks, 1)) / len(relevant) if relevant else 0.0


def spearman(found: Sequence[float], grades: Sequence[float]) -> float:
    """Spearman's correlation, equal values sharing their rank; NaN if one is not known or all are equal."""
    from scipy.stats import rankdata

    if any(map(math.isnan, found)):
        return math.nan
    one, other = rankdata(found), rankdata(grades)
    one, other = one - one.mean(), other - other.mean()
    size = math.sqrt(float(one @ one) * float(other @ other))
    return float(one @ other) / size if size else math.nan


# ------------------------------------------------------------------------------------------ data


def retrieval(**_: Any) -> datasets.DatasetDict:
    """KICK-Mini's reading questions, each with the passage that answers it, as the test split."""
    import datasets

    rows = read_rows(tasks_folder() / "kick_mini" / "data" / "reading.jsonl")
    asked = [
        {"id": row["id"], "text": row["question"], "passage": row["passage"], "kind": row["kind"]}
        for row in rows
    ]
    return datasets.DatasetDict(test=datasets.Dataset.from_list(asked))


NAMES = (
    *("Mara Tolvin", "Edric Sollow", "Pell Harrowby", "Ines Corvath", "Tobin Askeld", "Wenna Brisk"),
    *("Oskar Limmer", "Dalia Fenrick", "Hugo Tarrant", "Sanna Yewdale", "Bram Ostler", "Lotte Vane"),
)
FACTS = {  # each fact has a value and three ways of saying it
    "work": (
        "baker|teacher|nurse|carpenter|pilot|gardener|painter|farmer|tailor|judge",
        ("works as a {}", "earns a living as a {}", "has the job of a {}"),
    ),
    "home": (
        "Ostrelow|Brennick|Tallow Bay|Karsholt|Lower Finch|Wendeby|Marrowgate|Nordel|Piersholm|Quayle",
        ("lives in {}", "has a house in {}", "makes a home in {}"),
    ),
    "pet": (
        "dog|cat|parrot|horse|rabbit|goat|tortoise|goose|donkey|ferret",
        ("keeps a {}", "owns a {}", "looks after a {}"),
    ),
    "likes": (
        "chess|sailing|cooking|poetry|football|skating|painting|dancing|fishing|cycling",
        ("spends free time on {}", "is fond of {}", "loves {}"),
    ),
}
GRADED = 256


def graded(**_: Any) -> datasets.DatasetDict:
    """Sentences on invented people with five others each, that share 4, 3, 2, 1 and none of their four facts.

    Each fact is said in other words, and facts come in another order, so that no text repeats another. The
    same on every machine.
    """
    import datasets

    chance = random.Random("kick similarity")
    return datasets.DatasetDict(test=datasets.Dataset.from_list([_graded(chance) for _ in range(GRADED)]))


def _graded(chance: random.Random) -> dict[str, Any]:
    values = {fact: chance.sample(known.split("|"), 2) for fact, (known, _) in FACTS.items()}
    name = chance.choice(NAMES)
    own = {fact: chance.randrange(3) for fact in FACTS}
    others, grades = [], list(range(len(FACTS) + 1))
    chance.shuffle(grades)
    for grade in grades:
        kept = chance.sample(sorted(FACTS), grade)
        said = {fact: values[fact][0 if fact in kept else 1] for fact in FACTS}
        ways = {fact: (own[fact] + chance.choice((1, 2))) % 3 for fact in FACTS}
        others.append(_sentence(chance, name, said, ways))
    text = _sentence(chance, name, {fact: pair[0] for fact, pair in values.items()}, own)
    return {"text": text, "others": others, "grades": grades}


def _sentence(chance: random.Random, name: str, said: Mapping[str, str], ways: Mapping[str, int]) -> str:
    facts = [FACTS[fact][1][ways[fact]].format(value) for fact, value in said.items()]
    chance.shuffle(facts)
    return f"{name} {', '.join(facts[:-1])} and {facts[-1]}."
