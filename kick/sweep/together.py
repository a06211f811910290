"""The cells of a job asked together: each round one call to the engine has the next wave of every open cell.

So decode slots stay full and prefixes are shared although waves are small. A cell that fails does not cost
the others: if a joint call raises, the cells are asked apart, and the one that raises again has failed.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

from kick.records import Cell, Request, Response
from kick.store import StoreError
from kick.tasks.evaluate import Answering, Evaluation, Known, Phase

CHARACTERS = 4  # of a text that count as a token read
GENERATED = 4  # tokens read that a generated one counts as


@dataclass(eq=False)
class OpenCell:
    """A cell that is being asked: its steps, and what it waits for.

    early: whether it can end before all items are asked. seconds: by part, "answer" its own and its share of
    the calls that had requests of several cells. asked: how many requests were answered now. known: by item
    what needs no asking; origin: the stored cells that this is of.
    """

    cell: Cell
    steps: Generator[Phase, None, Evaluation]
    early: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    asked: int = 0
    known: Known = field(default_factory=dict)
    origin: Sequence[str] = ()
    phase: Phase | None = None

    def asked_next(self) -> list[Request]:
        """The requests that it waits for."""
        return [self.phase.requests[index] for index in self.phase.todo] if self.phase else []

    def whole_phase(self) -> list[Request]:
        """The requests of its phase, also those that an interrupted run has answered."""
        if self.phase is None:
            return []
        return [one for index, one in enumerate(self.phase.requests) if index not in self.phase.known]

    def took(self, seconds: float) -> None:
        """Add to the seconds of answering."""
        self.seconds["answer"] = self.seconds.get("answer", 0.0) + seconds


@dataclass
class Together:
    """Asks cells until each is done or has failed.

    done(cell, evaluation), failed(cell, error): what becomes of a cell. StoreError is raised: nothing
    could be kept.
    """

    engine: Answering
    done: Callable[[OpenCell, Evaluation], None]
    failed: Callable[[OpenCell, Exception], None]
    _cells: Sequence[OpenCell] = ()
    _open: list[OpenCell] = field(default_factory=list)

    def __call__(self, cells: Sequence[OpenCell]) -> None:
        """Ask them, round by round, the cells in each round in the order given."""
        try:
            self.begin(cells)
            self.go()
        finally:
            self.close()

    def begin(self, cells: Sequence[OpenCell]) -> None:
        """Take the cells, each up to what it asks first."""
        self._cells, self._open = cells, list(cells)
        for one in cells:
            self._advance(one)

    def requests(self) -> list[list[Request]]:
        """What each open cell asks next."""
        return [one.asked_next() for one in self._open]

    def phases(self) -> list[list[Request]]:
        """What each open cell asks next, with what was answered of it before."""
        return [one.whole_phase() for one in self._open]

    def go(self) -> None:
        """Ask until every cell that was taken has ended."""
        while self._open:
            asked = list(self._open)
            self._round(asked)
            for one in asked:
                if one in self._open:
                    self._advance(one)

    def close(self) -> None:
        """Ask no more."""
        for one in self._cells:
            one.steps.close()  # so that what is answered is kept

    def guard(self, work: Callable[[], object]) -> bool:
        """Do what all open cells need. If it raises they have failed, and it is False. Raises StoreError."""
        try:
            work()
        except StoreError:
            raise
        except Exception as error:
            for one in list(self._open):
                self._fail(one, error)
            return False
        return True

    def _advance(self, one: OpenCell) -> None:
        """Go on to what the cell asks next, or to its end."""
        start = time.perf_counter()
        try:
            one.phase = next(one.steps)
            one.took(time.perf_counter() - start)
        except StopIteration as end:
            one.took(time.perf_counter() - start)
            self._open.remove(one)
            self.done(one, end.value)
        except StoreError:
            raise
        except Exception as error:
            self._fail(one, error)

    def _fail(self, one: OpenCell, error: Exception) -> None:
        self._open.remove(one)
        one.steps.close()
        self.failed(one, error)

    def _round(self, cells: Sequence[OpenCell]) -> None:
        """Have the next requests of all cells answered in one call; if that raises, of each cell apart."""
        error = self._asked(cells)
        if error is None:
            return
        if len(cells) == 1:
            self._fail(cells[0], error)
            return
        for one in cells:
            error = self._asked([one])
            if error is not None:
                self._fail(one, error)

    def _asked(self, cells: Sequence[OpenCell]) -> Exception | None:
        """Have the cells' next requests answered; the error that this raised. Raises StoreError."""
        try:
            answer(self.engine, cells)
        except StoreError:
            raise
        except Exception as error:
            return error
        return None


def answer(engine: Answering, cells: Sequence[OpenCell]) -> None:
    """Have the engine answer what the cells' phases have left to do, and share out its seconds.

    Seconds are measured by kind of request, as answers come: a backend answers one kind after the other.
    Within a kind they are shared by tokens, as if no prompt shared its beginning with another: a text counts
    a token per four characters, a generated token as four read ones.
    """
    owners = [(one, index) for one in cells if one.phase for index in one.phase.todo]
    requests = [one.phase.requests[index] for one, index in owners if one.phase]
    shares = _Shares(cells)

    def done(place: int, response: Response) -> None:
        one, index = owners[place]
        if one.phase:
            one.phase.kept.add(index, response)
        one.asked += 1
        shares.note(one, requests[place].kind, tokens(requests[place], response))

    try:
        if requests:
            engine.answer(requests, done)
    finally:
        shares.give()


class _Shares:
    """Seconds since it was made, by kind of request, and the work of each cell in them."""

    def __init__(self, cells: Sequence[OpenCell]):
        self._cells = cells
        self._last = time.perf_counter()
        self._kind = ""  # of the last answer; what comes after it is its too
        self._seconds: dict[str, float] = defaultdict(float)
        self._work: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))

    def note(self, one: OpenCell, kind: str, work: float) -> None:
        """Note an answer."""
        self._kind = kind
        self._tick()
        self._work[kind][id(one)] += work

    def _tick(self) -> None:
        now = time.perf_counter()
        self._seconds[self._kind] += now - self._last
        self._last = now

    def give(self) -> None:
        """Add to the cells' seconds."""
        self._tick()
        for kind, seconds in self._seconds.items():
            work = self._work[kind] or {id(one): 1.0 for one in self._cells}
            for one in self._cells:
                one.took(seconds * work.get(id(one), 0.0) / sum(work.values()))


def tokens(request: Request, response: Response) -> float:
    """Tokens that answering took, at least one: those read, and those generated at their price."""
    read = (len(request.context) + len(request.continuation)) / CHARACTERS + len(request.tokens)
    generated = GENERATED * (response.count or 0) if request.kind == "generate" else 0
    return max(1.0, read + generated)
