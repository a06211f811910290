"""Generation: prompts read through the tree of shared prefixes, then all rows a token at a time.

A finished row leaves and a waiting one enters at once. Rows with a draft of their answer have it checked
while their prompt is read: what is accepted is not generated, and a row whose draft holds to its end never
enters the batch. The tokens are those of plain decoding, row by row.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from kick.engine.network import Network, out_of_memory
from kick.engine.packed.attend import KV
from kick.engine.packed.draft import Acceptance, trial
from kick.engine.packed.pack import Done, Runner
from kick.engine.packed.slots import Row, Slots
from kick.engine.packed.tree import Node, grow
from kick.engine.stopping import Decoding, check_numbers, pick

SHARE = 16  # tokens that sharing a prefix must save while prompts are read
FIRST_BUDGET = 96  # tokens of the first forward with drafts, doubled from one to the next: each tells more
UNKNOWN = 2**62  # the size of a subtree that is not to be run as a whole
Drafts = Mapping[int, tuple[int, ...]]


class Decode:
    """Finishes every decoding; iterate over it to get their indices as they are done.

    Args:
        network: with its attention set to ours.
        decodings: what is to be continued, from prompt and tokens so far.
        budget: tokens of one prompt-reading forward.
        slots: (bytes of keys and values, rows) at most in progress.
        drafts: answers to be checked, by index; greedy rows only.
        acceptance: what is known of the drafts' quality, updated.
    """

    def __init__(
        self,
        network: Network,
        decodings: Sequence[Decoding],
        budget: int,
        slots: tuple[int, int],
        drafts: Drafts,
        acceptance: Acceptance,
    ):
        self.network = network
        self.decodings = decodings
        self.budget = budget
        self.limits = slots
        self.drafts = drafts
        self.acceptance = acceptance

    def __iter__(self) -> Iterator[int]:
        left = [i for i, decoding in enumerate(self.decodings) if not decoding.done]
        while left:
            try:
                yield from self._pass(left)
            except RuntimeError as error:
                if not out_of_memory(error) or self.limits[1] == 1:
                    raise
                self.limits = self.limits[0] // 2, max(1, self.limits[1] // 2)
            left = [i for i in left if not self.decodings[i].done]

    # ------------------------------------------------------------------------------------ one pass

    def _pass(self, indices: list[int]) -> Iterator[int]:
        """Decode all of them; what was done before memory ran out stays done."""
        slots = Slots(*self.limits)
        arrivals = self._arrivals(indices)
        ready: deque[tuple[Row, tuple[KV, ...]]] = deque()
        more = True
        while True:
            while more and not ready and len(slots.rows) < slots.most:
                batch = next(arrivals, None)
                more = batch is not None
                yield from self._sorted(batch or (), ready)
                del batch  # a forward's keys and values go once its rows have entered
                self.network.ebb()  # what it computed with, before they do
                self._admit(slots, ready)
            self._admit(slots, ready)
            if not slots.rows:
                return
            self._step(slots)
            for place in reversed(range(len(slots.rows))):
                if slots.rows[place].decoding.done:
                    yield slots.rows[place].index
                    slots.leave(place)

    def _sorted(
        self, batch: Sequence[tuple[Row, Done]], ready: deque[tuple[Row, tuple[KV, ...]]]
    ) -> Iterator[int]:
        """The indices of rows that are done already; the others are ready to enter."""
        for row, done in batch:
            if row.decoding.done:
                yield row.index
            else:
                ready.append((row, row.keep(done.tail)))

    def _admit(self, slots: Slots, ready: deque[tuple[Row, tuple[KV, ...]]]) -> None:
        while ready and slots.fits(ready[0][0]):
            slots.enter(*ready.popleft())

    def _step(self, slots: Slots) -> None:
        ids, positions = slots.begin(self.network.device)
        hidden = self.network.hidden(ids, position_ids=positions, layout=slots)[:, 0]
        slots.end()
        decodings = [row.decoding for row in slots.rows]
        for decoding, token in zip(decodings, choose(self.network, hidden, decodings)[0], strict=True):
            decoding.accept(token)

    # ------------------------------------------------------------------------------------ arrivals

    def _arrivals(self, indices: list[int]) -> Iterator[list[tuple[Row, Done]]]:
        """Rows whose prompt has been read, with their first tokens; those that are done already too.

        Every row is a leaf of its own in the tree, with the prompt's last token and its draft: a negative
        number is there until it is run.
        """
        rows = [self.decodings[i] for i in indices]
        known = [(*row.prompt, *row.tokens) for row in rows]
        order = sorted(range(len(rows)), key=lambda i: -len(known[i]))  # longest first
        root = grow([(*known[i][:-1], -1 - place) for place, i in enumerate(order)], worth)
        for node in root.below():
            node.children.sort(key=lambda child: -child.size)
        counts = [1] * len(order)
        fed: list[tuple[int, ...]] = [()] * len(order)
        on_trial = trial([len(draft) for draft in self._fed().values()])

        def extend(node: Node) -> None:
            nonlocal on_trial
            drafts = self._fed()
            if drafts and not self.acceptance.informed and on_trial and node.sequences() > 1:
                node.size = UNKNOWN  # so that its rows are taken one by one
                return
            for leaf in node.below():
                if leaf.ids[-1] < 0:
                    place = -1 - leaf.ids[-1]
                    draft = drafts.get(indices[order[place]], ())
                    if not self.acceptance.informed:
                        draft = draft[:on_trial]
                        on_trial -= len(draft)
                    fed[place] = draft
                    counts[place] += len(fed[place])
                    leaf.ids = (*leaf.ids[:-1], known[order[place]][-1], *fed[place])
                    leaf.wanted = counts[place]
            node.measure()

        budget = min(self.budget, FIRST_BUDGET) if self.drafts else self.budget
        runner = Runner(self.network, root, counts, budget, keep=True, extend=extend)
        for batch in runner:
            if batch and runner.budget == budget:
                runner.budget = budget = min(self.budget, 2 * budget)
            yield self._arrived(batch, [indices[i] for i in order], fed)
            del batch  # before the next forward

    def _arrived(
        self, batch: Sequence[Done], indices: Sequence[int], fed: Sequence[tuple[int, ...]]
    ) -> list[tuple[Row, Done]]:
        """Readings with their drafts checked; `indices` and `fed` by reading."""
        arrived = []
        hidden = torch.cat([done.hidden for done in batch]) if batch else None
        starts = [self.decodings[indices[done.reading]] for done in batch]
        chosen, margin = choose(self.network, hidden, starts, [len(done.hidden) for done in batch])
        self.acceptance.saw(margin)
        tokens = iter(chosen)
        for done in batch:
            index, draft = indices[done.reading], fed[done.reading]
            offered = [next(tokens) for _ in done.hidden]
            matched = self._check(self.decodings[index], draft, offered)
            length = len(done.tail) - len(draft) + matched
            arrived.append((Row(index, self.decodings[index], done.spans, length), done))
        return arrived

    def _fed(self) -> dict[int, tuple[int, ...]]:
        """The draft tokens to feed now, by index: never the last one, which nothing follows."""
        drafts = {
            index: draft
            for index, draft in self.drafts.items()
            if draft and self.decodings[index].temperature == 0.0 and not self.decodings[index].tokens
        }
        if not drafts:
            return {}
        lengths = self.acceptance.lengths([len(draft) for draft in drafts.values()], self.limits[1])
        return {i: draft[:length] for (i, draft), length in zip(drafts.items(), lengths, strict=True)}

    def _check(self, row: Decoding, fed: tuple[int, ...], offered: list[int]) -> int:
        """Accept what the model says itself, as long as it is what was fed; how much of it was."""
        matched = 0
        for place, token in enumerate(offered):
            row.accept(token)
            if row.done or place == len(fed) or token != fed[place]:
                break
            matched += 1
        if fed:
            self.acceptance.observe(len(fed), matched)
        return matched


def worth(tokens: int, sequences: int) -> bool:
    """Whether a prefix is computed once for all rows that begin with it."""
    return tokens * (sequences - 1) >= SHARE


def choose(
    network: Network, hidden: Tensor | None, rows: Sequence[Decoding], counts: Sequence[int] | None = None
) -> tuple[list[int], float]:
    """The next token at each of the hidden states (N, H), `counts` of them belonging to each row (1).

    Also the smallest lead of a best logit over the second where a row has more than one: checked tokens.
    """
    tokens: list[int] = []
    smallest = math.inf
    if hidden is None:
        return tokens, smallest
    counts = counts or [1] * len(rows)
    owners = [row for row, count in zip(rows, counts, strict=True) for _ in range(count)]
    checked = torch.tensor([count > 1 for count in counts for _ in range(count)], device=hidden.device)
    for part, logits in network.chunks(hidden):
        best, at = logits.max(-1)
        check_numbers(best)
        tokens += [
            token if row.temperature == 0.0 and row.guide is None else pick(logits[i], row)
            for i, (row, token) in enumerate(zip(owners[part], at.tolist(), strict=True))
        ]
        if checked[part].any():
            second = logits.scatter(1, at[:, None], -math.inf)[checked[part]].amax(-1)
            smallest = min(smallest, float((best[checked[part]] - second).min()))
    return tokens, smallest
