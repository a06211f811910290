"""Text measures against values worked out by hand, and ROUGE against the rouge-score package."""

import math
import random

import pytest
from rouge_score.rouge_scorer import RougeScorer

from kick.tasks import scoring, text


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("The Sun", ["sun"]),
        ("An  apple,\ta day!", ["apple", "day"]),
        ("“J. K. Rowling’s”", ["j", "k", "rowling", "s"]),
        ("twenty-four", ["twenty", "four"]),
        ("U.S.A.", ["u", "s"]),  # the last letter is taken for the article: the same on both sides
        ("under_score", ["under", "score"]),
        ("Ω and CO₂", ["ω", "and", "co₂"]),
        ("?!…", []),
        ("", []),
    ],
)
def test_words(said, expected):
    assert text.words(said) == expected


@pytest.mark.parametrize(
    ("said", "golds", "expected"),
    [
        (" The Nile.", ["Nile"], True),
        ("the river nile", ["Nile", "River Nile"], True),
        ("Niles", ["Nile"], False),
        ("Nile river in Egypt", ["Nile"], False),
        ("", ["Nile"], False),
        ("the", ["a"], False),  # nothing is left on either side: that is no match
        ("...", [""], False),
        ("", [""], False),
    ],
)
def test_exact_match(said, golds, expected):
    assert text.exact_match(said, golds) is expected


def test_an_empty_answer_is_wrong_by_every_measure():
    """The published code counted the empty string as contained in every gold answer."""
    for said in ("", "  \n", "the", "?"):
        scores = scoring.short_answer({"answer": "the", "aliases": ["?", "x"]}, [said])
        assert scores == {"exact_match": 0.0, "f1": 0.0, "contains": 0.0, "empty": 1.0}


@pytest.mark.parametrize(
    ("said", "golds", "expected"),
    [
        ("it is on the river nile", ["Nile"], True),
        ("Vienna is fine", ["nna is"], False),  # no match across word borders, as removing blanks would give
        ("the carpet", ["car"], False),
        ("no plan, no US flag", ["us"], True),
        ("one hundred years", ["a hundred"], True),
        ("New\nYork City", ["new york"], True),
        ("York New", ["New York"], False),
        ("", [""], False),
        ("anything", [""], False),
        ("anything", [], False),
    ],
)
def test_contains_on_word_borders(said, golds, expected):
    assert text.contains(said, golds) is expected


def test_where_an_answer_stands():
    said = "Not gold: iron, said the smith, iron!"
    assert text.contains(said, ["iron"], where=True) == 2
    assert text.contains(said, ["smith", "gold"], where=True) == 1
    assert text.contains(said, ["tin"], where=True) is None
    assert text.contains("iron", ["iron"], where=True) == 0  # a place, and not a falsehood


def test_token_f1_by_hand():
    # said: mount everest in nepal (4), gold: everest (1): precision 1/4, recall 1
    assert text.token_f1("Mount Everest in Nepal", ["Everest"]) == pytest.approx(2 * 0.25 / 1.25)
    # the best of the golds counts: 2 of 4 and 2 of 2
    assert text.token_f1("Mount Everest in Nepal", ["Everest", "Mount Everest"]) == pytest.approx(2 / 3)
    # words count as often as they stand: tom tom club against tom: 1/3, 1
    assert text.token_f1("tom tom club", ["tom"]) == pytest.approx(0.5)
    assert text.token_f1("tom tom", ["tom tom tom"]) == pytest.approx(2 * 1 * (2 / 3) / (1 + 2 / 3))
    assert text.token_f1("left", ["right"]) == 0.0
    assert text.token_f1("", ["right"]) == 0.0
    assert text.token_f1("the", ["the"]) == 0.0


def test_copied_ngrams_by_hand():
    source = "A cat sat on the mat and the cat slept."
    # without articles: cat sat on mat and cat slept; said: cat sat on mat today -> 2 four-grams, 1 copied
    assert text.copied_ngrams("The cat sat on the mat today", source, 4) == 0.5
    assert text.copied_ngrams("cat sat", source, 2) == 1.0
    assert text.copied_ngrams("dog ran", source, 2) == 0.0
    assert math.isnan(text.copied_ngrams("cat sat on", source, 4))
    # a gram that stands twice in the answer counts twice
    assert text.copied_ngrams("cat sat cat sat", source, 2) == pytest.approx(2 / 3)


def test_distinct_by_hand():
    assert text.distinct("go go gadget go") == 0.5
    assert text.distinct("one two one two", 2) == pytest.approx(2 / 3)
    assert math.isnan(text.distinct("one", 2))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("no " * 12, True),
        ("no " * 11, False),
        ("ha ha ha ha", False),
        ("it is red " * 4, True),
        ("it is red " * 3, False),
        ("first this, then " + "go on and on " * 4, True),
        ("go on and on " * 4 + "until the end", False),
        (" ".join(map(str, range(20))) + " " + " ".join(map(str, range(20))), False),
        ((" ".join(map(str, range(20))) + " ") * 4, True),
        ((" ".join(map(str, range(21))) + " ") * 4, False),  # longer than any phrase that is looked for
        ("", False),
    ],
)
def test_loops(said, expected):
    assert text.is_loop(said) is expected


def rouge_1_by_hand(said, reference):
    common = sum(min(said.count(word), reference.count(word)) for word in set(said))
    return 2 * common / (len(said) + len(reference))


def longest_common(one, other):
    """Length of the longest common subsequence, by the plain recurrence."""
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def test_rouge_by_hand_and_by_the_package():
    found = text.rouge("police killed the gunman", "the gunman killed police")
    assert found["rouge1"] == 1.0
    assert found["rouge2"] == pytest.approx(1 / 3)  # of three bigrams each, only "the gunman"
    assert found["rougeL"] == 0.5
    draw = random.Random(5)
    words = ["sun", "moon", "star", "rain", "wind"]  # no word that the stemmer would change
    for _ in range(20):
        said, reference = (draw.choices(words, k=draw.randint(1, 12)) for _ in range(2))
        found = text.rouge(" ".join(said), " ".join(reference))
        assert found["rouge1"] == pytest.approx(rouge_1_by_hand(said, reference))
        common = longest_common(said, reference)
        assert found["rougeL"] == pytest.approx(2 * common / (len(said) + len(reference)))
    one, other = "The cats were running home.", "A cat runs to its homes, running"
    package = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True).score(other, one)
    assert text.rouge(one, other) == {name: score.fmeasure for name, score in package.items()}
    assert text.rouge("", other) == {"rouge1": 0.0, "rouge2": 0.0, "rougeL": 0.0}


CONFLICT = {
    "context_answer": "turnips",
    "context_aliases": ["turnip"],
    "memory_answer": "grapes",
    "memory_aliases": ["grape"],
}


@pytest.mark.parametrize(
    ("said", "side"),
    [
        (" Turnips.", "from_context"),
        ("grapes", "from_memory"),
        ("Grapes, but the passage says turnips", "from_memory"),
        ("turnips, not grapes", "from_context"),
        ("barley", "from_neither"),
        ("grapeshot", "from_neither"),
        ("", "from_neither"),
    ],
)
def test_passage_against_memory(said, side):
    scores = scoring.conflict(CONFLICT, [said])
    sides = ("from_context", "from_memory", "from_neither")
    assert {name for name in sides if scores[name]} == {side}
    assert sum(scores[name] for name in sides) == 1
    assert scores["empty"] == float(said == "")


def test_summary_scores():
    doc = {"article": "The old mill by the river burned down on Friday night.", "summary": "Mill burns down."}
    scores = scoring.summary(doc, ["old mill by the river burned"])
    assert scores["length"] == 6
    assert scores["copied"] == 1.0
    assert scores["loop"] == scores["empty"] == 0
    assert scores["rouge1"] == pytest.approx(2 * 2 / (6 + 3))  # mill, and burned with burns by the stemmer
    assert math.isnan(scoring.summary(doc, [""])["copied"])


def test_the_mean_of_what_could_be_computed():
    assert scoring.nanmean([1.0, math.nan, 0.0]) == 0.5
    assert math.isnan(scoring.nanmean([math.nan]))
    assert math.isnan(scoring.nanmean([]))
