"""Whether a model answers a question or answers one wording of it: the same items under several prompts.

The prompts are in the task file, fixed before any result:

    metadata:
      kick:
        protocol: prompts
        examples: [{question: "...", choices: [...], answer: 1}, ...]
        forms:
          - {item: "Question: {question}\\nAnswer:"}
          - {item: "{question}\\n{choices}\\nA:", choice: "{label} {text}", labels: ABC, order: [2, 0, 1]}

A form has an `item` with {question} and perhaps {choices}; an `instruction` in front of all; `choice` and
`between`, which make {choices}; `labels`, which are then the answers in place of the choices' texts; the
`order` of the choices; the order of the worked examples (`shots`); and what is between them (`apart`).

`influence` is that of ClaPS (Zhou, Wan, Vulic, Korhonen, EMNLP 2023 Findings, arXiv 2310.12774): what a
word in front of the prompt does to the log-probability of the right choice, mean over a few questions. Their
published code takes the softmax twice, which flattens it; ours does once. They search for prompts by it; here
it says whether compression keeps which words matter, as Spearman's correlation with dense's influences
(`kick.analysis.wordings`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kick.errors import KickError
from kick.records import Request, Response, Sample, TaskSpec
from kick.tasks.data import read_rows, tasks_folder
from kick.tasks.lm_eval_task import HarnessTask
from kick.tasks.protocol import protocol
from kick.tasks.task import Item

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase

VERSION = 1
_PLACE = re.compile(r"\{(question|choices|label|text)\}")


@dataclass(frozen=True)
class Wording:
    """One way of asking; see the module."""

    item: str
    instruction: str = ""
    choice: str = "{text}"
    between: str = "\n"
    labels: str = ""
    order: tuple[int, ...] = ()
    shots: tuple[int, ...] = ()
    apart: str = "\n\n"

    @classmethod
    def of(cls, written: Any, examples: int) -> Wording:
        """The form as a task file writes it. Raises KickError for keys and places that it cannot have."""
        where = "metadata.kick: forms"
        if not isinstance(written, Mapping) or "{question}" not in str(written.get("item", "")):
            raise KickError(
                f"{where}: got {written!r}; expected: a mapping with an item that has {{question}}"
            )
        unknown = set(written) - set(cls.__dataclass_fields__)
        if unknown:
            known = ", ".join(cls.__dataclass_fields__)
            raise KickError(f"{where}: unknown key {sorted(unknown)[0]!r}; expected: {known}")
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in written.items()
        }
        found = cls(**values)
        if found.order and sorted(found.order) != list(range(len(found.order))):
            raise KickError(f"{where}: order: got {list(found.order)}; expected: each place once, from 0")
        if not set(found.shots) <= set(range(examples)):
            raise KickError(f"{where}: shots: got {list(found.shots)}; there are {examples} examples, from 0")
        return found

    def asked(self, doc: Mapping[str, Any], examples: Sequence[Mapping[str, Any]]) -> tuple[str, list[str]]:
        """The prompt, and what continues it for each choice, in the document's order."""
        shown = [examples[number] for number in (self.shots or range(len(examples)))]
        solved = [f"{self._item(one)} {self._answers(one)[one['answer']]}" for one in shown]
        return f"{self.instruction}{self.apart.join([*solved, self._item(doc)])}", [
            f" {answer}" for answer in self._answers(doc)
        ]

    def _places(self, doc: Mapping[str, Any]) -> Sequence[int]:
        """The numbers of the choices, in the order in which they are shown."""
        count = len(doc["choices"])
        if (self.order and len(self.order) != count) or (self.labels and len(self.labels) < count):
            raise KickError(f"a question has {count} choices, and a form an order or labels of other numbers")
        return self.order or range(count)

    def _answers(self, doc: Mapping[str, Any]) -> list[str]:
        places = list(self._places(doc))
        if not self.labels:
            return list(doc["choices"])
        return [self.labels[places.index(number)] for number in range(len(places))]

    def _item(self, doc: Mapping[str, Any]) -> str:
        listed = [
            _filled(self.choice, label=self.labels[place] if self.labels else "", text=doc["choices"][number])
            for place, number in enumerate(self._places(doc))
        ]
        return _filled(self.item, question=doc["question"], choices=self.between.join(listed))


def _filled(form: str, **values: str) -> str:
    """The form with its places filled, whatever is written in the values."""
    return _PLACE.sub(lambda found: values.get(found[1], found[0]), form)


class Worded(HarnessTask):
    """A task that makes its own prompts: as its file says, with no other examples and no template."""

    def check(self, spec: TaskSpec) -> None:
        """Raises KickError for examples or a chat template, which its prompts have no place for."""
        super().check(spec)
        if spec.shots:
            raise KickError(f"task {self.name} has examples of its own; got shots: {spec.shots}, expected: 0")
        if spec.chat_template:
            raise KickError(f"task {self.name} has prompts of its own; expected: chat_template: false for it")


@protocol("prompts", title="items under several prompts", keys=("forms", "examples"), tokens=800)
class Prompts(Worded):
    """A task whose documents have a `question`, `choices` and the right one's place as `answer`."""

    def __init__(self, name: str, task: Any, config: Mapping[str, Any]):
        super().__init__(name, task, config)
        self.examples = list(self.options.get("examples") or ())
        self.forms = [Wording.of(one, len(self.examples)) for one in self.options.get("forms") or ()]
        if len(self.forms) < 2:
            raise KickError(
                f"metadata.kick: forms: got {len(self.forms)}; expected: 2 or more ways of asking"
            )

    def items(
        self,
        spec: TaskSpec,
        tokenizer: PreTrainedTokenizerBase,
        reference: Mapping[str, Sample] | None = None,
    ) -> list[Item]:
        """The items, each with the requests of all its prompts, prompt by prompt."""
        return [self._worded(item) for item in super().items(spec, tokenizer)]

    def _worded(self, item: Item) -> Item:
        requests = []
        for form in self.forms:
            context, answers = form.asked(item.doc, self.examples)
            requests += [Request("loglikelihood", context, answer) for answer in answers]
        return replace(item, requests=tuple(requests))

    def score(self, items: Sequence[Item], responses: Sequence[Sequence[Response]]) -> list[dict[str, float]]:
        """What `process_results` makes of the log-probabilities, a list per prompt."""
        found = []
        for item, answers in zip(items, responses, strict=True):
            logs = [math.nan if one.logprob is None else one.logprob for one in answers]
            size = len(item.doc["choices"])
            parts = [logs[start : start + size] for start in range(0, len(logs), size)]
            found.append(self.task.process_results(item.doc, parts))
        return found


def worded(doc: Mapping[str, Any], results: Sequence[Sequence[float]]) -> dict[str, float]:
    """acc: the share of prompts with the right choice; acc@p1, acc@p2, ...: each prompt's; acc_every: right
    under all; same_choice: the share of pairs of prompts with the same choice.

    `results`: the choices' log-probabilities under each prompt. NaN if one is not known.
    """
    count = len(results)
    names = ("acc", "acc_every", "same_choice", *(f"acc@p{number}" for number in range(1, count + 1)))
    if any(math.isnan(log) for logs in results for log in logs):
        return dict.fromkeys(names, math.nan)
    chosen = [max(range(len(logs)), key=logs.__getitem__) for logs in results]
    right = [float(one == doc["answer"]) for one in chosen]
    pairs = [one == other for place, one in enumerate(chosen) for other in chosen[:place]]
    values = (sum(right) / count, min(right), sum(pairs) / len(pairs), *right)
    return dict(zip(names, values, strict=True))


@protocol("influence", title="words in front of a prompt", keys=("item",), tokens=1500)
class Influence(Worded):
    """A task whose documents have a `word` and the `questions` that it is put in front of."""

    def __init__(self, name: str, task: Any, config: Mapping[str, Any]):
        super().__init__(name, task, config)
        self.generates = False
        self.form = Wording.of({"item": self.options.get("item", "")}, 0)

    def items(
        self,
        spec: TaskSpec,
        tokenizer: PreTrainedTokenizerBase,
        reference: Mapping[str, Sample] | None = None,
    ) -> list[Item]:
        """Each word with its requests: every question without it, then with it."""
        found = super().items(replace(spec, generation="", reasoning_end=""), tokenizer)
        return [replace(item, requests=tuple(self._fronted(item.doc))) for item in found]

    def _fronted(self, doc: Mapping[str, Any]) -> list[Request]:
        asked = [self.form.asked(question, ()) for question in doc["questions"]]
        return [
            Request("loglikelihood", f"{front}{context}", answer)
            for front in ("", f"{doc['word']} ")
            for context, answers in asked
            for answer in answers
        ]

    def score(self, items: Sequence[Item], responses: Sequence[Sequence[Response]]) -> list[dict[str, float]]:
        """influence, in nats; NaN if a log-probability is not known."""
        return [
            self.task.process_results(item.doc, [one.logprob for one in answers])
            for item, answers in zip(items, responses, strict=True)
        ]


def influenced(doc: Mapping[str, Any], results: Sequence[float | None]) -> dict[str, float]:
    """influence: the reward with the word less that without; moved: its distance from 0.

    `results`: log-probabilities of all choices of all questions without the word, then with it.
    """
    logs = [math.nan if one is None else one for one in results]
    half = len(logs) // 2
    bare, fronted = (reward(part, doc["questions"]) for part in (logs[:half], logs[half:]))
    return {"influence": fronted - bare, "moved": abs(fronted - bare)}


def reward(logs: Sequence[float], questions: Sequence[Mapping[str, Any]]) -> float:
    """The mean log-probability, among its choices, of each question's right one, in nats."""
    total, start = 0.0, 0
    for question in questions:
        own = logs[start : start + len(question["choices"])]
        start += len(own)
        highest = max(own)
        total += own[question["answer"]] - highest - math.log(sum(math.exp(log - highest) for log in own))
    return total / len(questions)


WORDS = (
    *("please", "now", "then", "yes", "no", "maybe", "always", "never"),
    *("good", "bad", "true", "false", "right", "wrong", "best", "worst"),
    *("carefully", "quickly", "slowly", "briefly", "exactly", "roughly", "clearly", "simply"),
    *("think", "answer", "choose", "explain", "guess", "know", "remember", "read"),
    *("teacher", "expert", "child", "doctor", "friend", "student", "king", "reader"),
    *("water", "house", "tree", "music", "market", "river", "paper", "window"),
    *("one", "two", "ten", "hundred", "first", "last", "half", "zero"),
    *("the", "of", "and", "but", "because", "!", "?", "..."),
)
QUESTIONS = 16


def words(**_: Any) -> datasets.DatasetDict:
    """64 words, each with the same 16 questions of KICK-Mini, two of each subject, as the test split."""
    import datasets

    rows = read_rows(tasks_folder() / "kick_mini" / "data" / "mcq.jsonl")[:QUESTIONS]
    questions = [{key: row[key] for key in ("question", "choices", "answer")} for row in rows]
    docs = [{"word": word, "questions": questions} for word in WORDS]
    return datasets.DatasetDict(test=datasets.Dataset.from_list(docs))
