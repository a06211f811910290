"""One matrix pruned at a time, all others dense: the cells of a block from one loaded model.

The cells are ordinary ones, variants whose step says `only`, and so are their numbers: those of the worker
that compresses the whole model and reads every prompt from its first block (tests compare the two). What is
shared: one pass over the calibration data prunes all matrices at once (with dense activations each comes out
as if it were alone), blocks before the changed one are not run, and the dense model's logits are made once
for the matrices of a block. In memory are the input of one block and the dense model's last hidden states for
all prompts, and the last hidden states of TOGETHER variants; the pruned weights are in a mapped file.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from kick import compress, model, paths, plugins, tasks
from kick.compress.calibrate import corpus
from kick.compress.method import methods
from kick.engine import budget, fidelity
from kick.engine.encode import Encoder, max_length
from kick.engine.network import Network, pad_right
from kick.model import Linear, named_linears
from kick.paths import cache_root
from kick.provenance import provenance
from kick.records import Cell, Job, Request, Response, Result, Sample, Variant, key
from kick.store import Store
from kick.study.depth import Depth, replaced
from kick.sweep.cells import dense_samples
from kick.sweep.planned import check_code
from kick.tasks import evaluate
from kick.tasks.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOGETHER = 8  # variants whose hidden states are held at once


@dataclass
class OneByOne:
    """The work on jobs whose cells are all of one block: called with a job, in any process.

    Args:
        root: the store. matrix: its name. task_name: what every cell asks, a fidelity task.
        data_root: a local mirror of data sets. task_folders: the user's own task files.
        plugins: files that register methods of the user's own, see `kick.plugins`.
        command: the command line, for the record.
    """

    root: str
    matrix: str
    task_name: str
    data_root: str | None = None
    task_folders: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    _open: _Open | None = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """Only what says what to do travels to another process."""
        return {**self.__dict__, "_open": None}

    def __call__(self, job: Job) -> None:
        """Measure and store the job's cells. Raises what keeps any of them from being measured."""
        store = Store(self.root, self.matrix)
        plugins.load(self.plugins)
        check_code(job.variant)
        opened = self._open
        if opened is None:
            folders = [Path(folder) for folder in self.task_folders]
            task = tasks.load([self.task_name], self.data_root, folders)[self.task_name]
            opened = self._open = _Open(task, job.cells[0], store, self.data_root)
        for first in range(0, len(job.cells), TOGETHER):
            cells, start = job.cells[first : first + TOGETHER], time.perf_counter()
            answers = opened.answer([only(cell.variant) for cell in cells])
            seconds = {"answer": round((time.perf_counter() - start) / len(cells), 3)}
            for cell, responses in zip(cells, answers, strict=True):
                store.put(*self._result(opened, cell, responses, seconds))

    def _result(
        self, opened: _Open, cell: Cell, responses: Sequence[Response], seconds: Mapping[str, float]
    ) -> tuple[Result, tuple[Sample, ...]]:
        samples = evaluate.score(opened.task, opened.items, [[response] for response in responses])
        result = Result(
            key=cell.key,
            matrix=self.matrix,
            cell=cell,
            scores=evaluate.summarise(opened.task, samples),
            counts=evaluate.counts(samples),
            seconds=seconds,
            compression=opened.pruner.report(cell.variant),
            provenance=provenance(list(self.command)),
        )
        return result, samples


def only(variant: Variant) -> str:
    """The full name of the one matrix that a variant changes."""
    return str(variant.recipe[0].options["only"])


class _Open:
    """A loaded dense model at one of its blocks, with the prompts and all pruned weights."""

    def __init__(self, task: Task, cell: Cell, store: Store, data_root: str | None):
        self.task = task
        network, tokenizer = model.load(cell.variant.model, device=paths.device())
        self.network = Network(network)
        self.depth = Depth(self.network)
        self.matrices = _matrices(network)
        self.pruner = _Pruner(cell.variant, tokenizer, data_root)
        self.items = task.items(cell.task, tokenizer, dense_samples(cell, store))
        self.prompts = _Prompts([item.requests[0] for item in self.items], network, tokenizer)
        self.states: list[Tensor] = []
        self.block: int | None = None
        with self.network.linears.on(), torch.inference_mode():
            self.dense = self.prompts.wanted(self.network.hidden)

    def answer(self, names: Sequence[str]) -> list[list[Response]]:
        """For each matrix of one block the fidelity responses to all prompts, in order."""
        block = self.matrices[names[0]][0]
        with self.network.linears.on(), torch.inference_mode():
            self._reach(block)
            found = [self._pruned(name) for name in names]
            measured = [
                self._measure(index, [hidden.get(index) for hidden in found]) for index in self.prompts
            ]
        return [list(of_one) for of_one in zip(*measured, strict=True)]

    def _reach(self, block: int) -> None:
        """Bring the states to the input of `block`; back to the start where they are past it."""
        batches, first = self.prompts.batches, self.block is None
        if self.block is None or block < self.block:
            self.states, self.block = [self.depth.start(ids) for ids, _ in batches], 0
        while self.block < block:
            self.states = [
                self.depth.advance(ids, self.block, state)
                for (ids, _), state in zip(batches, self.states, strict=True)
            ]
            self.block += 1
        if first and batches:
            self.depth.check(batches[0][0], block, self.states[0])

    def _pruned(self, name: str) -> dict[int, Tensor]:
        """By prompt the hidden states (N, H) of the model with one matrix pruned."""
        block, linear = self.matrices[name]
        states = iter(self.states)
        with replaced(linear, self.pruner.weight(name, linear.weight.device)):
            return self.prompts.wanted(lambda ids: self.depth.finish(ids, block, next(states)))

    def _measure(self, index: int, hidden: Sequence[Tensor | None]) -> list[Response]:
        """The responses of several variants to one prompt."""
        tokens = self.prompts.requests[index].tokens
        cut = self.prompts.prompts[index].truncated
        dense, say = self.dense.get(index), _Remembered(self.network.logits)
        values = [fidelity.measure(self.network, mine, tokens, dense, say)[0] for mine in hidden]
        return [Response(values=one, truncated=cut) for one in values]


class _Prompts:
    """Prefixes with the dense model's continuations, as right-padded batches of token ids."""

    def __init__(
        self, requests: Sequence[Request], network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
    ):
        self.requests = list(requests)
        encoder = Encoder(tokenizer, max_length(network.config, tokenizer))
        self.prompts = encoder.prompts(self.requests)
        self.rows = {i: self.prompts[i].ids + r.tokens[:-1] for i, r in enumerate(requests) if r.tokens}
        self.batches = list(self._batches(budget.batch_tokens(network.device), network.device))

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.requests)))

    def _batches(self, tokens: int, device: torch.device) -> Iterator[tuple[Tensor, list[int]]]:
        """(ids (B, T), prompts), longest first, of about `tokens` tokens each."""
        order = sorted(self.rows, key=lambda i: -len(self.rows[i]))
        while order:
            part = order[: max(1, tokens // len(self.rows[order[0]]))]
            order = order[len(part) :]
            yield pad_right([self.rows[i] for i in part], device), part

    def wanted(self, run: Callable[[Tensor], Tensor]) -> dict[int, Tensor]:
        """By prompt the states (N, H) that predict its N tokens, of `run`: ids (B, T) -> (B, T, H)."""
        found = {}
        for ids, part in self.batches:
            hidden = run(ids)
            for row, i in enumerate(part):
                end, count = len(self.rows[i]), len(self.requests[i].tokens)
                found[i] = hidden[row, end - count : end].clone()
        return found


class _Remembered:
    """What the dense model says at its own states of one prompt: made once, asked by several variants."""

    def __init__(self, logits: Callable[[Tensor], Tensor]):
        self._logits = logits
        self._known: dict[int, fidelity.Said] = {}

    def __call__(self, dense: Tensor) -> fidelity.Said:
        place = dense.data_ptr()  # parts of one tensor that outlives this
        if place not in self._known:
            self._known[place] = fidelity.Said.of(self._logits(dense))
        return self._known[place]


class _Pruner:
    """Every matrix as a step prunes it while the others are dense: from one pass over the whole model.

    The weights are in a mapped file that has no name any more: nothing is left behind however the process
    ends.
    """

    def __init__(self, variant: Variant, tokenizer: PreTrainedTokenizerBase, data_root: str | None):
        step, spec = variant.recipe[0], variant.calibration
        whole = replace(step, options={k: v for k, v in step.options.items() if k != "only"})
        network, _ = model.load(variant.model, device=paths.device())
        sequences, shared = [], None
        if spec is not None:
            sequences = corpus.sequences(spec, tokenizer, data_root)
            shared = cache_root() / "statistics" / key([asdict(variant.model), spec.identity()])
        context = compress.Calibration([one.to(network.device) for one in sequences], "dense", memory=shared)
        compress.compress(network, [whole], context, propagate="dense", seed=spec.seed if spec else 0)
        weights = {name: linear.weight for name, (_, linear) in _matrices(network).items()}
        self.size = sum(weight.numel() for weight in weights.values())
        self.pruned = {name: int((~kept).sum()) for name, kept in context.masks.items()}
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "pruned.safetensors"
            save_file({name: weight.cpu().contiguous() for name, weight in weights.items()}, file)
            self._file = safe_open(file, framework="pt")

    def weight(self, name: str, device: torch.device) -> Tensor:
        """The pruned matrix (out, in)."""
        return self._file.get_tensor(name).to(device)

    def report(self, variant: Variant) -> dict[str, Any]:
        """What compressing to this variant does, as `compress` reports it."""
        (step,), pruned = variant.recipe, self.pruned[only(variant)]
        facts = methods[step.method].record(step.options)
        facts |= {"pruned": pruned, "weights": self.size, "sparsity": pruned / self.size}
        steps = [{"method": step.method, "options": dict(step.options), "version": step.version, **facts}]
        return {"steps": steps, "propagate": "dense", "notes": []}


def _matrices(network: PreTrainedModel) -> dict[str, tuple[int, Linear]]:
    """Every matrix by its full name, with the number of its block."""
    return {name: (index, linear) for name, index, linear in named_linears(network)}
