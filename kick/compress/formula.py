"""Formulas of a saliency: a grammar of names and calls, read by a parser of our own and by nothing else.

    formula = NAME | NAME "(" formula ["," formula] ")"          e.g. mul(abs(mul(W, W)), mms(G))

The space is Pruner-Zero's (Dong et al., ICML 2024, arXiv 2406.02924), as its code defines it. W is the
absolute weight (out, in), G the norm of its gradient over samples (out, in), X the squared norm of each input
over a sample's tokens, averaged over samples (1, in). Of one operand: sqr and pow (the square), neg, abs, log
(of |x| + 0.001), exp (of at most 100), sqrt (of |x|), tanh, skp (x itself), mms (scaled to 0 .. 1 over all
of x) and zsn (mean 0 and deviation 1 over all of x). Of two: add, sub, mul, and div, which divides by the
norm of the whole second operand.

Deviation: mms, zsn and div add 1e-30 to what they divide by, so that a constant scales to zeros, not NaN.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kick.errors import KickError
from kick.printable import plain
from kick.registry import unknown

TINY = 1e-30
LONGEST, LARGEST, DEEPEST = 1000, 64, 16  # characters, operations and operands, calls in calls
OPERANDS = ("W", "G", "X")

UNARY: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sqr": lambda x: x * x,
    "neg": lambda x: -x,
    "abs": torch.abs,
    "log": lambda x: torch.log(x.abs() + 0.001),
    "exp": lambda x: torch.exp(x.clamp(max=100)),
    "sqrt": lambda x: torch.sqrt(x.abs()),
    "tanh": torch.tanh,
    "pow": lambda x: x * x,
    "skp": lambda x: x,
    "mms": lambda x: (x - x.min()) / (x.max() - x.min() + TINY),
    "zsn": lambda x: (x - x.mean()) / (x.std() + TINY),
}
BINARY: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": lambda x, y: x / (torch.linalg.vector_norm(torch.broadcast_tensors(x, y)[1]) + TINY),
}
_MARK = re.compile(r"\s*(?:([A-Za-z][A-Za-z0-9_]*)|([(),]))")


@dataclass(frozen=True)
class Formula:
    """An operand (`parts` is empty) or an operation on one or two formulas."""

    name: str
    parts: tuple[Formula, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.parts))})" if self.parts else self.name

    def __call__(self, values: Mapping[str, Tensor]) -> Tensor:
        """The saliency of operands by name, in float32."""
        if not self.parts:
            return values[self.name]
        made = [part(values) for part in self.parts]
        return UNARY[self.name](made[0]) if len(made) == 1 else BINARY[self.name](*made)

    def below(self) -> Iterator[Formula]:
        """This formula and all that it is made of, from left to right."""
        yield self
        for part in self.parts:
            yield from part.below()

    @property
    def operands(self) -> frozenset[str]:
        """The operands that it reads."""
        return frozenset(one.name for one in self.below() if not one.parts)

    @property
    def size(self) -> int:
        """Operations and operands."""
        return sum(1 for _ in self.below())


def parse(text: str) -> Formula:
    """The formula of a text. Raises KickError in one line for what is not one, or is too large."""
    if len(text) > LONGEST:
        raise KickError(f"formula: {len(text)} characters; expected at most {LONGEST}")
    found, rest = _formula(text, _marks(text), 0)
    if rest:
        raise _wrong(text, rest[0], "the end")
    if found.size > LARGEST:
        raise KickError(f"formula: {found.size} operations and operands; expected at most {LARGEST}")
    if not found.operands & {"W", "G"}:
        raise KickError("formula: neither W nor G occurs: all weights of a column would be alike")
    return found


_Marks = list[tuple[str, int]]  # each with its place in the text


def _marks(text: str) -> _Marks:
    """Names, parentheses and commas. Raises KickError for anything else."""
    marks, at = [], 0
    end = len(text.rstrip())
    while at < end:
        found = _MARK.match(text, at)
        if found is None:
            place = at + len(text[at:]) - len(text[at:].lstrip())
            raise _wrong(text, (text[place], place), "a name, a parenthesis or a comma")
        marks.append((found[found.lastindex or 0], found.start(found.lastindex or 0)))
        at = found.end()
    return marks


def _formula(text: str, marks: _Marks, depth: int) -> tuple[Formula, _Marks]:
    """The formula that begins the marks, and what follows it."""
    if depth > DEEPEST:
        raise KickError(f"formula: more than {DEEPEST} calls in one another")
    if not marks:
        raise _wrong(text, ("", len(text)), "an operation or an operand")
    (name, place), *rest = marks
    if name in OPERANDS:
        return Formula(name), rest
    many = 1 if name in UNARY else 2 if name in BINARY else 0
    if not many:
        if name in ("(", ")", ","):
            raise _wrong(text, (name, place), "an operation or an operand")
        known = [*OPERANDS, *UNARY, *BINARY]
        raise KickError(f"formula: {unknown('name', plain(name), known)} (character {place + 1})")
    rest, parts = _expect(text, rest, "("), []
    for number in range(many):
        rest = _expect(text, rest, ",") if number else rest
        part, rest = _formula(text, rest, depth + 1)
        parts.append(part)
    return Formula(name, tuple(parts)), _expect(text, rest, ")")


def _expect(text: str, marks: _Marks, expected: str) -> _Marks:
    mark, place = marks[0] if marks else ("", len(text))
    if mark != expected:
        raise _wrong(text, (mark, place), f"'{expected}'")
    return marks[1:]


def _wrong(text: str, found: tuple[str, int], expected: str) -> KickError:
    mark, place = found
    got = f"'{plain(mark)}' at character {place + 1}" if mark else f"the end after {len(text)} characters"
    return KickError(f"formula: got {got}; expected {expected}")
