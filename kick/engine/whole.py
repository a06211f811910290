"""Whole forwards in right-padded batches, and transformers' own `generate`: no packs, caches or trees.

They serve the architectures whose masks, positions or caches packs may not trust (Mamba, recurrent hybrids,
ALiBi), rows that obey a generation configuration, and all requests of the backend `plain`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from kick.engine.network import Network, out_of_memory
from kick.engine.stopping import Decoding, check_numbers, pick
from kick.errors import KickError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Found = list[tuple[int, Tensor]]  # indices of readings, each with its hidden states (count, H)
Reading = tuple[tuple[int, ...], int]  # token ids, and how many of the last positions are wanted


def read(
    network: Network, readings: Sequence[Reading], batch_tokens: int, stretched: int | None = None
) -> Iterator[Found]:
    """Batches of (index, hidden states (count, H)) of the last positions of each reading, longest first.

    A reading of more than `stretched` tokens shares its forward with others of its length alone.
    """
    order = sorted(range(len(readings)), key=lambda i: -len(readings[i][0]))
    while order:
        longest = len(readings[order[0]][0])
        part = order[: 1 if network.manner.alone else max(1, batch_tokens // longest)]
        if stretched is not None and longest > stretched:
            part = [i for i in part if len(readings[i][0]) == longest]
        try:
            hidden = network.whole([readings[i][0] for i in part])
        except RuntimeError as error:
            if not out_of_memory(error) or len(part) == 1:
                raise
            batch_tokens //= 2
            continue
        order = order[len(part) :]
        yield [
            (i, hidden[row, len(readings[i][0]) - readings[i][1] : len(readings[i][0])])
            for row, i in enumerate(part)
        ]


def generate(
    network: Network,
    decodings: Sequence[Decoding],
    batch_tokens: int,
    settings: Mapping[str, Any] | None = None,
) -> Iterator[int]:
    """Continue each with the model's own `generate`, or step by step in whole forwards where
    `network.generates` is False; rows of a batch have equal lengths, unpadded.

    settings: what of a generation configuration is obeyed; nothing of the model's own is. Only the model's
    own `generate` can obey them, so KickError is raised for a model whose `generate` is not to be used.
    """
    if decodings and settings and not network.generates:
        raise KickError(
            f"{type(network.model).__name__} cannot obey {', '.join(sorted(settings))}: its own generate "
            "computes other logits than its forward; leave `generation_config` out"
        )
    waiting: dict[tuple[int, int], list[int]] = {}
    for i, row in enumerate(decodings):
        if row.done:
            yield i
        else:
            waiting.setdefault((len(row.prompt), row.limit), []).append(i)
    for (width, limit), members in sorted(waiting.items(), reverse=True):
        while members:
            part = members[: 1 if network.manner.alone else max(1, batch_tokens // (width + limit))]
            try:
                batch = [decodings[i] for i in part]
                if network.generates:
                    _batch(network, batch, settings or {})
                else:
                    _steps(network, batch)
            except RuntimeError as error:
                if not out_of_memory(error) or len(part) == 1:
                    raise
                batch_tokens //= 2
                for i in part:
                    decodings[i].restart()
                continue
            members = members[len(part) :]
            yield from part


def _steps(network: Network, rows: list[Decoding]) -> None:
    """Finish rows of equal prompts' lengths, a whole forward of each for every token."""
    while going := [row for row in rows if not row.done]:
        hidden = network.whole([(*row.prompt, *row.tokens) for row in going])[:, -1]
        logits = network.logits(hidden)
        check_numbers(logits.amax(-1))
        for scores, row in zip(logits, going, strict=True):
            row.accept(pick(scores, row))


def _batch(network: Network, rows: list[Decoding], settings: Mapping[str, Any]) -> None:
    """Finish rows of equal prompts' lengths and limits. Raises ValueError for one that has tokens already."""
    if any(row.tokens for row in rows):
        raise ValueError("a row that has been begun cannot be continued by the model's own generate")

    def choose(_: Tensor, scores: Tensor) -> Tensor:
        """Leave only the token that each row takes, so that generate's argmax takes it."""
        check_numbers(scores.amax(-1))
        forced = torch.full_like(scores, -float("inf"))
        for i, row in enumerate(rows):
            forced[i, pick(scores[i], row)] = 0.0
        return forced

    def stop(sequences: Tensor, _: Tensor, **__: Any) -> Tensor:
        for i, row in enumerate(rows):
            if not row.done:
                row.accept(int(sequences[i, -1]))
        return torch.tensor([row.done for row in rows], device=sequences.device)

    native(network, [row.prompt for row in rows], rows[0].limit, choose, stop, settings)


def native(
    network: Network,
    prompts: Sequence[Sequence[int]],
    limit: int,
    choose: Callable[[Tensor, Tensor], Tensor],
    stop: Callable[..., Tensor],
    settings: Mapping[str, Any],
) -> None:
    """Run the model's own `generate` on prompts of one length, under these settings alone.

    `choose` gets all logits and leaves the tokens to be taken; `stop` says which rows are done.
    """
    ids = torch.tensor(prompts, device=network.device)
    network.forget()
    with network.native(), _configured(network.model, settings):
        network.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_length=None,
            max_new_tokens=limit,
            do_sample=False,
            logits_processor=LogitsProcessorList([choose]),
            stopping_criteria=StoppingCriteriaList([stop]),
            pad_token_id=0,
        )


@contextmanager
def _configured(model: PreTrainedModel, settings: Mapping[str, Any]) -> Iterator[None]:
    """Within it the model's generation configuration has its end tokens and these settings, nothing else.

    `generate` fills what it is not given from the model's configuration, so that is what is replaced.
    """
    own = model.generation_config
    model.generation_config = GenerationConfig(
        bos_token_id=own.bos_token_id, eos_token_id=own.eos_token_id, **settings
    )
    try:
        yield
    finally:
        model.generation_config = own
