"""Genetic programming over formulas of a saliency: random ones, crossover, mutation, and what is the same.

    for asked in evolve(settings, budget):      # a formula to be measured; send its loss, None if it has none
        ...

The space and random trees are those of Pruner-Zero's code (Dong et al., ICML 2024, arXiv 2406.02924; see
`kick.compress.formula`): half of the first trees grow, half are full, 2 to 4 deep. Opposing operations are
simplified as in the paper, so that the population does not fill with formulas that cancel to the same one.
The search itself is not in the published code; tournament, rates and the limit of a formula's size are ours.
"""

from __future__ import annotations

import random
from collections.abc import Generator
from dataclasses import dataclass

from kick.compress.formula import BINARY, OPERANDS, UNARY, Formula

OPERATIONS = (*UNARY, *BINARY)
SHALLOW, DEEP = 2, 4  # depth of the first trees
LARGEST = 24  # operations and operands of a formula that is bred
TRIES = 200  # to breed a formula that was not measured yet, before a random one is taken
_RISING = ("skp", "mms", "zsn", "div", "exp", "tanh")  # at the root they rank as their first part
_RISING_FROM_0 = ("abs", "sqr", "pow", "sqrt", "log")  # the same of a part that is never below 0
# never below 0: W is an absolute value, G a norm
_POSITIVE = ("abs", "sqr", "pow", "exp", "sqrt", "mms", *OPERANDS)
_HOMOGENEOUS = ("mul", "sqrt", "sqr", "pow", "abs", "neg")  # a factor of a part is one of the whole
_KEEP_SIGN = ("tanh", "skp", "div", "add", "mul")  # of parts that are never below 0 they are not either
_OPPOSITE = {("exp", "log"), ("log", "exp"), ("sqr", "sqrt"), ("sqrt", "sqr")}


@dataclass(frozen=True)
class Breeding:
    """Settings of a search: `population` formulas are kept, parents win among `tournament` drawn ones."""

    population: int = 10
    tournament: int = 3
    crossover: float = 0.5
    mutation: float = 0.5
    seed: int = 0


Search = Generator[Formula, float | None, None]


def evolve(how: Breeding, budget: int) -> Search:
    """Yields `budget` formulas, no two of which rank alike; each is answered by its loss, None without one.

    The first `how.population` are random. After that each is bred from the best of two tournaments, and the
    worst of the population is removed. The same settings and losses give the same formulas.
    """
    rng, seen = random.Random(how.seed), set[Formula]()
    kept: list[tuple[float, int, Formula]] = []
    for number in range(budget):
        made = _fresh(rng, number, seen) if number < how.population else _bred(rng, how, kept, number, seen)
        seen.add(ranking(made))
        loss = yield made
        kept.append((float("inf") if loss is None else loss, number, made))
        if number >= how.population:
            kept.remove(max(kept, key=lambda one: one[:2]))


def _fresh(rng: random.Random, number: int, seen: set[Formula]) -> Formula:
    """A random formula that was not measured yet."""
    while True:
        made = simplified(random_formula(rng, grow=bool(number % 2)))
        if fits(made) and ranking(made) not in seen:
            return made


def _bred(
    rng: random.Random,
    how: Breeding,
    kept: list[tuple[float, int, Formula]],
    number: int,
    seen: set[Formula],
) -> Formula:
    """A child of two winners, mutated at the given rate, at least one of both."""
    for _ in range(TRIES):
        first, second = (
            min(rng.sample(kept, min(how.tournament, len(kept))), key=lambda one: one[:2])[2]
            for _ in range(2)
        )
        crossed = rng.random() < how.crossover
        made = crossover(rng, first, second) if crossed else first
        if not crossed or rng.random() < how.mutation:
            made = mutated(rng, made)
        made = simplified(made)
        if fits(made) and ranking(made) not in seen:
            return made
    return _fresh(rng, number, seen)


def random_formula(rng: random.Random, grow: bool, depth: int = 0) -> Formula:
    """A random tree of at least SHALLOW and at most DEEP operations in one another; a full one has DEEP."""
    ends = depth >= DEEP or (depth >= SHALLOW and grow and rng.random() > 0.5)
    if ends:
        return Formula(rng.choice(OPERANDS))
    name = rng.choice(OPERATIONS)
    many = 1 if name in UNARY else 2
    return Formula(name, tuple(random_formula(rng, grow, depth + 1) for _ in range(many)))


def crossover(rng: random.Random, first: Formula, second: Formula) -> Formula:
    """The first one with one of its parts replaced by a part of the second."""
    return replaced(first, rng.randrange(first.size), rng.choice(list(second.below())))


def mutated(rng: random.Random, formula: Formula) -> Formula:
    """The formula with one of its parts replaced by a random one of at most DEEP - SHALLOW operations."""
    return replaced(formula, rng.randrange(formula.size), random_formula(rng, True, SHALLOW))


def replaced(formula: Formula, place: int, part: Formula) -> Formula:
    """The formula with the part at `place` (from 0, from left to right) replaced."""
    if place == 0:
        return part
    place -= 1
    made = []
    for one in formula.parts:
        made.append(replaced(one, place, part) if 0 <= place < one.size else one)
        place -= one.size
    return Formula(formula.name, tuple(made))


def fits(formula: Formula) -> bool:
    """Whether the formula can be a saliency of single weights, and is not too large to be bred."""
    constant = formula.name == "sub" and formula.parts[0] == formula.parts[1]
    return bool(ranking(formula).operands & {"W", "G"}) and formula.size <= LARGEST and not constant


def simplified(formula: Formula) -> Formula:
    """The formula without what cancels: opposing operations in one another, and what changes nothing.

    exp and log, sqr and sqrt, neg and neg, add and sub of the same. What the 0.001 of log and the limit of
    exp would leave is not kept.
    """
    parts = tuple(map(simplified, formula.parts))
    if not parts:
        return formula
    return _pair(formula.name, *parts) if len(parts) == 2 else _single(formula.name, parts[0])


def _single(name: str, inner: Formula) -> Formula:
    name = "sqr" if name == "pow" else name
    if name == "skp" or (name == "abs" and inner.name in _POSITIVE):
        return inner
    if name == inner.name == "neg":
        return inner.parts[0]
    if name == "abs" and inner.name == "neg":
        return _single("abs", inner.parts[0])
    if (name, inner.name) in _OPPOSITE:
        return inner.parts[0] if name == "log" else _single("abs", inner.parts[0])
    if name in ("mms", "zsn") and inner.name in ("mms", "zsn"):
        return Formula(name, inner.parts)
    return Formula(name, (inner,))


def _pair(name: str, first: Formula, second: Formula) -> Formula:
    if name == "add" and first.name == "sub" and first.parts[1] == second:
        return first.parts[0]
    if name == "add" and second.name == "sub" and second.parts[1] == first:
        return second.parts[0]
    if name == "sub" and first.name == "add" and second in first.parts:
        return first.parts[1] if first.parts[0] == second else first.parts[0]
    if name in ("add", "mul") and str(second) < str(first):
        first, second = second, first  # both orders are one formula
    return Formula(name, (first, second))


def ranking(formula: Formula) -> Formula:
    """The part that alone decides the order of weights in a row.

    A scale or a divisor of all does not change it, within a product neither, nor does what rises everywhere,
    or wherever its part is. Ties that float32 makes of nearly equal values are not looked at.
    """
    while formula.parts and (
        formula.name in _RISING or (formula.name in _RISING_FROM_0 and _positive(formula.parts[0]))
    ):
        formula = formula.parts[0]
    return _unscaled(formula)


def _unscaled(formula: Formula) -> Formula:
    """The formula without divisors of all in products, powers and roots: each is a positive factor."""
    if formula.name == "div":
        return _unscaled(formula.parts[0])
    if formula.name not in _HOMOGENEOUS:
        return formula
    parts = [_unscaled(one) for one in formula.parts]
    return Formula(formula.name, tuple(sorted(parts, key=str) if formula.name == "mul" else parts))


def _positive(formula: Formula) -> bool:
    """Whether its values are never below 0, as far as its form tells."""
    if formula.name in _POSITIVE:
        return True
    return formula.name in _KEEP_SIGN and all(map(_positive, formula.parts))
