"""A matrix with run-time methods: keys, what is not applicable or refused, counted columns, the page."""

from dataclasses import asdict

import pytest

from kick import api
from kick.analysis import frame
from kick.errors import KickError
from kick.matrix.load import load
from kick.matrix.plan import plan
from kick.records import cell_from_json
from kick.report import leaderboard
from kick.store import Store
from kick.sweep.run import RunOptions

MATRIX = {
    "name": "running",
    "model": "smoke",
    "tasks": ["kick_mini_open", "kick_mini_mcq"],
    "limit": 2,
    "replicas": [],
    "variants": [
        "dense",
        {"method": "magnitude", "sparsity": 0.5, "runtime": {"method": "twilight", "p": [0.5, 0.9]}},
        {"runtime": {"method": "lazyllm", "schedule": "1:0.5"}},
    ],
}


@pytest.fixture(scope="module")
def planned():
    return plan(load({**MATRIX, "variants": [*MATRIX["variants"], {"method": "magnitude", "sparsity": 0.5}]}))


def test_a_run_time_method_is_part_of_the_key_and_none_is_none(planned):
    by_name = {(cell.variant.name, cell.task.name): cell for cell in planned.cells}
    plain = by_name["magnitude-0.5", "kick_mini_open"]
    run = by_name["magnitude-0.5+twilight-p=0.5", "kick_mini_open"]
    assert plain.key != run.key
    assert "runtime" not in plain.identity()["variant"]
    assert run.identity()["variant"]["runtime"]["options"]["p"] == 0.5
    assert cell_from_json(asdict(run)) == run
    assert plain.variant.recipe == run.variant.recipe


def test_what_a_method_cannot_affect_is_not_planned(planned):
    asked = {(cell.variant.name, cell.task.name) for cell in planned.cells if cell.variant.runtime}
    assert asked == {
        ("magnitude-0.5+twilight-p=0.5", "kick_mini_open"),
        ("magnitude-0.5+twilight-p=0.9", "kick_mini_open"),
        ("lazyllm-schedule=1:0.5", "kick_mini_open"),
        ("lazyllm-schedule=1:0.5", "kick_mini_mcq"),
    }


def refused(*variants, **more):
    with pytest.raises(KickError) as caught:
        plan(load({**MATRIX, "variants": ["dense", *variants], **more}))
    return str(caught.value)


def test_what_is_refused():
    twilight = {"runtime": {"method": "twilight"}}
    assert "did you mean 'twilight'" in refused({"runtime": {"method": "twiligt"}})
    assert "at most 1" in refused({"runtime": {"method": "twilight", "p": 2}})
    assert "unknown key 'speed'" in refused({**twilight, "speed": 1})
    assert "one name for 2 variants" in refused(
        {"runtime": {"method": "twilight", "p": [0.5, 0.7]}, "name": "a"}
    )
    assert "not applicable to any task" in refused(twilight, tasks=["kick_mini_mcq"])
    assert "need the engine packed" in refused(twilight, engine={"name": "layered", "generate": True})
    assert "unknown method 'twilight'" in refused({"method": "twilight"})


def test_a_run_counts_what_is_read_and_its_page_says_what_is_not_applicable(tmp_path, capsys):
    api.run(MATRIX, out=str(tmp_path / "results"), options=RunOptions(executor="inline"))
    assert "magnitude-0.5+twilight-p=0.5 and 1 more: started" in capsys.readouterr().err
    results = frame.read([Store(str(tmp_path / "results"), "running")])
    rows = results.frame[results.frame["primary"]].set_index(["variant", "task"])
    first, twilight = (rows.loc[f"magnitude-0.5+twilight-p={p}", "kick_mini_open"] for p in (0.5, 0.9))
    assert first["keys_read"] < twilight["keys_read"]
    assert 0 < twilight["keys_read"] < 1 == twilight["prompt_computed"]
    assert twilight["cache_bytes"] > twilight["dense_cache_bytes"] > 0  # it keeps estimates beside
    lazy = rows.loc["lazyllm-schedule=1:0.5", "kick_mini_mcq"]
    assert lazy["prompt_computed"] < 1
    assert rows["keys_read"]["dense"].isna().all()
    leaderboard.render(results, tmp_path / "page")
    page = (tmp_path / "page" / "index.html").read_text()
    assert page.count("not applicable") == 2
    assert "twilight changes decoding alone" in page
    assert "pruned, sparse at run time" in page
    assert "Counted at run time" in page
