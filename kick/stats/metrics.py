"""Meaning of every score: how item scores become one number, its unit, and which way is better.

A task's samples hold one number per item in a named column (NaN if it could not be computed). A Metric says
which column it reads and how the items are brought together. Nothing here loads a model or text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kick.registry import Registry
from kick.stats.support import BINARY, COUNT, GRADE, REAL, SHARE, Support

Floats = NDArray[np.float64]
Kind = Literal["mean", "exp_mean"]
Unit = Literal["share", "nats", "tokens", "ratio", "words", "points"]


@dataclass(frozen=True)
class Metric:
    """A named way from item scores to one number.

    kind: "mean" of the items' scores, or "exp_mean", exp of that mean (perplexity from nats per token).
    column: the item score that is read. weight: the column that weighs the items (its sum is divided by), or
    None for equal weights. higher_is_better: the direction of good.
    compared: whether "within 5 % of dense" means something for it; false for diagnostics and for distances to
    the dense model, whose dense value is their end of support.
    support: what an item's score can be, which decides the kind of interval and test.
    ceiling: the column of each item's highest possible score, if the items tell it.
    units: the column that says which independent unit (document) an item is of; None: each is its own.
    """

    name: str
    kind: Kind
    column: str
    higher_is_better: bool
    unit: Unit
    label: str
    description: str
    weight: str | None = None
    compared: bool = True
    support: Support = REAL
    ceiling: str | None = None
    units: str | None = None

    @property
    def columns(self) -> frozenset[str]:
        """All columns that are read."""
        return frozenset(filter(None, (self.column, self.weight, self.ceiling, self.units)))

    @property
    def ends_at_dense(self) -> bool:
        """Whether nothing can be better than dense: it is a distance to it."""
        return self.name in _DISTANCES


# what is measured against the dense model's own answers
_DISTANCES = (
    *("fdt", "sdt", "agreement", "kl_mean", "kl_median", "kl_p99", "kl_max", "margin"),
    *("flips", "right_to_wrong", "wrong_to_right", "knowledge_lost", "reading_lost"),
)

known: Registry[Metric] = Registry("metric")


def describe(name: str) -> Metric:
    """The metric of that name; one that no table knows is taken as a plain mean of which higher is better.

    lm-eval's own tasks may bring metrics of any name, so an unknown one is not an error. Of several filters
    each gives `name@filter`, which means what `name` does.
    """
    if name in known:
        return known[name]
    plain, _, chosen = name.partition("@")
    if chosen and plain in known and known[plain].column == plain:
        meant = known[plain]
        return replace(meant, name=name, column=name, label=f"{meant.label} ({chosen})", ceiling=None)
    return Metric(name, "mean", name, True, "ratio", name.replace("_", " "), "a metric of the task's own")


def support_of(metric: Metric, columns: Mapping[str, Floats]) -> Support:
    """The metric's support; if the items tell their highest possible score, it ends at the largest of
    these."""
    highest = columns.get(metric.ceiling) if metric.ceiling else None
    if highest is None or not np.isfinite(highest).any():
        return metric.support
    return replace(metric.support, high=float(np.nanmax(highest)))


def units_of(metric: Metric, columns: Mapping[str, Floats]) -> Floats | None:
    """Independent unit of each item `(n,)`; None if each is its own, or that is not known."""
    units = columns.get(metric.units) if metric.units else None
    return units if units is not None and np.isfinite(units).all() else None


def _enter(
    unit: Unit,
    better: Literal["higher", "lower"],
    compared: bool,
    support: Support,
    *rows: tuple[str, str, str],
    ceiling: str | None = None,
) -> None:
    """Enter plain means that share unit, direction and support: (name, label, description) each."""
    for name, label, description in rows:
        known.add(
            name,
            Metric(
                *(name, "mean", name, better == "higher", unit, label, description),
                compared=compared,
                support=support,
                ceiling=ceiling,
            ),
        )


_enter(
    "share",
    "higher",
    True,
    BINARY,
    ("exact_match", "exact match", "the answer equals one of the aliases after the TriviaQA normalisation"),
    ("contains", "contains", "an alias occurs in the answer, on word boundaries"),
    ("acc", "accuracy", "the gold choice has the highest log-likelihood"),
    ("acc_mutual_info", "accuracy by mutual information", "the same, less the choice's log-likelihood alone"),
    ("acc_norm", "normalised accuracy", "the same with log-likelihood per byte of the choice"),
    ("among_labels", "right among labels", "of the answers that are a label, the share that is right"),
    ("from_context", "from context", "the answer that the passage gives, against common knowledge"),
    ("form", "form", "the answer has exactly the form that was asked for, whatever it says"),
    ("content", "content", "the answer names what it was asked about, whatever its form"),
    ("form_and_content", "form and content", "the answer has the form and names what it was asked about"),
    ("last_number", "last number right", "the last number of the answer is right, however it is said"),
    ("known_and_read", "known, and answered open", "right with the book closed and right with the passage"),
    ("refused", "refused", "the answer declines a harmful request"),
    ("answered", "answered", "the answer takes a harmless request up"),
    ("best_of", "best of the samples", "the sample of which the model is surest is right"),
    ("majority", "majority", "the answer that most samples give is right"),
    ("strict", "all followed", "all instructions of the item are followed"),
    ("loose", "all followed, loosely", "all are, first or last line and asterisks aside"),
    ("acc_every", "right under all prompts", "the question is answered rightly under each of its prompts"),
    ("pass_at_1", "pass@1", "the program passes all tests"),
    ("parses", "parses", "the program is valid Python"),
    ("runs", "runs", "the program's definitions run without an error"),
    ("read_only", "answered open only", "wrong with the book closed, right with the passage"),
)
_enter(
    "share",
    "higher",
    True,
    SHARE,
    ("f1", "token F1", "token overlap with the gold answer, normalised likewise, best over the aliases"),
    ("strict_share", "instructions followed", "the share of an item's instructions that are followed"),
    ("loose_share", "instructions followed, loosely", "the same of the best of a few cuts of the answer"),
    ("same_choice", "same choice", "share of pairs of prompts under which the choice is the same"),
    ("pass_at_5", "pass@5", "one or more of 5 programs pass, estimated from all samples"),
    ("pass_at_10", "pass@10", "one or more of 10 programs pass, estimated from all samples"),
    ("rouge1", "ROUGE-1", "unigram F1 against the reference summary"),
    ("rouge2", "ROUGE-2", "bigram F1 against the reference summary"),
    ("rougeL", "ROUGE-L", "longest common subsequence F1 against the reference summary"),
)
_enter(
    "share",
    "higher",
    True,
    Support(-1.0, 1.0),
    ("spearman", "Spearman", "rank correlation of cosines and grades, mean over items"),
)
_enter(
    "share",
    "higher",
    False,
    Support(-1.0, 1.0),
    ("gain", "gain of guiding", "right when decoding was guided, less right when it was not"),
)
_enter(
    "share",
    "lower",
    False,
    BINARY,
    ("format_failure", "format failure", "the answer has not the form that was asked for"),
    ("empty", "empty", "the answer is empty"),
    ("loop", "loop", "the answer repeats itself until its end"),
    ("unfinished", "unfinished", "the answer was cut off by the token limit"),
    ("complied", "took up", "the answer takes a harmful request up"),
    ("over_refused", "refused, harmless", "the answer declines a harmless request"),
    ("babbled", "neither", "the answer neither declines nor takes the request up"),
    ("overtime", "out of time", "the program was ended by a limit of time"),
    ("cut", "context cut", "the context was longer than the task's limit of tokens, and cut"),
    ("refusal", "refusal", "the answer declines to answer"),
    ("from_memory", "from memory", "the answer of common knowledge, against the passage"),
    ("memr", "MemR", "of the answers that name the passage's or memory's answer, those that name memory's"),
    ("named_both", "names both", "the passage's answer and common knowledge's both occur"),
    ("from_neither", "from neither", "neither the passage's answer nor common knowledge's"),
    ("known_not_read", "known, lost when reading", "right with the book closed, wrong with the passage"),
    ("neither", "neither", "wrong with the book closed and with the passage"),
    ("knowledge_lost", "knowledge lost", "of what dense answers with the book closed, the share now wrong"),
    ("reading_lost", "reading lost", "of what dense answers only with the passage, the share now wrong"),
    ("flips", "flips", "items whose right/wrong differs from the dense model's"),
    ("right_to_wrong", "right to wrong", "items that dense gets right and the variant wrong"),
    ("wrong_to_right", "wrong to right", "items that dense gets wrong and the variant right"),
)
_enter(
    "share",
    "lower",
    False,
    SHARE,
    (
        "prompt_spread",
        "spread over prompts",
        "standard deviation of accuracy over prompts, less items' noise",
    ),
    ("copied", "copied n-grams", "share of the answer's word n-grams that occur in its source"),
    ("sdt", "SDT", "share of the dense continuation's positions where the argmax differs, teacher-forced"),
)
_enter(
    "share",
    "higher",
    False,
    SHARE,
    ("self_auroc", "self-evaluation", "area under ROC of the model's own sureness, within an item's samples"),
    ("prompt_worst", "worst prompt", "accuracy under the prompt that is worst for the variant"),
    ("agreement", "top-1 agreement", "share of positions with dense's argmax, teacher-forced"),
)
_enter(
    "nats",
    "lower",
    False,
    COUNT,
    ("moved", "size of influence", "the influence of a word, without its sign"),
    ("kl_mean", "KL mean", "KL(dense || compressed) per token, mean over the continuation"),
    ("kl_median", "KL median", "the same, median over the continuation"),
    ("kl_p99", "KL 99 %", "the same, 99th percentile over the continuation"),
    ("kl_max", "KL max", "the same, largest over the continuation"),
    ("margin", "margin", "dense's top-1 minus top-2 logit where the variant diverges; near 0 is a tie"),
)
_enter(
    "tokens",
    "higher",
    False,
    COUNT,
    ("fdt", "FDT", "first token that diverges from dense's greedy continuation"),
    ceiling="positions",
)
_enter(
    "words",
    "higher",
    False,
    COUNT,
    ("length", "length", "words in the answer"),
    ("distinct", "distinct words", "different words in the answer"),
)
_enter(
    "tokens",
    "higher",
    False,
    COUNT,
    ("distinct_tokens", "distinct tokens", "different tokens in the answer"),
)
_enter(
    "share",
    "higher",
    False,
    SHARE,
    ("confidence", "confidence", "probability of the preferred choice among the choices"),
)
_enter(
    "share",
    "higher",
    False,
    Support(-1.0, 1.0),
    ("influence_rho", "influence kept", "Spearman's correlation of words' influences with dense's"),
)
_enter(
    "nats",
    "higher",
    False,
    REAL,
    ("influence", "influence", "what a word in front does to the log-probability of the right choice"),
)
_enter(
    "share",
    "lower",
    False,
    SHARE,
    (
        "ece",
        "calibration error",
        "mean of |accuracy - confidence| over ten bins of confidence, by their items",
    ),
)
_enter(
    "ratio",
    "lower",
    False,
    Support(0.0, 2.0),
    ("brier", "Brier score", "sum over choices of (probability - 1 if right)^2, mean over items"),
)
_enter(
    "tokens",
    "lower",
    False,
    COUNT,
    ("answer_tokens", "answer tokens", "tokens generated for the answer, the stop included"),
)
_enter(
    "points",
    "higher",
    True,
    GRADE,
    ("judge", "judge", "the judge's grade, 1 to 10"),
    ("judge_coherence", "judge: coherence", "the judge's grade, 1 to 10"),
    ("judge_consistency", "judge: consistency", "the judge's grade, 1 to 10"),
    ("judge_fluency", "judge: fluency", "the judge's grade, 1 to 10"),
    ("judge_relevance", "judge: relevance", "the judge's grade, 1 to 10"),
)
_enter(
    "share",
    "higher",
    False,
    SHARE,
    ("judge_win", "judge: preferred", "preferred to dense's answer in both orders; a tie or a turn is half"),
)
_enter(
    "share",
    "higher",
    False,
    BINARY,
    ("judge_same_order", "judge: same in both orders", "pairs in which the order changed no preference"),
)
_enter("share", "lower", False, SHARE, ("judge_failure", "judge failures", "verdicts that did not parse"))

for _metric in (
    Metric(
        "perplexity",
        "exp_mean",
        "nll",
        False,
        "ratio",
        "perplexity",
        "exp of the mean negative log-likelihood over all scored tokens of all windows",
        units="document",
    ),
    *(
        Metric(name, "mean", name, True, "share", label, text, support=support, units="document")
        for name, label, text, support in (
            ("ndcg_10", "nDCG@10", "discounted gain of the first ten texts over the best possible", SHARE),
            ("recall_1", "recall@1", "the right text is the nearest", BINARY),
            ("recall_10", "recall@10", "the share of right texts that are among the nearest ten", BINARY),
            ("recall_100", "recall@100", "the share of right texts among the nearest hundred", SHARE),
            ("map_1000", "MAP", "mean over right texts of the precision at their ranks", SHARE),
        )
    ),
    Metric(
        *("spearman_pairs", "mean", "spearman_pairs", True, "share", "Spearman"),
        "rank correlation of cosines and grades over all pairs, with jackknife intervals",
    ),
    Metric(
        "dppl",
        "exp_mean",
        "continuation_nll",
        False,
        "ratio",
        "DPPL",
        "the compressed model's perplexity on the dense model's greedy continuation",
        compared=False,
    ),
    *(
        Metric(
            name,
            "exp_mean",
            f"log_{name}",
            False,
            "ratio",
            label,
            f"tokens of the answer over those of dense's, geometric mean over {of}; cut answers are left out",
            compared=False,
        )
        for name, label, of in (
            ("length_ratio_right", "length ratio, both right", "the items that both answer rightly"),
            ("length_ratio_other", "length ratio, others", "the items that either answers wrongly"),
        )
    ),
    *(
        Metric(
            *(f"{unit}_perplexity", "exp_mean", "rolling_nll", False, "ratio", f"{unit} perplexity"),
            f"lm-eval's rolling perplexity per {unit}",
            weight=f"{unit}s",
        )
        for unit in ("word", "byte")
    ),
):
    known.add(_metric.name, _metric)
