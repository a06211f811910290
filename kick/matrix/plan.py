"""A matrix -> its cells and jobs: every name checked against the tables, defaults written out, keys, costs.

No weights are loaded. All mistakes are reported at once, each with its line in the matrix file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

from kick.engine.backend import identity
from kick.errors import KickError
from kick.matrix import costs, running, served, stale, stopping
from kick.matrix.asking import Asking
from kick.matrix.costs import Estimate, Layers
from kick.matrix.engines import ChosenEngine, choose
from kick.matrix.memory import COMPARED, JobWork
from kick.matrix.rates import Rates, load_rates
from kick.matrix.recovering import with_texts
from kick.matrix.schema import ChatKeys, Matrix, OrderKeys
from kick.matrix.shapes import Shape
from kick.matrix.sources import Sources, own_sources
from kick.matrix.variants import Expanded, expand
from kick.matrix.yaml_marks import Path, Problem, refusal
from kick.records import Cell, Job, ModelFacts, ModelSpec, TaskSpec, Variant, canonical
from kick.registry import unknown

if TYPE_CHECKING:
    from kick.store import Store
    from kick.tasks import Task

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """Plan of a matrix. `cells` are in order of variants, dense first; `keys` are theirs. `engine` is what
    the matrix names, or what was chosen for it."""

    matrix: Matrix
    engine: ChosenEngine
    variants: tuple[Variant, ...]
    tasks: Mapping[str, Task]
    cells: tuple[Cell, ...]
    keys: tuple[str, ...]
    jobs: tuple[Job, ...]
    estimates: Mapping[
        str, Estimate
    ]  # by variant, of all items; a job's cost is of those it is expected to ask
    given: Mapping[str, tuple[frozenset[str], ...]] = field(
        default_factory=dict
    )  # options, by variant and step
    data_root: str | None = None

    @property
    def by_key(self) -> dict[str, Cell]:
        """The cells by their keys, in order."""
        return dict(zip(self.keys, self.cells, strict=True))

    @property
    def seconds(self) -> float:
        """The estimate of all jobs, one after the other."""
        return sum(job.cost for job in self.jobs)

    def stale(self, store: Store) -> list[stale.Stale]:
        """Cells of this matrix that the store has under other keys, and not yet under theirs."""
        return stale.find(self.matrix.name, self.by_key, store.runs(), self.given)


def plan(
    matrix: Matrix,
    *,
    data_root: str | None = None,
    limit: int | None = None,
    sources: Sources | None = None,
    rates: Rates | None = None,
) -> Plan:
    """The cells and jobs of a matrix.

    Args:
        data_root: the local mirror of data sets, in place of the matrix's own.
        limit: items of every task, in place of the matrix's own.
        sources: the tables; kick's own by default.
        rates: how fast this machine is; what it has learned by default.

    Raises:
        KickError: an unknown model, method, option, task or corpus, a level out of range, a variant given
            twice: all that is found, a line each.
    """
    planner = _Planner(matrix, data_root or matrix.data_root, limit, sources or own_sources())
    variants = planner.variants()
    tasks = planner.tasks()
    planner.refuse()
    specs = {name: planner.spec(task) for name, task in tasks.items()}
    planner.check_asked(tasks, specs)
    variants = planner.resolved(variants)  # last: it may have to convert a model
    facts = planner.facts(variants)
    planner.check_fit(variants)
    asked = Asking(
        matrix.generation_config == "model", {name: planner.chat(name) for name in tasks}, facts, tasks
    )
    planner.problems += asked.problems([one.variant for one in variants], specs)
    planner.refuse()
    cells = _cells([one.variant for one in variants], tasks, specs, asked, matrix)
    work = variants, tasks, specs, rates or load_rates()
    engine = planner.engine(variants, tasks, planner.estimates(*work).values())
    return Plan(
        matrix,
        engine,
        tuple(one.variant for one in variants),
        tasks,
        tuple(cells),
        tuple(cell.key for cell in cells),
        _jobs(cells, planner.estimates(*work, early=True, layers=engine.layers)),
        planner.estimates(*work, layers=engine.layers),
        {one.variant.name: one.given for one in variants},
        planner.data_root,
    )


def _cells(
    variants: Sequence[Variant],
    tasks: Mapping[str, Task],
    specs: Mapping[str, TaskSpec],
    asked: Asking,
    matrix: Matrix,
) -> list[Cell]:
    """All cells. If a task compares with dense answers, the others' cells name the dense one's key."""
    rules = {name: stopping.text(matrix, task) for name, task in tasks.items()}
    first = variants[0]
    engine = _engine(first, matrix)
    dense = {name: Cell(first, asked.of(spec, first.model), None, engine).key for name, spec in specs.items()}
    return [
        stopping.cell(
            variant,
            replace(asked.of(spec, variant.model), stop=rules[name] if stopping.stops(variant) else ""),
            dense[name],
            _engine(variant, matrix),
            tasks[name].needs_reference,
        )
        for variant in variants
        for name, spec in specs.items()
        if not running.not_asked(variant, tasks[name])
    ]


def _engine(variant: Variant, matrix: Matrix) -> str:
    """What the key of a variant's cells has for an engine."""
    if variant.endpoint:
        return served.ServedModel.read(variant.endpoint).identity
    return identity(matrix.engine.name)


def _jobs(cells: Sequence[Cell], costs: Mapping[str, Estimate]) -> tuple[Job, ...]:
    """The cells by variant, each with what its job costs."""
    jobs = [tuple(part) for _, part in groupby(cells, key=lambda cell: cell.variant.name)]
    seconds = running.seconds_of([part[0].variant for part in jobs], costs)
    return tuple(Job(part[0].variant, part, seconds[part[0].variant.name]) for part in jobs)


class _Planner:
    def __init__(self, matrix: Matrix, data_root: str | None, limit: int | None, sources: Sources):
        if limit is not None and limit < 1:
            raise KickError(f"limit: got {limit}; expected: a whole number of at least 1")
        self.matrix = matrix
        self.data_root = data_root
        self.limit = limit
        self.sources = sources
        self.problems: list[Problem] = []
        self._groups: dict[str, list[str]] = {}  # the tasks of each name in `tasks`
        self._shapes: dict[tuple[str, str | None], Shape] = {}

    def variants(self) -> list[Expanded]:
        """All variants, dense first, with the digest of their calibration; the models have none yet."""
        found, problems = expand(self.matrix, self.sources.methods)
        found, more = with_texts(found, lambda name: self.sources.corpus(name, self.data_root))
        self.problems += [*problems, *more]
        if not any(one.variant.calibration for one in found):
            return found
        try:
            digest = self.sources.corpus(self.matrix.calibration.corpus, self.data_root)
        except KickError as error:
            self._problem(("calibration", "corpus"), error)
            return found
        return [_with_corpus(one, digest) for one in found]

    def resolved(self, variants: Sequence[Expanded]) -> list[Expanded]:
        """The variants with their models' digests. Raises KickError for models that are not available."""
        specs: dict[ModelSpec, ModelSpec] = {}
        for one in variants:
            model = one.variant.model
            if model in specs:
                continue
            if one.variant.endpoint:
                specs[model] = self._served(model, one.path)
                continue
            path: Path = (*one.path, "checkpoint") if one.variant.checkpoint else ("model",)
            dense = specs.get(variants[0].variant.model)
            base = (dense,) if one.variant.checkpoint and dense and dense.digest else ()
            try:
                specs[model] = self.sources.resolve(model.name, model.revision, model.dtype, *base)
            except KickError as error:
                self._problem(path, error)
                specs[model] = model
        self.refuse()
        return [
            replace(one, variant=replace(one.variant, model=specs[one.variant.model])) for one in variants
        ]

    def _served(self, model: ModelSpec, path: Path) -> ModelSpec:
        """A served model with the tokenizer of the matrix's model."""
        name, revision = self.matrix.model, self.matrix.revision
        try:
            digest, _ = self.sources.base(name, revision)
        except KickError as error:
            self._problem((*path, "endpoint"), error)
            return model
        return replace(model, tokenizer=digest, tokenizer_from=name, tokenizer_revision=revision)

    def facts(self, variants: Sequence[Expanded]) -> dict[ModelSpec, ModelFacts]:
        """Facts in the files of each model. Raises KickError for one that is not a causal language model."""
        found: dict[ModelSpec, ModelFacts] = {}
        for one in variants:
            path: Path = (*one.path, "checkpoint") if one.variant.checkpoint else ("model",)
            try:
                if one.variant.endpoint:
                    found[one.variant.model] = self.sources.base(self.matrix.model, self.matrix.revision)[1]
                elif one.variant.model not in found:
                    found[one.variant.model] = self.sources.facts(one.variant.model)
                    if one.variant.checkpoint and not variants[0].variant.endpoint:
                        self.sources.related(one.variant.model, variants[0].variant.model)
            except KickError as error:
                self._problem(path, error)
                found[one.variant.model] = ModelFacts()
        self.refuse()
        return found

    def check_fit(self, variants: Sequence[Expanded]) -> None:
        """Refuse recipes that cannot serve their model: group sizes, patterns, structures."""
        checked: set[tuple[ModelSpec, str]] = set()
        for one in variants:
            model, recipe = one.variant.model, one.variant.recipe
            whole = (model, canonical([asdict(step) for step in recipe]))  # the order of steps matters too
            if not recipe or whole in checked:
                continue
            checked.add(whole)
            try:
                self.sources.fits(model, recipe)
            except KickError as error:
                self._problem(one.path, KickError(f"{one.variant.name}: {error}"))
        for model, spec in {(one.variant.model, one.variant.calibration) for one in variants}:
            try:
                if spec is not None:
                    self.sources.enough(model, spec, self.data_root)
            except KickError as error:
                self._problem(("calibration", "length"), error)
        self.refuse()

    def check_asked(self, tasks: Mapping[str, Task], specs: Mapping[str, TaskSpec]) -> None:
        """Refuse tasks that cannot be asked as the matrix says."""
        for name, task in tasks.items():
            shots = self.matrix.shots
            path: Path = ("tasks",) if shots is None else ("shots",)
            path = (*path, name) if isinstance(shots, Mapping) and name in shots else path
            try:
                task.check(specs[name])
            except KickError as error:
                self._problem(path, error)
        self.refuse()

    def refuse(self) -> None:
        """Raise KickError with all the problems found so far, if there are any."""
        if self.problems:
            raise refusal(self.matrix.marks, self.problems)

    def tasks(self) -> dict[str, Task]:
        """The tasks, groups expanded, in the order of the file."""
        found: dict[str, Task] = {}
        for place, name in enumerate(self.matrix.tasks):
            try:
                loaded = self.sources.tasks([name], self.data_root)
            except KickError as error:
                self._problem(("tasks", place), error)
                continue
            self._groups[name] = list(loaded)
            found |= {leaf: task for leaf, task in loaded.items() if leaf not in found}
        if len(self._groups) == len(self.matrix.tasks):
            self._check_orders(found)
            for key in ("limit", "shots", "chat_template"):
                self._check_names(key, found)
        return found

    def _check_orders(self, tasks: Mapping[str, Task]) -> None:
        if self.matrix.orders and not any(one.reads_text or one.needs_reference for one in tasks.values()):
            place = [isinstance(one, OrderKeys) for one in self.matrix.replicas].index(True)
            message = "order is measured on tasks of perplexity and fidelity, and there is none; add one"
            self.problems.append(Problem(("replicas", place), message))

    def _check_names(self, key: str, tasks: Mapping[str, Task]) -> None:
        levels = getattr(self.matrix, key)
        for name in levels if isinstance(levels, Mapping) else ():
            if name not in tasks and name not in self._groups:
                known = [*tasks, *self._groups]
                self.problems.append(Problem((key, name), unknown("task of this matrix", name, known)))

    def _problem(self, path: Path, error: KickError) -> None:
        self.problems.append(Problem(path, str(error)))

    def spec(self, task: Task) -> TaskSpec:
        """The task as this matrix asks it. What changes nothing is not written: a limit past the last item,
        the task's own number of shots, shots and chat template of windows of plain text."""
        limit, shots = self.limit, self.matrix.shots
        if limit is None:
            limits = self.matrix.limit
            limit = self._by_task(limits, task.name) if isinstance(limits, dict) else limits
        shots = self._by_task(shots, task.name) if isinstance(shots, dict) else shots
        if task.size is None:  # windows of tokens: nothing is prompted
            return TaskSpec(task.name, task.digest, task.scoring, limit=limit)
        limit = None if limit is not None and limit >= task.size else limit
        shots = None if shots == task.default_shots else shots
        chat = self.chat(task.name)
        arguments = canonical(chat.arguments) if isinstance(chat, ChatKeys) and chat.arguments else ""
        return TaskSpec(task.name, task.digest, task.scoring, shots, limit, bool(chat), arguments)

    def chat(self, name: str) -> bool | ChatKeys | None:
        """The task's `chat_template`."""
        levels = self.matrix.chat_template
        return self._by_task(levels, name) if isinstance(levels, dict) else levels

    def _by_task(self, levels: Mapping[str, T], name: str) -> T | None:
        """The value for one task: its own, else its group's."""
        groups = [group for group, leaves in self._groups.items() if name in leaves and group in levels]
        return levels[name] if name in levels else levels[groups[0]] if groups else None

    def estimates(
        self,
        variants: Sequence[Expanded],
        tasks: Mapping[str, Task],
        specs: Mapping[str, TaskSpec],
        rates: Rates,
        early: bool = False,
        layers: Layers | None = None,
    ) -> dict[str, Estimate]:
        """Cost of each variant's job; `early`: with the items that are expected under the matrix's rule."""
        kinds = {**self.sources.kinds(), **{name: task.kind for name, task in tasks.items() if task.kind}}
        items = {name: specs[name].limit or task.size or costs.ITEMS for name, task in tasks.items()}
        read = {name: task.beside(specs[name].limit) for name, task in tasks.items()}
        texts = {name: 2 * items[name] + read[name].texts for name in tasks if kinds.get(name) == COMPARED}
        items = {name: count + read[name].items for name, count in items.items()}
        found = {}
        for one in variants:
            asked = running.asked_of(one.variant, tasks, items)
            if one.variant.endpoint:
                found[one.variant.name] = served.estimate(asked)
                continue
            if early and stopping.stops(one.variant):
                asked = {name: stopping.expected(self.matrix, tasks[name], n) for name, n in asked.items()}
            work = self._work(one.variant, asked, kinds)
            work = replace(work, texts=max((texts.get(name, 0) for name in asked), default=0))
            size = self._shape(one.variant.model)
            found[one.variant.name] = costs.estimate(one.variant.model, size, work, rates, layers)
        return found

    def engine(
        self, variants: Sequence[Expanded], tasks: Mapping[str, Task], estimates: Iterable[Estimate]
    ) -> ChosenEngine:
        """The engine that answers; `estimates` are of the jobs in memory. Refuses what it cannot run."""
        local = [one.variant for one in variants if not one.variant.endpoint]
        shapes = [(one, self._shape(one.model)) for one in local]
        chosen = choose(self.matrix.engine, estimates, shapes, tasks.values())
        self.problems += running.problems(self.matrix, variants, tasks, chosen.name)
        self.refuse()
        return chosen

    def _shape(self, model: ModelSpec) -> Shape:
        where = (model.name, model.revision)
        if where not in self._shapes:
            self._shapes[where] = self.sources.shape(model)
        return self._shapes[where]

    def _work(self, variant: Variant, items: Mapping[str, int], kinds: Mapping[str, str]) -> JobWork:
        needs = [self.sources.methods.needs(step) for step in variant.recipe]
        return costs.work_of(variant, items, kinds, needs, self.matrix.engine.batch_tokens)


def _with_corpus(one: Expanded, digest: str) -> Expanded:
    calibration = one.variant.calibration
    if calibration is None:
        return one
    return replace(one, variant=replace(one.variant, calibration=replace(calibration, digest=digest)))
