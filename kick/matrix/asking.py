"""Way in which each model of a matrix is asked: chat template, end of thinking, generation configuration.

A task is one for all variants; what a model's files add to it (a checkpoint may bring its own) is added here,
so that it is part of the cell's key and checked before a model is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kick.matrix.schema import ChatKeys
from kick.matrix.served import ServedModel
from kick.matrix.servers import CHAT
from kick.matrix.yaml_marks import Path, Problem
from kick.records import ModelFacts, ModelSpec, TaskSpec, Variant, canonical

if TYPE_CHECKING:
    from kick.tasks import Task

Chat = bool | ChatKeys | None


@dataclass(frozen=True)
class Asking:
    """Changes that the files of models make to how tasks are asked.

    obeys: whether `generation_config: model`. chat: each task's `chat_template`.
    """

    obeys: bool
    chat: Mapping[str, Chat]
    facts: Mapping[ModelSpec, ModelFacts]
    tasks: Mapping[str, Task]

    def of(self, spec: TaskSpec, model: ModelSpec) -> TaskSpec:
        """The task as that model is asked it. What changes nothing is not written."""
        task, facts, chat = self.tasks[spec.name], self.facts[model], self.chat[spec.name]
        if not task.generates or task.needs_reference:
            return spec
        end = chat.reasoning_end if isinstance(chat, ChatKeys) else None
        if end is None:
            end = facts.reasoning_end if spec.chat_template else ""
        obeyed = canonical(facts.generation) if self.obeys and facts.generation else ""
        return replace(spec, generation=obeyed, reasoning_end=end)

    def problems(self, variants: Sequence[Variant], specs: Mapping[str, TaskSpec]) -> list[Problem]:
        """Problems of what cannot be asked: a missing template, an argument it does not read, a configuration
        that no backend obeys or that fidelity cannot follow."""
        found: dict[tuple[Path, str], Problem] = {}
        for model in dict.fromkeys(variant.model for variant in variants):
            told = [self._of_chat(spec, model) for spec in specs.values()]
            told += [self._of_generation(spec, model) for spec in specs.values()]
            found |= {(one.path, one.message): one for one in told if one is not None}
        return [*found.values(), *self._of_servers(variants, specs)]

    def _of_servers(self, variants: Sequence[Variant], specs: Mapping[str, TaskSpec]) -> list[Problem]:
        if not any(spec.chat_template for spec in specs.values()):
            return []
        return [
            Problem(
                ("chat_template",),
                f"{variant.name} is asked by {CHAT} completions, and its server makes the prompt of a "
                "conversation itself; expected: false",
            )
            for variant in variants
            if variant.endpoint and ServedModel.read(variant.endpoint).api == CHAT
        ]

    def _of_chat(self, spec: TaskSpec, model: ModelSpec) -> Problem | None:
        facts, chat = self.facts[model], self.chat[spec.name]
        if not spec.chat_template:
            return None
        if not facts.template:
            return Problem(("chat_template",), f"the tokenizer of {model.name!r} has no chat template")
        if facts.refused:
            return Problem(
                ("chat_template",), f"the template of {model.name!r} refuses a question: {facts.refused}"
            )
        for name in chat.arguments if isinstance(chat, ChatKeys) else ():
            if not re.search(rf"\b{re.escape(name)}\b", facts.template):
                return Problem(
                    ("chat_template",),
                    f"the template of {model.name!r} reads no argument {name!r}; expected: one that it reads",
                )
        return None

    def _of_generation(self, spec: TaskSpec, model: ModelSpec) -> Problem | None:
        facts, task = self.facts[model], self.tasks[spec.name]
        if not self.obeys:
            return None
        if task.generates and facts.searches:
            return Problem(
                ("generation_config",),
                f"the generation_config of {model.name!r} sets {', '.join(sorted(facts.searches))}, which no "
                "backend obeys; expected: generation_config: greedy",
            )
        if task.needs_reference and facts.generation:
            return Problem(
                ("generation_config",),
                f"{', '.join(sorted(facts.generation))} of {model.name!r} cannot be obeyed by {spec.name}, "
                "which reads the dense model's tokens in one pass; expected: generation_config: greedy",
            )
        return None
