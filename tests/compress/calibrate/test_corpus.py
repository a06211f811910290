"""Calibration sequences: the number and length asked for, seeded, from where they should come."""

import json
from itertools import pairwise

import pytest
import torch

from kick.compress.calibrate.corpus import CORPORA, digest, sequences, windows
from kick.errors import KickError
from kick.model import load, resolve
from kick.records import CalibrationSpec


@pytest.fixture(scope="module")
def tokenizer():
    return load(resolve("smoke"))[1]


def test_shapes_and_seed(tokenizer):
    spec = CalibrationSpec("kick_mini_calibration", sequences=5, length=32, seed=3)
    found = sequences(spec, tokenizer)
    assert [tuple(ids.shape) for ids in found] == [(1, 32)] * 5
    assert all(torch.equal(a, b) for a, b in zip(found, sequences(spec, tokenizer), strict=True))
    other = sequences(CalibrationSpec("kick_mini_calibration", 5, 32, seed=4), tokenizer)
    assert not all(torch.equal(a, b) for a, b in zip(found, other, strict=True))


def test_windows_do_not_overlap_while_they_fit():
    starts = sorted(windows(1000, 100, 9, seed=1))
    assert all(b - a >= 100 for a, b in pairwise(starts))
    assert len(windows(1000, 100, 25, seed=1)) == 25
    assert windows(100, 100, 3, seed=1) == [0, 0, 0]


def test_local_mirror(tmp_path, tokenizer):
    folder = tmp_path / "wikitext2"
    folder.mkdir()
    rows = [{"text": f" the great river of the {n} th town \n"} for n in range(40)]
    (folder / "validation.jsonl").write_text("\n".join(map(json.dumps, rows)))
    spec = CalibrationSpec("wikitext2", sequences=2, length=16)
    assert len(sequences(spec, tokenizer, str(tmp_path))) == 2
    first = digest("wikitext2", str(tmp_path))
    (folder / "validation.jsonl").write_text("\n".join(map(json.dumps, rows[:-1])))
    assert digest("wikitext2", str(tmp_path)) != first


def test_unknown_corpus_names_its_neighbour(tokenizer):
    with pytest.raises(KickError, match="did you mean 'wikitext2'"):
        sequences(CalibrationSpec("wikitxt2"), tokenizer)
    assert set(CORPORA) == {"kick_mini_calibration", "wikitext2", "c4", "world_english_bible"}


def test_too_short_a_corpus(tokenizer):
    with pytest.raises(KickError, match="fewer than one sequence of 100000000"):
        sequences(CalibrationSpec("kick_mini_calibration", length=100_000_000), tokenizer)
