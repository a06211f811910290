"""The best recipe for a device's memory that a given time finds: a bandit over method, share and rank.

An arm is a way to prune, a share, and the rank of the adapters that recover it (0: the norms alone). Its loss
is the model's on held-out text of the corpus that it was trained on, which no task asks. First every way to
prune and share is measured without training: those whose packed size is above the memory are dropped. Then
successive halving (`halving`) shares the time among the others. `grid` trains every arm as long as the last
rung's, once, which says what the bandit missed: its regret.

The idea is FedSpine's (arXiv 2501.02438, read as an abstract): a bandit that picks share and rank by time and
quality. That is federated, and picks for each of many devices; this is one machine, and a study of its own.

Time is the CPU seconds of this process, so that a busy machine does not change what is found. Each trial is
written to budget.jsonl as it is made; run again, the study goes on behind the last one.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from kick import compress, model, paths
from kick.catalog import known
from kick.compress.calibrate.corpus import digest, sequences
from kick.compress.calibrate.ranking import Choose
from kick.compress.calibrate.windows import Tokenised, TrainingText
from kick.compress.context import Calibration, TextSpec
from kick.errors import CellFailed, KickError
from kick.matrix.sources import own_sources
from kick.model.owned import own
from kick.printable import counted
from kick.records import CalibrationSpec, ModelSpec, Step, key
from kick.recover.train import mean_loss
from kick.registry import unknown
from kick.study.halving import Halved, Rung, halve, ladder

LOG, VERSION = "budget.jsonl", 1
PILOT = 2  # windows of training that tell what a token costs
Say = Callable[[str], None]


@dataclass(frozen=True)
class BudgetOptions:
    """Options of `kick study budget`.

    memory: bytes of the packed model. minutes: CPU minutes. bits: of a final rounding to nearest, None for
    none. keep: one arm in so many is kept at a rung. windows: held-out ones that a loss is of. corpus: what
    is trained on. grid: whether every arm is tried for comparison.
    """

    model: str
    memory: float
    minutes: float
    out: str
    calibration: CalibrationSpec
    methods: tuple[str, ...] = ("wanda", "flap")
    shares: tuple[float, ...] = (0.3, 0.5, 0.6)
    ranks: tuple[int, ...] = (0, 4, 16)
    bits: int | None = None
    keep: int = 2
    windows: int = 8
    length: int = 256
    corpus: str = "world_english_bible"
    seed: int = 0
    grid: bool = False
    data_root: str | None = None
    offline: bool = False


@dataclass(frozen=True)
class RecipeArm:
    """A way to prune, how much of it, and the rank of the adapters; rank 0 trains the norms alone."""

    method: str
    share: float
    rank: int

    def entries(self, options: BudgetOptions, tokens: int) -> list[dict[str, Any]]:
        """The steps as a matrix has them; without training for 0 tokens."""
        facts = known()[self.method]
        made: list[dict[str, Any]] = [{"method": self.method, _share(self.method): self.share}]
        if tokens:
            how = {"tokens": tokens, "length": options.length, "seed": options.seed, "corpus": options.corpus}
            form = "lora" if facts.structured else "masklora"
            named = {"recover": form, "rank": self.rank} if self.rank else {"recover": "perp"}
            made.append(named | how)
        return made + ([{"method": "rtn", "bits": options.bits}] if options.bits else [])

    def steps(self, options: BudgetOptions, tokens: int) -> list[Step]:
        """The same as steps of a recipe."""
        made = []
        for entry in self.entries(options, tokens):
            name = entry.get("method") or f"recover-{entry['recover']}"
            own = {one: value for one, value in entry.items() if one not in ("method", "recover")}
            made.append(compress.canonical(name, own))
        return made


@dataclass(frozen=True)
class BudgetTrial:
    """An arm trained on so many tokens: its loss in nats per token, None if it has none; packed bytes, the
    CPU seconds that it took, and those of the training alone."""

    arm: RecipeArm
    tokens: int
    loss: float | None
    size: int
    seconds: float
    training: float


@dataclass(frozen=True)
class BudgetFound:
    """What a study found: trials in their order, the arms that fit, the rungs, and the best of the bandit.

    grid: the losses of all arms after as many tokens as the best one's; None if they were not asked for.
    """

    options: BudgetOptions
    trials: tuple[BudgetTrial, ...]
    fitting: tuple[RecipeArm, ...]
    rungs: tuple[Rung, ...]
    best: Halved[RecipeArm]
    grid: Mapping[RecipeArm, float] | None

    @property
    def regret(self) -> float | None:
        """How far the bandit's choice is above the grid's least loss, nats per token; None without a grid."""
        return None if self.grid is None else self.grid[self.best.arm] - min(self.grid.values())


def arms(options: BudgetOptions) -> list[RecipeArm]:
    """Every arm, in the order of the options. Raises KickError for options out of range."""
    for name, value, least in (
        ("bytes", options.memory, 1), ("minutes", options.minutes, 1e-3), ("keep", options.keep, 2),
        ("windows", options.windows, 1), ("length", options.length, 2),
    ):  # fmt: skip
        if value < least:
            raise KickError(f"--{name}: got {value:g}; expected: at least {least:g}")
    for method in options.methods:
        if method not in known():
            raise KickError(unknown("method", method, known()))
        if known()[method].kind not in ("prune", "structure"):
            raise KickError(f"{method} does not prune; a budget study is of methods that do")
    if not (options.methods and options.shares and options.ranks):
        raise KickError("a budget study needs at least a method, a share and a rank")
    return [RecipeArm(*one) for one in itertools.product(options.methods, options.shares, options.ranks)]


def _share(method: str) -> str:
    """The name of the option that says how much is pruned. Raises KickError if there is none."""
    names = {one["name"] for one in compress.describe(method)["options"]}
    found = next((name for name in ("sparsity", "share") if name in names), None)
    if found is None:
        raise KickError(f"{method} has no option sparsity or share; choose wanda or flap")
    return found


def run(options: BudgetOptions, say: Say) -> BudgetFound:
    """Try, halve, and compare. Raises KickError for all that is wrong with it, before a model is loaded, and
    if no arm fits the memory or the time suffices for no training."""
    every = arms(options)
    if options.offline:
        paths.offline()
    spec, sources = model.resolve(options.model), own_sources([])
    for arm in every:
        sources.fits(spec, arm.steps(options, options.length))
    sources.enough(spec, options.calibration, options.data_root)
    bench = TrialBench(options, spec, say)
    fitting = _fitting(bench, every)
    rungs = _rungs(bench, fitting)
    say(f"{counted(len(fitting), 'arm')} of {len(every)} fit; " + _told(rungs))
    best = halve(fitting, rungs, bench.loss, lambda: bench.spent < 60 * options.minutes)
    grid = None
    if options.grid:
        grid = {arm: bench.loss(arm, best.units) for arm in fitting}
    return BudgetFound(options, tuple(bench.trials), tuple(fitting), tuple(rungs), best, grid)


def _fitting(bench: TrialBench, every: Sequence[RecipeArm]) -> list[RecipeArm]:
    """The arms whose packed size is within the memory, measured without training."""
    sizes: dict[RecipeArm, float] = {}
    for arm in every:
        plain = replace(arm, rank=0)
        if plain not in sizes:
            sizes[plain] = bench.trial(plain, 0).size or math.inf  # 0: it could not be made
    fitting = [arm for arm in every if sizes[replace(arm, rank=0)] <= bench.options.memory]
    if not fitting:
        arm, least = min(sizes.items(), key=lambda one: one[1])
        raise KickError(
            f"no recipe is within {bench.options.memory / 1e6:g} MB; the smallest is {arm.method} at "
            f"{arm.share:g}, {least / 1e6:.1f} MB: give larger shares, or --bits"
        )
    return fitting


def _rungs(bench: TrialBench, fitting: Sequence[RecipeArm]) -> list[Rung]:
    """The rungs, from what a first short training costs."""
    options = bench.options
    dearest = max(fitting, key=lambda arm: arm.rank)
    pilot = bench.trial(dearest, PILOT * options.length)
    per_token = max(pilot.training, 1e-3) / pilot.tokens
    before = [one for one in bench.trials if one.tokens in (0, pilot.tokens)]  # the same ones if resumed
    each = max(one.seconds - one.training for one in before)
    left = 60 * options.minutes - bench.spent_before
    found = ladder(len(fitting), options.keep, left, each, per_token, options.length)
    if not found:
        counts = len(fitting) * 2
        least = (bench.spent_before + counts * (each + options.length * per_token)) / 60
        raise KickError(
            f"--minutes: got {options.minutes:g}; {counted(len(fitting), 'arm')} of this model need about "
            f"{math.ceil(10 * least) / 10:g} CPU minutes: give more, or fewer arms"
        )
    return found


def _told(rungs: Sequence[Rung]) -> str:
    return "rungs: " + ", ".join(f"{counted(one.arms, 'arm')} x {one.units:,} tokens" for one in rungs)


class TrialBench:
    """Trials, each made once and written down. `spent`: CPU seconds of all of them."""

    def __init__(self, options: BudgetOptions, spec: ModelSpec, say: Say):
        self.options, self.spec, self.say = options, spec, say
        self.log = Path(options.out) / LOG
        corpora = [digest(name, options.data_root) for name in (options.calibration.corpus, options.corpus)]
        asked = asdict(replace(options, grid=False, out="", data_root=None, offline=False))
        self.identity = key([VERSION, asdict(spec), asked, corpora])
        self.trials = _read(self.log, self.identity)
        self.tokenised: Tokenised | None = None  # the corpus, once for all trials

    @property
    def spent(self) -> float:
        return sum(one.seconds for one in self.trials)

    @property
    def spent_before(self) -> float:
        """What the sizes and the pilot took, which come first."""
        short = PILOT * self.options.length
        first = next(place for place, one in enumerate(self.trials) if one.tokens == short)
        return sum(one.seconds for one in self.trials[: first + 1])

    def loss(self, arm: RecipeArm, tokens: int) -> float:
        """The loss of a trial, infinite if it has none."""
        found = self.trial(arm, tokens).loss
        return math.inf if found is None else found

    def trial(self, arm: RecipeArm, tokens: int) -> BudgetTrial:
        """An arm trained on so many tokens; made once."""
        for one in self.trials:
            if one.arm == arm and one.tokens == tokens:
                return one
        start = time.process_time()
        loss, size, training = self._measure(arm.steps(self.options, tokens))
        made = BudgetTrial(arm, tokens, loss, size, round(time.process_time() - start, 3), training)
        self.trials.append(made)
        fresh = not self.log.exists()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as file:
            if fresh:
                file.write(json.dumps({"study": self.identity}) + "\n")
            file.write(json.dumps(asdict(made)) + "\n")
        shown = "no finite loss" if loss is None else f"{loss:.3f} nats per token"
        self.say(
            f"{arm.method} {arm.share:g}, rank {arm.rank}, {tokens:,} tokens: {shown}, {made.seconds:.0f} s"
        )
        return made

    def _measure(self, recipe: Sequence[Step]) -> tuple[float | None, int, float]:
        """The loss on held-out text after a recipe, None if it is not finite, the packed bytes, and the CPU
        seconds of the training."""
        options = self.options
        network, tokenizer = model.load(self.spec, device=paths.device())
        own(network)
        if self.tokenised is None:
            self.tokenised = Tokenised(tokenizer, options.data_root)
        given = _TrainingAlone(self.tokenised)
        _, heldout = TrainingText(given.tokenised)(TextSpec(options.corpus, 1, options.length))
        calibration = Calibration(tuple(sequences(options.calibration, tokenizer, options.data_root)))
        calibration.texts = given
        try:
            report = compress.compress(network, recipe, calibration)
            loss = mean_loss(network, heldout[: options.windows])
        except CellFailed as error:
            self.say(str(error))
            return None, 0, 0.0
        finite = loss is not None and math.isfinite(loss)
        training = sum(step.get("training", {}).get("cpu_seconds", 0.0) for step in report["steps"])
        return loss if finite else None, int(report["footprint"]["packed_bytes"]), training


class _TrainingAlone(TrainingText):
    """The same windows with none held out: the loss is taken once, at the end."""

    def __call__(self, spec: TextSpec, choose: Choose | None = None) -> tuple[list[Tensor], list[Tensor]]:
        return super().__call__(spec, choose)[0], []


def _read(log: Path, identity: str) -> list[BudgetTrial]:
    """The trials of a log but for a last line that a kill cut off. Raises KickError for another study's."""
    if not log.exists():
        return []
    text = log.read_text("utf-8")
    whole = text[: text.rfind("\n") + 1]
    try:
        head, *rows = [json.loads(line) for line in whole.splitlines()] or [{}]
        found = [BudgetTrial(**{**row, "arm": RecipeArm(**row["arm"])}) for row in rows]
    except (json.JSONDecodeError, TypeError, KeyError) as error:
        raise KickError(f"{log} is not the log of a budget study; name another --out") from error
    if not isinstance(head, dict) or head.get("study") != identity:
        raise KickError(f"{log} is of another study: model, memory, time or arms differ; name another --out")
    if whole != text:
        log.write_text(whole, encoding="utf-8")
    return found
