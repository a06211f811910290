"""A small store with answers for a judge: two summaries and three conversations, dense and pruned."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kick import tasks
from kick.judge.endpoint import Settings
from kick.judge.results import JudgePass, judge_results
from kick.records import Cell, ModelSpec, Response, Result, Sample, Step, TaskSpec, Variant
from kick.store import Store
from kick.tasks import evaluate

MODEL = ModelSpec("smoke", digest="d" * 64, tokenizer="t" * 64)
DENSE = Variant("dense", MODEL)
PRUNED = Variant("wanda-0.5", MODEL, (Step("wanda", {"sparsity": 0.5}),))
SUMMARY, TURNS = "kick_mini_summary", "kick_mt_bench"
QUESTIONS = [
    (1, "writing", ["Write a line about rain.", "Now one about snow."], None),
    (2, "math", ["What is 3 + 4?", "And doubled?"], ["3 + 4 is 7.", "Doubled it is 14."]),
    (3, "coding", ["Write a loop over a list.", "Now backwards."], None),
]


@dataclass
class Stored:
    """The store, the mirror that its questions come from, and which cell is which."""

    store: Store
    mirror: str
    keys: dict[tuple[str, str], str]

    def key(self, task: str, variant: Variant = PRUNED) -> str:
        return self.keys[task, variant.name]

    def columns(self, task: str, variant: Variant = PRUNED) -> dict[str, list[float]]:
        samples = self.store.samples(self.key(task, variant))
        names = [name for name in samples[0].scores if name.startswith("judge")]
        return {name: [sample.scores[name] for sample in samples] for name in names}

    def judge(self, server, **more) -> JudgePass:
        given = {"backoff": 0.01, "timeout": 10.0, "attempts": 2, "max_tokens": 50, **more}
        return judge_results(self.store, Settings("judge-1", server.url, **given), data_root=self.mirror)

    def files(self) -> dict[str, bytes]:
        """Every file of the store with its content, replies of the judge left out."""
        root = Path(self.store.root)
        paths = [path for path in root.rglob("*") if path.is_file() and ".judge" not in path.parts]
        return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def mirror(root: Path) -> str:
    """A data root with the questions."""
    rows = [{"question_id": n, "category": kind, "turns": turns} for n, kind, turns, _ in QUESTIONS]
    answers = [
        {"question_id": n, "choices": [{"index": 0, "turns": given}]} for n, _, _, given in QUESTIONS if given
    ]
    for name, lines in (("mt_bench", rows), ("mt_bench_reference", answers)):
        (root / name).mkdir(parents=True)
        (root / name / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(root)


def text_of(variant: Variant, place: int, turn: int) -> str:
    """The dense model's answers are good; of the pruned one's the first item's, in its first turn."""
    good = variant.dense or (place == 0 and turn == 0)
    return f"a {'good' if good else 'poor'} answer, number {place} in turn {turn}"


def fill(
    root: Path,
    names: tuple[str, ...] = (SUMMARY, TURNS),
    text: Callable[[Variant, int, int], str] = text_of,
    variants: tuple[Variant, ...] = (DENSE, PRUNED),
) -> Stored:
    """The store, under root/results."""
    data = mirror(root / "mirror")
    store, keys = Store(root / "results"), {}
    for name, task in tasks.load(names, data).items():
        spec = TaskSpec(name, task.digest, task.scoring, limit=2 if name == SUMMARY else None)
        for variant in variants:
            cell = Cell(variant, spec)
            samples = [
                _sample(variant, place, item, 2 if name == TURNS else 1, text)
                for place, item in enumerate(task.answered(spec, ()))
            ]
            scores = evaluate.summarise(task, samples)
            store.put(Result(cell.key, "m", cell, scores, provenance={"time": "t"}), samples)
            keys[name, variant.name] = cell.key
    return Stored(store, data, keys)


def _sample(variant: Variant, place: int, item, turns: int, text) -> Sample:
    answers = [
        Response(text=text(variant, place, turn), tokens=(1, 2, place), count=3) for turn in range(turns)
    ]
    return item.sample(answers, {"length": 6.0 + place, "copied": float("nan")})
