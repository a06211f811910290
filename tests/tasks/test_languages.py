"""XQuAD in seven languages: the same items in the same order, examples translated, every script scored."""

import json

import pytest

from kick import tasks
from kick.records import TaskSpec
from kick.tasks.index import own
from kick.tasks.languages import xquad

LANGUAGES = ("en", "de", "es", "ru", "zh", "tr", "hi")
ANSWERS = {"en": "bread", "de": "Brot", "es": "pan", "ru": "хлеб", "zh": "面包", "tr": "ekmek", "hi": "रोटी"}


def rows(language, count=9):
    """Rows of a language, each question naming its number."""
    return [
        {
            "id": f"id{at}",
            "context": f"{language} {at} {ANSWERS[language]}.",
            "question": f"{language} {at}？",
            "answers": {"text": [ANSWERS[language]], "answer_start": [0]},
        }
        for at in range(count)
    ]


def test_every_language_asks_the_same_items_in_the_same_order():
    orders = [[row["id"] for row in xquad(rows(language))] for language in LANGUAGES]
    assert all(order == orders[0] for order in orders)
    assert orders[0] != sorted(orders[0])
    assert [row["id"] for row in xquad(rows("en")[::-1])] == orders[0]  # whatever the file's order
    assert xquad(rows("zh"))[0]["question"].endswith("？")  # no second question mark


@pytest.mark.parametrize("language", LANGUAGES)
def test_examples_answer_their_questions_from_their_contexts(language):
    for book in ("closed", "open"):
        config = own()[f"kick_xquad_{language}_{book}"][1]
        shown = config["fewshot_config"]["samples"]
        assert len(shown) == config["num_fewshot"] == 2
        assert all(one["answer"] in one["context"] for one in shown)
        assert shown[1]["answer"] == ANSWERS[language]
        assert ("context" in config["doc_to_text"]) == (book == "open")


def test_a_mirror_is_asked_and_answers_of_each_script_are_scored(tmp_path):
    for language in ("de", "zh"):
        (tmp_path / f"xquad_{language}").mkdir()
        file = tmp_path / f"xquad_{language}" / "validation.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows(language)))
    found = tasks.load(["kick_xquad_de", "kick_xquad_zh_closed"], str(tmp_path))
    assert list(found) == ["kick_xquad_de_closed", "kick_xquad_de_open", "kick_xquad_zh_closed"]
    both = [found[f"kick_xquad_{one}_closed"].answered(TaskSpec("x", limit=4), []) for one in ("de", "zh")]
    assert [item.doc["id"] for item in both[0]] == [item.doc["id"] for item in both[1]]
    prompt = both[1][0].requests[0].context
    assert prompt.startswith("问题: 灯塔的看守人叫什么名字？\n答案: 埃米尔·桑德")
    score = found["kick_xquad_zh_closed"].task.process_results
    assert score(both[1][0].doc, [" 面包。"])["exact_match"] == 1
    assert score(both[1][0].doc, ["面"])["exact_match"] == 0
