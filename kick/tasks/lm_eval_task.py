"""A task made of lm-eval's own Task: its documents, prompts, filters, metrics and aggregations, unchanged.

Requests are built once and answered by every variant, so an Instance must never keep an answer: its `resps`
and `filtered_resps` are set anew at each scoring.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import is_dataclass, replace
from io import StringIO
from typing import TYPE_CHECKING, Any

from lm_eval.api.samplers import SAMPLER_REGISTRY, FirstNSampler
from lm_eval.api.task import ConfigurableTask

from kick import meaning
from kick.errors import KickError
from kick.records import Request, Response, Sample, TaskSpec
from kick.tasks import confidence, forms
from kick.tasks.files import texts
from kick.tasks.generation import chat_renderer, generate_request, longest
from kick.tasks.protocol import facts_of
from kick.tasks.task import ABOUT, Aggregate, AlsoRead, FunctionName, Item, digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FEWSHOT_SEED = 1234  # lm-eval's own default
SCORING = ("process_results", "metric_list", "filter_list", "doc_to_target", "should_decontaminate")
LABELS = ("task", "task_alias", "tag", "group", "metadata", "custom_dataset", "dataset_kwargs", "include")


class HarnessTask:
    """An lm-eval task, asked through kick's requests. See `kick.tasks.task.Task` for the methods."""

    needs_reference = False
    reads_states = False
    at_once = False
    kind = note = ""
    no_examples = ""  # why no worked examples can be had, where that is so

    def __init__(self, name: str, task: ConfigurableTask, config: Mapping[str, Any]):
        """`task` is lm-eval's object, `config` its YAML with functions as "module.function" text.

        Raises KickError for a form of task file that would be scored otherwise than it reads.
        """
        self.name = name
        self.task = task
        self.written = config
        self.options = dict((config.get("metadata") or {}).get("kick") or {})
        self.generates = task.OUTPUT_TYPE == "generate_until"
        self.longest = longest(task.config.generation_kwargs or {}) if self.generates else 0
        self.guided = bool((task.config.generation_kwargs or {}).get("guide"))
        self.reads_text = task.OUTPUT_TYPE == "loglikelihood_rolling"
        self.about: Mapping[str, str] = {
            key: str(self.options[key]) for key in ABOUT if self.options.get(key)
        }
        self.default_shots = task.get_config("num_fewshot") or 0
        self._docs = _listed(task.eval_docs)
        forms.check(name, task, self._docs)
        self.size: int | None = len(self._docs)
        self.digest = digest(
            [
                {key: _unnamed(value) for key, value in config.items() if key not in SCORING + LABELS},
                self._asked(),
                _meanings(task, exclude=SCORING),
                meaning.versions(type(self).__module__),
                _jsonable(self._docs),
                _jsonable(_fewshot_docs(task)),
                *_outside(type(self)),
            ]
        )
        self.scoring = digest(
            [
                {key: _unnamed(config.get(key)) for key in SCORING},
                _meanings(task, only=SCORING),
            ]
        )
        self._instances: dict[str, list] = {}  # by item id
        self._spec: tuple | None = None

    def _asked(self) -> dict[str, Any]:
        """What of `metadata: {kick: ...}` changes the requests: the protocol and its own keys."""
        facts = facts_of(self.options)
        keys = ("protocol", *facts.keys) if facts else ()
        return {key: self.options[key] for key in keys if key in self.options}

    def items(
        self,
        spec: TaskSpec,
        tokenizer: PreTrainedTokenizerBase,
        reference: Mapping[str, Sample] | None = None,
    ) -> list[Item]:
        """The first `spec.limit` documents with lm-eval's prompts, few-shot examples and chat template."""
        self._build(spec, tokenizer)
        items = [self._item(name, instances) for name, instances in self._instances.items()]
        return [_as_asked(item, spec) for item in items] if spec.generation or spec.reasoning_end else items

    def renderer(self, spec: TaskSpec, tokenizer: PreTrainedTokenizerBase) -> Callable[..., str]:
        """What turns a conversation into a prompt, as the spec says. Raises KickError without a template."""
        arguments = json.loads(spec.template) if spec.template else None
        return chat_renderer(tokenizer, f"task {self.name}: ", arguments)

    def follow_up(self, items: Sequence[Item], responses: Sequence[Sequence[Response]]) -> list[Item] | None:
        """None: lm-eval's tasks ask once."""
        return None

    def texts(self) -> list[str]:
        """All text of each of its documents."""
        return ["\n".join(_strings(doc)) for doc in self._docs]

    def answered(self, spec: TaskSpec, samples: Sequence[Sample]) -> list[Item]:
        """The items; their prompts lack the chat template, which scoring does not look at."""
        return HarnessTask.items(self, replace(spec, chat_template=False), None)

    def beside(self, limit: int | None) -> AlsoRead:
        """Nothing."""
        return AlsoRead()

    def check(self, spec: TaskSpec) -> None:
        """Raises KickError for more worked examples than there are."""
        shots = self.default_shots if spec.shots is None else spec.shots
        if shots and self.no_examples:
            raise KickError(f"task {self.name} with {shots} shots: {self.no_examples}; ask with shots: 0")
        most = self._most_shots() if shots else None
        if most is not None and shots > most:
            raise KickError(
                f"task {self.name} with {shots} shots: it has {most} worked examples to choose from"
            )

    def _most_shots(self) -> int | None:
        """How many worked examples a prompt can have; None if the task draws them by code of its own."""
        sampler = getattr(self.task, "sampler", None)
        if sampler is None or type(sampler) not in SAMPLER_REGISTRY.values():
            return None
        split = self.task.fewshot_cfg.split
        beside = split == self.task.config.test_split  # one more is drawn, since the item itself is left out
        if isinstance(sampler, FirstNSampler) and split is None:  # examples of the task file's own
            beside = False
        return max(0, len(sampler.fewshot_indices or sampler.df) - beside)

    def _build(self, spec: TaskSpec, tokenizer: PreTrainedTokenizerBase) -> None:
        chat = (tokenizer, spec.template) if spec.chat_template else None  # held: an id would come again
        wanted = (spec.shots, spec.limit, chat)
        if self._spec == wanted:
            return
        HarnessTask.check(self, spec)  # what a kind of task refuses beside is for those who ask
        shots = self.default_shots if spec.shots is None else spec.shots
        self.task.set_config(key="num_fewshot", value=shots)
        self.task.set_fewshot_seed(seed=FEWSHOT_SEED)
        with redirect_stderr(StringIO()):  # lm-eval's progress bar
            self.task.build_all_requests(
                limit=spec.limit,
                apply_chat_template=spec.chat_template,
                fewshot_as_multiturn=True,
                chat_template=self.renderer(spec, tokenizer) if spec.chat_template else None,
            )
        groups: dict[int, list] = {}
        for instance in self.task.instances:
            groups.setdefault(instance.doc_id, []).append(instance)
        ordered = [sorted(group, key=lambda i: i.idx) for _, group in sorted(groups.items())]
        ids = item_ids([group[0].doc for group in ordered])
        self._instances = dict(zip(ids, ordered, strict=True))
        self._spec = wanted

    def _item(self, name: str, instances: list) -> Item:
        doc = instances[0].doc
        requests = tuple(
            request_of(instance, repeat) for instance in instances for repeat in range(instance.repeats or 1)
        )
        column = self.options.get("group", "subject")
        target = self.task.doc_to_target(doc)
        if isinstance(target, int) and self.task.config.doc_to_choice is not None:
            choices = self.task.doc_to_choice(doc)
            if not 0 <= target < len(choices):
                raise KickError(
                    f"task {self.name}: the right choice of {str(doc)[:100]} is number {target}, counted "
                    f"from 0, of {len(choices)}"
                )
            target = choices[target]
        return Item(name, requests, str(target), str(doc.get(column, "")), doc)

    def score(self, items: Sequence[Item], responses: Sequence[Sequence[Response]]) -> list[dict[str, float]]:
        """lm-eval's filters, then its `process_results`; of several filters each gives `metric@filter`."""
        groups = [self._instances[item.id] for item in items]
        for group, answers in zip(groups, responses, strict=True):
            given = iter(answers)
            for instance in group:
                instance.resps = [answer_of(next(given)) for _ in range(instance.repeats or 1)]
                instance.filtered_resps = {}
        flat = [instance for group in groups for instance in group]
        for ensemble in self.task._filters if flat else ():
            ensemble.apply(flat)
        return [self._scores(group) for group in groups]

    def _scores(self, group: list) -> dict[str, float]:
        filters = list(group[0].filtered_resps)
        scores: dict[str, float] = {}
        for name in filters:
            found = self.task.process_results(group[0].doc, [i.filtered_resps[name] for i in group])
            for metric, value in found.items():
                scores |= flatten(metric if len(filters) == 1 else f"{metric}@{name}", value)
        if self.task.OUTPUT_TYPE != "multiple_choice":
            return scores
        logs = [instance.resps[0][0] for instance in group]
        return confidence.scores(self.task, group[0].doc, logs) | scores

    def unparsed(self, items: Sequence[Item]) -> list[str]:
        """The filters that found nothing in any answer of the last scoring."""
        instances = [instance for item in items for instance in self._instances.get(item.id, ())]
        names = dict.fromkeys(name for instance in instances for name in instance.filtered_resps)
        nothing = ("[invalid]", ["[invalid]"])  # lm-eval's fallback
        return [name for name in names if all(one.filtered_resps.get(name) in nothing for one in instances)]

    def aggregates(self) -> dict[str, Aggregate]:
        """lm-eval's aggregation of each metric that is not the plain mean of what could be computed."""
        found = self.task.aggregation()
        return {
            name: fn for name, fn in found.items() if fn.__name__ not in ("mean", "nanmean", "bypass_agg")
        }

    def higher_is_better(self) -> dict[str, bool]:
        """Which direction is better, as the YAML says."""
        return {name: bool(value) for name, value in self.task.higher_is_better().items()}


def _as_asked(item: Item, spec: TaskSpec) -> Item:
    """The item with what the spec says of generating in its requests."""
    obeys, end = bool(spec.generation), spec.reasoning_end
    return replace(
        item,
        requests=tuple(
            replace(one, configured=obeys, reasoning_end=end) if one.kind == "generate" else one
            for one in item.requests
        ),
    )


def item_ids(docs: Sequence[Any]) -> list[str]:
    """The hash of each document; the second and later copies of one are hashed with their count."""
    seen: dict[str, int] = {}
    ids = []
    for doc in docs:
        name = digest(_jsonable(doc))
        seen[name] = seen.get(name, 0) + 1
        ids.append(name if seen[name] == 1 else digest([name, seen[name]]))
    return ids


def request_of(instance: Any, repeat: int = 0) -> Request:
    """lm-eval's Instance as a Request; each repeat of a sampled one has a seed of its own."""
    if instance.request_type == "loglikelihood":
        context, continuation = instance.args
        return Request("loglikelihood", context, continuation)
    if instance.request_type == "loglikelihood_rolling":
        return Request("rolling", instance.args[0])
    context, options = instance.args[:2]
    return generate_request(context, options, seed=int(digest([context, repeat])[:8], 16))


def answer_of(response: Response) -> Any:
    """A Response as lm-eval's models give it."""
    if response.text is not None:
        return response.text
    if response.greedy is not None:
        return (response.logprob, response.greedy)
    return response.logprob


ROLLING = {"word_perplexity": "words", "byte_perplexity": "bytes"}


def flatten(metric: str, value: Any) -> dict[str, float]:
    """A metric's value of one document as columns: a pair becomes name#0, name#1.

    The pairs (log-likelihood, size) of rolling perplexity become rolling_nll, in nats, and words or bytes.
    """
    if value is None:
        return {}
    if metric in ROLLING:
        return {"rolling_nll": -float(value[0]), ROLLING[metric]: float(value[1])}
    if isinstance(value, tuple | list):
        parts = [flatten(f"{metric}#{i}", part) for i, part in enumerate(value)]
        return {name: number for part in parts for name, number in part.items()}
    if hasattr(value, "tolist"):
        return flatten(metric, value.tolist())
    return {metric: float(value)} if isinstance(value, int | float) else {metric: math.nan}


def unflatten(metric: str, scores: Mapping[str, float]) -> Any:
    """The value that `flatten` took apart: a number, or a tuple, however nested; whole numbers as int.

    None if it is absent or has a part that is not a number.
    """
    if metric in scores:
        value = scores[metric]
        return None if math.isnan(value) else int(value) if value.is_integer() else value
    start = f"{metric}#"
    places = {int(name[len(start) :].partition("#")[0]) for name in scores if name.startswith(start)}
    parts = tuple(unflatten(f"{start}{place}", scores) for place in sorted(places))
    return None if not parts or None in parts else parts


def _jsonable(value: Any) -> Any:
    return json.loads(json.dumps(texts(value), default=str))


def _strings(value: Any) -> Iterator[str]:
    """All text in a document."""
    if isinstance(value, str):
        yield value
        return
    inside = (
        value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    )
    for one in inside:
        yield from _strings(one)


def _fewshot_docs(task: ConfigurableTask) -> list:
    config = task.config
    split = task.fewshot_cfg.split
    if split is None or (split == config.test_split and task.fewshot_cfg.process_docs is config.process_docs):
        return []
    return _listed(task.fewshot_docs() or [])


def _listed(docs: Any) -> list:
    """The documents; of a Dataset all at once, which is much faster than one by one."""
    return docs.to_list() if hasattr(docs, "to_list") else list(docs)


def _meanings(
    task: ConfigurableTask, only: Sequence[str] = (), exclude: Sequence[str] = ()
) -> dict[str, Any]:
    """What the task's functions mean, by the keys of its file that hold them."""
    found: dict[str, Any] = {}
    for name, value in vars(task.config).items():
        if name in exclude or (only and name not in only) or name == "custom_dataset":
            continue
        if functions := _functions(value):
            found[name] = [meaning.digest(function) for function in functions]
    return found


def _outside(kind: type) -> list[str]:
    """What the code of a protocol from outside kick means; kick's own counts by the versions of its files."""
    return [] if kind.__module__.partition(".")[0] == "kick" else [meaning.digest(kind)]


def _functions(value: Any) -> list[Callable]:
    """The functions and classes in a value of a task's configuration, in order."""
    if isinstance(value, dict):
        return [f for part in value.values() for f in _functions(part)]
    if isinstance(value, list):
        return [f for part in value for f in _functions(part)]
    if is_dataclass(value) and not isinstance(value, type):
        return _functions(vars(value))
    return [value] if inspect.isfunction(value) or inspect.isclass(value) else []


def _unnamed(value: Any) -> Any:
    """A value of a task file without the names of its functions, which `_meanings` has."""
    if isinstance(value, FunctionName):
        return "!function"
    if isinstance(value, Mapping):
        return {key: _unnamed(inner) for key, inner in value.items()}
    return [_unnamed(inner) for inner in value] if isinstance(value, list) else value
