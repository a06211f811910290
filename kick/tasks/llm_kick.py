"""The documents of LLM-KICK on real data: rows of hub data sets brought to the columns that the tasks ask.

Each is a `process_docs` function of a task file. Nothing here scores: a change of scoring leaves stored
answers valid, a change here asks anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import datasets
from lm_eval.api.samplers import ContextSampler

from kick.errors import KickError
from kick.tasks import data, fidelity

SMALL, MID = 450, 800  # words of an article: the bounds of the three buckets of stories
FAST_PREFIXES = 128

Row = Mapping[str, Any]


def _dataset(rows: Iterable[dict[str, Any]]) -> datasets.Dataset:
    return datasets.Dataset.from_list(list(rows))


def _rows(docs: Iterable[Row]) -> Iterable[Row]:
    """The rows; of a Dataset all at once, which is much faster than one by one."""
    return docs.to_list() if isinstance(docs, datasets.Dataset) else docs


# ---------------------------------------------------------------------------------------- facts


def nq_open(docs: Iterable[Row]) -> datasets.Dataset:
    """NQ-open: question, answer (the first of the accepted ones), aliases (the others)."""
    return _dataset(_fact(doc["question"], doc["answer"]) for doc in _rows(docs))


def trivia_qa(docs: Iterable[Row]) -> datasets.Dataset:
    """TriviaQA without its contexts: question, answer, aliases."""
    return _dataset(
        _fact(doc["question"], [doc["answer"]["value"], *doc["answer"]["aliases"]]) for doc in _rows(docs)
    )


def freebase_qa(docs: Iterable[Row]) -> datasets.Dataset:
    """FreebaseQA: question, answer and aliases, which are the names in all its parses."""
    return _dataset(_fact(doc["RawQuestion"], list(_names(doc["Parses"]))) for doc in _rows(docs))


def _fact(question: str, answers: Sequence[str]) -> dict[str, Any]:
    first, *others = dict.fromkeys(answers)
    question = question.strip()
    mark = "" if question.endswith("?") else "?"
    return {"question": f"{question}{mark}", "answer": first, "aliases": others}


def _names(value: Any) -> Iterator[str]:
    """All that is under AnswersName, however the reader nests lists and mappings."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner) if key == "AnswersName" else _names(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _names(inner)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


# ---------------------------------------------------------------------------------------- MMLU


def mmlu_questions(docs: datasets.Dataset) -> datasets.Dataset:
    """The questions to ask, as MMLU has them."""
    return _where(docs, example=False)


def mmlu_examples(docs: datasets.Dataset) -> datasets.Dataset:
    """The worked examples: five a subject, in MMLU's order."""
    return _where(docs, example=True)


def _where(docs: datasets.Dataset, example: bool) -> datasets.Dataset:
    places = [i for i, value in enumerate(docs["example"][:]) if value == example]
    return docs.select(places).remove_columns("example")


def mmlu_text(doc: Row) -> str:
    """A question with its labelled choices; in Python, for a template is compiled anew for each of them."""
    labelled = (f"{label}. {choice}" for label, choice in zip("ABCD", doc["choices"], strict=True))
    return "\n".join([doc["question"].strip(), *labelled, "Answer:"])


class SubjectSampler(ContextSampler):
    """Worked examples of the question's own subject, the first n in their order.

    lm-eval tells a sampler which question it is for only where examples and questions come from one split:
    hence the split that holds both.
    """

    def sample(
        self,
        n: int,
        eval_doc: Row | None = None,
        df: Sequence[Row] | None = None,
        **_: Any,
    ) -> list[Row]:
        """The first `n` examples of `eval_doc`'s subject. Raises KickError if there are fewer."""
        if not hasattr(self, "_by_subject"):
            self._by_subject: dict[str, list[Row]] = {}
            for row in self.df:
                self._by_subject.setdefault(row["subject"], []).append(row)
        subject = eval_doc["subject"] if eval_doc else ""
        found = self._by_subject.get(subject, [])
        if len(found) < n:
            raise KickError(f"MMLU has {len(found)} examples of {subject!r}, {n} shots were asked for")
        return found[:n]


# ---------------------------------------------------------------------------------------- reading


def squad(docs: Iterable[Row]) -> datasets.Dataset:
    """SQuAD-form rows: id, context, question, answer, aliases, and where the answer starts in the context."""
    return _dataset(
        {
            "id": doc["id"],
            "context": doc["context"],
            **_fact(doc["question"], doc["answers"]["text"]),
            "start": doc["answers"]["answer_start"][0],
        }
        for doc in _rows(docs)
    )


def trivia_qa_reading(docs: Iterable[Row]) -> datasets.Dataset:
    """TriviaQA rc: the first wiki page, then the first web result; `start` is -1, as nothing marks it."""
    return _dataset(
        {
            "id": doc["question_id"],
            "context": "\n\n".join(
                [
                    *doc["entity_pages"]["wiki_context"][:1],
                    *doc["search_results"]["search_context"][:1],
                ]
            ),
            **_fact(doc["question"], [doc["answer"]["value"], *doc["answer"]["aliases"]]),
            "start": -1,
        }
        for doc in _rows(docs)
    )


# ---------------------------------------------------------------------------------------- stories


def bucket(row: Row) -> str:
    """small, mid or large, by the words of the article."""
    words = len(row["article"].split())
    return "small" if words < SMALL else "mid" if words < MID else "large"


def stories(docs: Iterable[Row]) -> datasets.Dataset:
    """CNN/DailyMail: article without its highlights, summary (the highlights), bucket, id."""
    return _dataset(
        {
            "id": doc["id"],
            "article": without_highlights(doc["article"]),
            "summary": doc["highlights"],
            "bucket": bucket(doc),
        }
        for doc in _rows(docs)
    )


def without_highlights(article: str) -> str:
    """The story itself: in the raw form of the set its highlights follow, each after "@highlight"."""
    return article.split("@highlight")[0].strip()


# ---------------------------------------------------------------------------------------- instructions


def questions(
    path: str, references: str, root: str | None = None, take: int | None = None, **_: Any
) -> datasets.DatasetDict:
    """The questions of a FastChat benchmark with the reference answers that it has, as a test split.

    Columns: id, category, turns, reference (a list, empty if there is none). Its questions are in a split
    that is called train, though nothing is trained on it. `references` names the data set of the answers.
    """
    both = [
        data.load(one, ["train"], root=root, order={"split": "train", "by": by})["train"]
        for one, by in ((path, "category"), (references, None))
    ]
    answers = {row["question_id"]: row["choices"][0]["turns"] for row in both[1]}
    rows = [
        {
            "id": row["question_id"],
            "category": row["category"],
            "turns": row["turns"],
            "reference": answers.get(row["question_id"], []),
        }
        for row in both[0]
    ]
    return datasets.DatasetDict(test=_dataset(rows[:take]))


# ---------------------------------------------------------------------------------------- running text


def joined(docs: Iterable[Row]) -> datasets.Dataset:
    """All rows as one text, joined by two newlines, as the papers do it."""
    return _dataset([{"text": "\n\n".join(doc["text"] for doc in _rows(docs))}])


def prefixes(docs: Iterable[Row]) -> datasets.Dataset:
    """The starts of the paragraphs of WikiText pages: the first one of each page, then the second ones."""
    return fidelity.prefixes([_page(doc["page"]) for doc in _rows(docs)])


def prefixes_fast(docs: Iterable[Row]) -> datasets.Dataset:
    """The first of them: two or three a page."""
    found = prefixes(docs)
    return found.select(range(min(FAST_PREFIXES, len(found))))


def _page(text: str) -> dict[str, str]:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    heads = [line.strip("= ") for line in lines if line.startswith("=")]
    paragraphs = [line for line in lines if not line.startswith("=")]
    return {"id": heads[0] if heads else "", "text": "\n\n".join(paragraphs)}
