"""A text equals itself in every script, and what a rule for English cannot see is missing, not 0.

The right values: 1 for a text with itself, counts by hand, and rouge-score's own numbers for English.
"""

from __future__ import annotations

import math

import pytest
from rouge_score.rouge_scorer import RougeScorer

from kick.tasks import answers, scoring, text
from kick.tasks.scripts import pieces, split, tokens

TEXTS = {
    "Russian": "Столица Франции — город Париж, а река называется Сена.",
    "Greek": "Η Αθήνα είναι η πρωτεύουσα της Ελλάδας.",
    "Arabic": "القاهرة هي عاصمة مصر، وتقع على نهر النيل.",
    "Hindi": "दिल्ली भारत की राजधानी है।",
    "Chinese": "北京是中华人民共和国的首都。",
    "Japanese": "東京は日本の首都です。",
    "Thai": "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย",
    "Korean": "서울은 대한민국의 수도이다.",
    "French": "Le café est situé près de l'hôtel de Genève.",
    "English": "The quick brown foxes were jumping over the lazy dogs.",
}


@pytest.mark.parametrize("language", sorted(TEXTS))
def test_a_text_is_wholly_like_itself(language):
    said = TEXTS[language]
    assert text.rouge(said, said) == {"rouge1": 1.0, "rouge2": 1.0, "rougeL": 1.0}
    assert text.exact_match(said, [said])
    assert text.token_f1(said, [said]) == 1.0
    assert text.contains(f"{said} {TEXTS['English']}", [said])
    assert text.copied_ngrams(said, said, 3) == 1.0


@pytest.mark.parametrize("language", sorted(set(TEXTS) - {"English"}))
def test_another_text_of_the_script_is_not(language):
    said, other = TEXTS[language], TEXTS["English"]
    assert text.rouge(said, other)["rouge1"] == text.rouge(other, said)["rouge1"] == 0.0
    assert not text.exact_match(said, [said[: len(said) // 2]])


@pytest.mark.parametrize(
    ("said", "gold"),
    [
        ("答案是北京。", "北京"),
        ("Ответ: «Париж».", "Париж"),
        ("النيل، القاهرة", "القاهرة"),
        ("คือกรุงเทพ", "กรุงเทพ"),
    ],
)
def test_an_answer_is_found_beside_punctuation_of_its_own_script(said, gold):
    assert text.contains(said, [gold])
    assert not text.exact_match(said, [gold])
    assert text.exact_match(f"{gold}。", [gold])


@pytest.mark.parametrize(
    ("reference", "missing"), [("", 3), ("…", 3), ("!?", 3), ("Париж", 1), ("Paris", 1), ("京", 1)]
)
def test_a_reference_without_words_for_the_measure_gives_none(reference, missing):
    found = text.rouge("Paris is a city", reference)
    assert sum(math.isnan(value) for value in found.values()) == missing
    assert math.isnan(found["rouge2"])


@pytest.mark.parametrize(
    "pair",
    [
        ("The cats sat on the mats.", "A cat is sitting on a mat"),
        ("running_fast 3.5 times", "It ran 3 times, fast"),
        ("", "one two"),
        ("x-y z", "x y-z"),
    ],
)
def test_english_is_what_rouge_score_says(pair):
    theirs = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True).score(pair[1], pair[0])
    assert text.rouge(*pair) == {name: value.fmeasure for name, value in theirs.items()}
    assert tokens(pair[0]) == pair[0].lower().replace("_", " ").replace(".", " ").replace("-", " ").split()


def test_an_accent_does_not_part_a_word():
    assert tokens("Le café d'été, naïve") == ["le", "café", "d", "été", "naïve"]
    assert tokens("cafe\u0301") == ["café"]  # composed or not
    assert tokens("की राजधानी") == ["की", "राजधानी"]


def test_characters_are_words_where_there_are_no_blanks():
    assert pieces("東京タワー3階") == ["東", "京", "タ", "ワ", "ー", "3", "階"]
    assert pieces("ที่นี่")[0] == "ที่"  # marks stay with their letter
    assert split("GPT4模型 good") == ["GPT4", "模", "型", "good"]
    assert scoring.summary({"summary": "北京", "article": "x"}, ["北京是首都"])["length"] == 5.0
    assert text.is_loop("很好" * 8)
    assert not text.is_loop("北京是中华人民共和国的首都")


def test_a_refusal_in_another_script_is_not_judged():
    assert math.isnan(answers.instruction({}, ["К сожалению, я не могу."])["refusal"])
    assert answers.instruction({}, ["I cannot."])["refusal"] == 1.0
    assert answers.instruction({}, ["12"])["refusal"] == 0.0
