"""What every form of recovery shares: its options, and how it is a step of a recipe.

A form is a method of kind `recover`: a frozen dataclass whose `trained` gives, while it is open, the
parameters that are trained, and how they are merged afterwards.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from kick.compress.context import Calibration, TextSpec, calibration_of
from kick.compress.method import methods, option
from kick.errors import KickError, WrongOption
from kick.model.structure import device_of
from kick.records import PARTS, POOL, RANDOM, SCORES, Step
from kick.recover.adapters import AdapterForm, Through, adapted, check_adapted, merge, named_parts
from kick.recover.choosing import PASER, Chosen, chosen
from kick.recover.rates import best, trials_of, tried
from kick.recover.train import TrainingSchedule, train


def _nothing(*_given: Any) -> None:
    pass


@dataclass(frozen=True, eq=False)
class Trained:
    """Parameters that are trained, by name; `merge` puts them into the model.

    after_step: follows each step of the optimizer. before_step: is told its number, from 0. prepare: is shown
    the first window before anything is trained. extra: what is added to the loss of the last forward, None
    for nothing.
    """

    parameters: Mapping[str, nn.Parameter]
    merge: Callable[[], None] = _nothing
    after_step: Callable[[], None] = _nothing
    before_step: Callable[[int], None] = _nothing
    prepare: Callable[[Tensor], None] = _nothing
    extra: Callable[[], Tensor | None] = _nothing


@dataclass(frozen=True, kw_only=True)
class Recovery(ABC):
    """Options of every form, and what a step of a recipe must know of it."""

    tokens: int = option("how many tokens are trained on", 50_000, low=1)
    length: int = option("tokens of a window", 256, low=2)
    batch: int = option("windows per step of the optimizer", 1, low=1)
    lr: float = option("the highest learning rate", 5e-4, low=0)
    corpus: str = option("the name of the corpus that is trained on", "world_english_bible")
    digest: str = option("of the corpus's text; filled in", "")
    seed: int = option("of the windows' order and of the adapters", 0, low=0)
    select: str = option("how windows are chosen", RANDOM, choices=(RANDOM, *SCORES, PASER))
    keep: str = option("which part of the ranking by `select` is kept", PARTS[1], choices=PARTS)
    pool: int = option("windows that `select` ranks for each that is kept", POOL, low=2)
    recompute: bool = option("run each block again in the backward pass, which takes less memory", False)

    dense = False  # whether it needs the dense weights of the blocks
    fills = False  # whether it would put values where pruning put zeros

    @classmethod
    def complete(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """The options as given. Raises WrongOption for some of a ranking without one."""
        select = options.get("select", RANDOM)
        for name, default in (("keep", PARTS[1]), ("pool", POOL)):
            if options.get(name, default) == default:
                continue
            if select == RANDOM:
                raise WrongOption(f"{name} is of ranked windows: give `select`, or leave it out", name)
            if select == PASER and name == "keep":
                raise WrongOption(f"select: {PASER} keeps what lost most; leave keep out", name)
        if select == PASER and any(entry.cls is cls and entry.structured for entry in methods.values()):
            raise WrongOption(f"select: {PASER} compares a pruned model with the dense one", "select")
        return options

    @property
    def name(self) -> str:
        """The registered name."""
        return next(name for name, entry in methods.items() if entry.cls is type(self))

    @property
    def schedule(self) -> TrainingSchedule:
        """Steps, batch and learning rate."""
        return TrainingSchedule(max(1, self.tokens // (self.length * self.batch)), self.batch, self.lr)

    @property
    def facts(self) -> dict[str, Any]:
        """What a record of the training says of the form, as JSON values."""
        form = self.name.removeprefix("recover-")
        return {"form": form, "corpus": self.corpus, "seed": self.seed, "lr": self.lr}

    def follows(self, earlier: Sequence[Step]) -> None:
        """Raises KickError if the form cannot follow these steps."""
        if self.select == PASER and not earlier:
            raise KickError(
                f"{self.name}: select: {PASER} compares the pruned model with the dense one; put it after a "
                "step that prunes"
            )
        if self.fills:
            for step in earlier:
                if methods[step.method].kind == "prune":
                    raise KickError(
                        f"{self.name} would fill the zeros of {step.method}; choose `recover: masklora`, "
                        "which keeps them, or `recover: lora-prune`, which drops what it filled"
                    )

    def branches(self) -> bool:
        """Whether it leaves side branches beside the weights."""
        return False

    def check(self, model: nn.Module) -> None:  # noqa: B027  # a form may serve every model
        """Raises KickError if the form cannot serve the model."""

    def text(self) -> TextSpec:
        """The windows that are trained on."""
        count = self.schedule.steps * self.batch
        return TextSpec(self.corpus, count, self.length, self.seed, self.digest, self.pool)

    @abstractmethod
    def __call__(self, model: Any, calibration: Sequence[Tensor]) -> None:
        """Train the model in place, and leave what it took in `calibration.training`."""


@dataclass(frozen=True, kw_only=True)
class RecoveryForm(Recovery):
    """A form that trains the whole model at once on the language model's loss."""

    search: int = option("how many learning rates around `lr` held-out text chooses from", 1, low=1, high=9)
    trial: int = option("tokens that each of them is tried on", 8_000, low=1)

    @abstractmethod
    def trained(
        self, model: nn.Module, masks: Mapping[str, Tensor], generator: torch.Generator
    ) -> AbstractContextManager[Trained]:
        """While open, parameters of the model or beside it are trained.

        masks: of weights that pruning kept, (out, in), by a matrix's full name.
        """

    def opened(
        self, model: nn.Module, calibration: Calibration, generator: torch.Generator
    ) -> AbstractContextManager[Trained]:
        """The same, for a form that looks at more of a recipe's state than its masks."""
        return self.trained(model, calibration.masks, generator)

    def __call__(self, model: Any, calibration: Sequence[Tensor]) -> None:
        """Train the model in place, and leave what it took in `calibration.training`."""
        calibration = calibration_of(calibration)
        self.fit(model, calibration, texts_of(calibration, self, model))

    def fit(self, model: Any, calibration: Calibration, given: Chosen) -> None:
        """Train the model in place on windows that were chosen, as `texts_of` gives them."""
        windows, heldout, selection = given
        texts, folder = (windows, heldout), calibration.work

        @contextmanager
        def opened() -> Iterator[Trained]:
            with self.opened(model, calibration, torch.Generator().manual_seed(self.seed)) as trained:
                trained.prepare(windows[0].to(device_of(model)))
                yield trained

        schedule, picked = self.schedule, dict[str, Any]()
        if self.search > 1:
            trials = tried(
                model, opened, trials_of(schedule, self.search, self.trial, self.length), texts, folder
            )
            schedule = replace(schedule, lr=best(trials))
            picked = {"lr": schedule.lr, "rates": trials}
        with opened() as trained:
            report = train(model, trained, schedule, texts, folder, self.recompute)
            trained.merge()
        calibration.training = {**self.facts, **picked, **selection, **report}


def texts_of(calibration: Calibration, form: Recovery, model: Any) -> Chosen:
    """Windows to train on, and held out, and how they were chosen: by what `model`, as it is by now, and the
    dense one make of them. Raises KickError if nothing gives texts here."""
    if calibration.texts is None:
        raise KickError(f"{form.name} needs a text to train on, and none is given here")
    return chosen(calibration.texts, form.text(), (form.select, form.keep), model)


@dataclass(frozen=True, kw_only=True)
class Adapted(RecoveryForm, AdapterForm):
    """A form that trains an adapter of every matrix."""

    def forward(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, parts: Sequence[Tensor]
    ) -> Tensor:
        """x times the merged matrix, which is made again in the backward pass."""
        return Through.apply(x, weight, bias, self, mask, *parts)

    def check(self, model: nn.Module) -> None:
        """Raises KickError if a matrix is used without a call."""
        check_adapted(model, self.name)

    @contextmanager
    def trained(
        self, model: nn.Module, masks: Mapping[str, Tensor], generator: torch.Generator
    ) -> Iterator[Trained]:
        """While open, every matrix has an adapter."""
        with adapted(model, self, masks, generator) as adapters:
            yield Trained(named_parts(adapters), lambda: merge(self, adapters))
