"""Statistics are kept with the store, come back the same, and are never those of other samples."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from kick.analysis import frame, items, kept
from kick.errors import KickError
from kick.report import leaderboard
from kick.stats.resample import RESAMPLES
from kick.store import Store
from tests.support.synthetic import DENSE, FakeStore, fill, pruned, quantized

TASKS = ("kick_mini_factoid", "kick_mini_closed", "kick_mini_open", "kick_mini_perplexity")


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr("kick.store.index.SMALL", 2)
    made = fill(FakeStore(), [DENSE, pruned("wanda", 0.5), quantized("rtn", 4)], TASKS, n=30)
    stored = Store(tmp_path, "synthetic")
    for key, result in made.results.items():
        stored.put(result, made.items[key])
    return stored


def test_what_is_kept_gives_the_same_frame_and_reads_no_samples(store, monkeypatch):
    first = frame.read([store]).frame
    monkeypatch.setattr(Store, "arrays", lambda *_: pytest.fail("samples were read"))
    pd.testing.assert_frame_equal(first, frame.read([Store(store.root, "synthetic")]).frame, check_exact=True)
    assert first["verdict"].isin(["matching", "not matching", "undecided"]).any()
    assert first["group"].ne("").any()
    assert first["task"].str.contains("|", regex=False).any()


def test_what_a_worker_noted_with_its_cell_is_used(store, monkeypatch):
    first = frame.read([store]).frame
    store.files.delete("synthetic/statistics.parquet")
    runs = {(run.cell.variant.name, run.cell.task.name): run for run in store.runs()}
    for (_, task), run in runs.items():
        kept.note(store, run, runs["dense", task])
    paired = items.difference

    def of_two_tasks(*arguments, **options):  # with few resamples: those are not of a single cell
        few = options["how"].resamples < RESAMPLES
        return paired(*arguments, **options) if few else pytest.fail("computed anew")

    monkeypatch.setattr("kick.analysis.items.difference", of_two_tasks)
    pd.testing.assert_frame_equal(first, frame.read([store]).frame, check_exact=True)
    store.files.delete("synthetic/statistics.parquet")
    damaged = runs["wanda-0.5", "kick_mini_factoid"].key
    store.files.write(f"synthetic/{damaged}/statistics.json", b'{"half')
    assert store.noted(damaged) == {}
    with pytest.raises(pytest.fail.Exception, match="computed anew"):
        frame.read([store])


def test_a_run_leaves_the_statistics_of_its_cells(smoke_results, monkeypatch):
    monkeypatch.setattr(Store, "arrays", lambda *_: pytest.fail("samples were read"))
    found = frame.read([Store(smoke_results)]).frame
    assert found["verdict"].ne("").any()


def test_a_cell_that_is_measured_again_has_statistics_of_its_own(store):
    before = frame.read([store]).frame
    old = next(run for run in store.runs() if run.cell.variant.name == "wanda-0.5")
    samples = store.samples(old.key)
    store.put(old, [*samples[:-1], type(samples[0])(**{**vars(samples[-1]), "scores": {}})])
    after = frame.read([store]).frame
    changed = before.key.eq(old.key) & before.group.eq("")
    assert (before[changed].detectable != after[changed].detectable).any()
    others = before.variant.ne("wanda-0.5")
    pd.testing.assert_frame_equal(before[others], after[others])
    assert len(store.recall()) == len(TASKS) * 3 + 3, "what is of no use any more is not kept"


def test_a_cell_whose_items_are_damaged_is_left_out_and_said(store, tmp_path, caplog):
    whole = frame.read([store]).frame
    runs = {(run.cell.variant.name, run.cell.task.name): run for run in store.runs()}
    damaged = runs["wanda-0.5", "kick_mini_factoid"].key
    store.files.write(f"synthetic/{damaged}/samples.parquet", b"half")
    html = leaderboard.render(frame.read([store]), tmp_path / "remembered")[0].read_text()
    assert damaged in caplog.text, "its answers are missing"
    assert "Left out" not in html, "its statistics are known"
    store.files.delete("synthetic/statistics.parquet")
    report = frame.read([store])
    assert len(report.notes) == 1
    assert damaged in report.notes[0]
    assert "measures it again" in report.notes[0]
    assert "differences" not in report.notes[0]
    rest = whole[whole.key != damaged].reset_index(drop=True)
    pd.testing.assert_frame_equal(report.frame.drop(columns="p_holm"), rest.drop(columns="p_holm"))
    assert "Left out" in leaderboard.render(report, tmp_path / "anew")[0].read_text()
    other = Store(tmp_path / "other", "second")  # the same cells, whole
    for run in runs.values():
        if run.key != damaged:
            other.put(replace(run, matrix="second"), store.samples(run.key))
    dense = runs["dense", "kick_mini_perplexity"].key
    store.files.write(f"synthetic/{dense}/samples.parquet", b"half")
    store.files.delete("synthetic/statistics.parquet")
    found = frame.read([store, other])
    assert any("dense on" in note and "no verdicts" in note for note in found.notes)
    gaps = found.frame[found.frame.task.eq("kick_mini_perplexity") & ~found.frame.dense].groupby("matrix").gap
    assert gaps.count()["synthetic"] == 0
    assert gaps.count()["second"] == gaps.size()["second"]
    for run in runs.values():
        store.files.write(f"synthetic/{run.key}/samples.parquet", b"half")
    store.files.delete("synthetic/statistics.parquet")
    with pytest.raises(KickError, match="is damaged"):
        frame.read([store])


def test_other_code_and_a_damaged_file_have_no_statistics(store, monkeypatch):
    first = frame.read([store]).frame
    names = set(store.recall())
    monkeypatch.setattr(np, "__version__", "another")
    kept._code.cache_clear()
    again = frame.read([store]).frame
    kept._code.cache_clear()
    assert not names & set(store.recall())
    store.remember(dict.fromkeys(store.recall(), "{no json"))
    store.files.write("synthetic/statistics.parquet", b"PAR1 not at all")
    for found in (again, frame.read([store]).frame):
        pd.testing.assert_frame_equal(first, found, check_exact=True)
