"""Each defect of the published scoring, on answers made up to show it alone."""

from dataclasses import replace

import pytest

from kick.analysis.frame import read
from kick.analysis.published_scoring import scores
from kick.cli import main
from kick.errors import KickError
from kick.records import Response
from kick.report import published_scoring
from kick.store import Store
from tests.support.synthetic import DENSE, FakeStore, result, samples

FACTS, READING = "kick_mini_factoid", "kick_mini_open"
# answer, gold, question -> whether right on word borders, and which defect makes it right
CASES = {
    FACTS: [
        ("It is Paris.", "Paris", "capital of France?", True, ""),
        ("Lyon", "Paris", "capital of France?", False, ""),
        ("no idea", "gold", "is gold a metal?", False, "question"),
        ("the car pets", "carpet", "what lies on a floor?", False, "spaces"),
        ("", "Paris", "capital of France?", False, ""),
    ],
    READING: [
        ("in 1969", "1969", "when?", True, ""),
        ("", "1969", "when?", False, "empty"),
        ("19", "1969", "when?", False, "part"),
        ("catalogue", "cat", "what?", False, "spaces"),
        ("dog", "cat", "what?", False, ""),
    ],
}


def filled(store):
    for task, cases in CASES.items():
        found = [
            replace(one, preview=question, target=gold, responses=(Response(text=answer),))
            for one, (answer, gold, question, *_) in zip(samples(task, DENSE, 5), cases, strict=True)
        ]
        store.put(result(task, DENSE, found, "m"), found)
    return store


@pytest.mark.parametrize("task", [FACTS, READING])
def test_each_defect_is_counted_by_itself(task):
    found = list(scores(read([filled(FakeStore())]).cells))
    (one,) = (each for each in found if ("facts" in each.title) == (task == FACTS))
    cases = CASES[task]
    assert one.ours == pytest.approx(sum(right for *_, right, _ in cases) / 5)
    expected = {name: sum(defect == name for *_, defect in cases) / 5 for name in one.defects}
    assert one.defects == pytest.approx(expected)
    assert one.published == pytest.approx(one.ours + sum(expected.values()))


def test_the_command_writes_the_table_and_refuses_what_it_does_not_know(tmp_path, capsys):
    store = filled(Store(tmp_path / "results"))

    def run(*more):
        with pytest.raises(SystemExit) as ended:
            main(["paper", "llm-kick", "--results", str(store.root), "--out", str(tmp_path / "out"), *more])
        return ended.value.code or 0

    assert run("--scoring", "ours") == 2
    assert "--scoring" in capsys.readouterr().err
    assert run("--scoring", "published") == 0
    text = (tmp_path / "out" / "table-published-scoring.md").read_text("utf-8")
    assert "| dense | Closed-book facts | 5 | 20.0 | 60.0 |" in text
    assert (tmp_path / "out" / "table-published-scoring.csv").exists()
    with pytest.raises(KickError, match="no task of facts"):
        published_scoring.table(replace(read([store]), cells=()))
