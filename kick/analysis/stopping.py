"""The order in which a variant's items are asked, and what each look says of them: all from dense's samples.

Every variant is asked the same items first, in an order in which the first ones are like the rest: that of
the task where kick's own files shuffle it; else, and for windows of a text, whose first ones are its
beginning, that of the items' ids, which are hashes. The order is part of the rule's version and the same
under every rule, so that a cell can be continued under another one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from kick.analysis.headlines import headline
from kick.judge.columns import of_judge
from kick.records import Result, Sample
from kick.stats import forecast, sequential
from kick.stats.metrics import Metric, describe
from kick.stats.sequential import Decision, Design, Floats, Rule


def design(samples: Sequence[Sample], metric: Metric) -> tuple[tuple[str, ...], Design]:
    """The items in the order of asking, and what is known of them before: of dense's `samples`."""
    names = {name for sample in samples for name in sample.scores} & metric.columns
    columns = {name: column(samples, name) for name in (*names, metric.column)}
    return tuple(sample.item for sample in samples), Design.of(columns, metric)


def arranged(dense: Result, samples: Sequence[Sample], metric: Metric) -> Sequence[Sample]:
    """Dense's samples in the order in which a variant is asked.

    Rows of a table or of lm-eval's sets may be sorted, by topic or answer, and then the first n are not a
    sample of all. kick's own files, which name a family, have put their rows in a shuffled order.
    """
    if dense.about.get("family") and metric.kind != "exp_mean":
        return samples
    return sorted(samples, key=lambda sample: sample.item)


def column(samples: Sequence[Sample], name: str) -> Floats:
    """An item score by its name `(n,)`, NaN where it is missing."""
    return np.array([sample.scores.get(name, math.nan) for sample in samples], dtype=float)


def deciding(dense: Result) -> Metric:
    """The metric that decides: the task's headline, as far as no judge gives it."""
    own = tuple(score for score in dense.scores if not of_judge(score.metric))
    return describe(headline(replace(dense, scores=own)))


@dataclass(frozen=True)
class Stopping:
    """The waves of a cell, see `kick.tasks.evaluate.Waves`."""

    order: tuple[str, ...]
    design: Design
    metric: Metric
    rule: Rule

    @classmethod
    def of(cls, dense: Result, samples: Sequence[Sample], rule: Rule) -> Stopping:
        """The waves of a cell beside the dense cell's result and samples."""
        metric = deciding(dense)
        return cls(*design(arranged(dense, samples, metric), metric), metric, rule)

    @cached_property
    def ruled(self) -> bool:
        """Whether a look before the last one can end the cell: there are several, and a rule for the metric.

        Seen by what the first look would say of dense's own answers.
        """
        first = self._looks[0]
        said = sequential.decide(self.design, self.design.dense[:first], self.metric, self.rule)
        return first < len(self.order) and said.reason != "no rule"

    @cached_property
    def looks(self) -> tuple[int, ...]:
        """The numbers of items at which the cell may end; all of them alone if no look before can end it."""
        return self._looks if self.ruled else self._looks[-1:]

    @cached_property
    def _looks(self) -> tuple[int, ...]:
        return sequential.looks(len(self.order), self.rule, self.metric.kind)

    def decide(self, samples: Sequence[Sample]) -> Decision:
        """What the samples of the first items in order say."""
        return sequential.decide(self.design, column(samples, self.metric.column), self.metric, self.rule)

    def end(self, samples: Sequence[Sample]) -> Decision | None:
        """What the first look says that ends the cell; None if none of these first samples does."""
        for look in self.looks:
            decision = self.decide(samples[:look]) if look <= len(samples) else None
            if decision is None or decision.done:
                return decision
        return None

    def to_decide(self, samples: Sequence[Sample]) -> int | None:
        """About how many items would decide the cell, see `kick.stats.forecast`."""
        values = column(samples, self.metric.column)
        return forecast.items_to_decide(self.design, values, self.metric, self.rule)
