"""Claims of papers: read strictly, tested on stored results, with a verdict that follows from the numbers."""

import json
import re

import pandas as pd
import pytest

from kick import catalog
from kick.analysis import claims, papers_file
from kick.analysis.frame import read
from kick.analysis.papers_file import PaperClaim
from kick.cli import main
from kick.errors import KickError
from kick.matrix.load import presets
from kick.records import Step
from kick.report import claims_view
from kick.stats import metrics
from tests.support.synthetic import DENSE, FakeStore, fill, pruned, variant

FACTS, TEXT, FAR = "kick_mini_factoid", "kick_mini_perplexity", "kick_mini_fidelity"


@pytest.fixture(scope="module")
def results():
    ours = [DENSE, pruned("wanda", 0.3), pruned("wanda", 0.7), pruned("magnitude", 0.7)]
    return read([fill(FakeStore(), ours, [FACTS, TEXT, FAR], n=60)])


def outcome(results, test, **measure):
    (one,) = claims.tested(
        papers_file.Paper("p", "P", "s", (PaperClaim("c", "C.", "", test, measure),)), results
    )
    return one


@pytest.mark.parametrize("name", papers_file.names())
def test_each_paper_says_where_its_claims_are_from(name):
    paper = papers_file.paper(name)
    assert paper.name == name
    assert paper.source.startswith("arXiv ")
    assert set(paper.matrices.values()) <= set(presets())
    for claim in paper.claims:
        for part in ("variants", "better", "than"):
            named = (claim.measure.get(part) or {}).get("method", [])
            recipes = [named] if isinstance(named, str) else named
            steps = {step for recipe in recipes for step in recipe.split(" + ")}
            assert steps <= {*catalog.known()}, claim.name


def test_there_are_more_than_ten_papers():
    assert len(papers_file.names()) >= 12
    assert {"llm-kick", "dtm", "wanda", "admm", "gblm", "flap", "laco", "eora", "endor", "unicomp"} <= set(
        papers_file.names()
    )


@pytest.mark.parametrize(
    ("test", "says", "verdict"),
    [
        ("verdict", ("for", "for"), "supported"),
        ("verdict", ("for", ""), "undecided"),
        ("verdict", ("for", "against"), "contradicted"),
        ("kept", ("", ""), "undecided"),
        ("order", ("for", ""), "supported"),
        ("order", ("for", "against"), "undecided"),
        ("order", ("", "against"), "contradicted"),
        ("hidden", ("for", "against"), "supported"),
        ("hidden", ("", "against"), "undecided"),
        ("flips", ("against", "against"), "contradicted"),
        ("flips", (), "undecided"),
    ],
)
def test_the_verdict_follows_from_what_is_shown(test, says, verdict):
    assert claims._verdict(test, says) == verdict


def test_an_expected_verdict_is_the_frames(results):
    found = outcome(
        results,
        "verdict",
        variants={"method": "wanda", "sparsity": [0.6, 0.8]},
        tasks=["factoid_qa"],
        expect="worse",
    )
    frame = results.frame
    (row,) = frame[(frame["label"] == "wanda 70 %") & (frame["task"] == FACTS) & frame["primary"]].to_dict(
        "records"
    )
    (one,) = found.evidence
    assert (one.value, one.reference, one.gap, one.n) == (
        row["value"],
        row["dense_value"],
        row["gap"],
        row["n"],
    )
    assert found.verdict == "supported"
    turned = outcome(results, "verdict", variants={"sparsity": 0.7}, tasks=[FACTS], expect="matching")
    assert turned.verdict == "contradicted"


def test_an_order_is_paired_and_turned_by_the_metric(results):
    near, far = {"method": "wanda", "sparsity": 0.3}, {"method": ["wanda", "magnitude"], "sparsity": 0.7}
    found = outcome(results, "order", better=near, than=far, tasks=["perplexity"], equal=[])
    assert found.verdict == "supported"
    assert [one.what for one in found.evidence] == [
        "wanda 30 % against wanda 70 %",
        "wanda 30 % against magnitude 70 %",
    ]
    assert all(one.gap < 0 and one.high < 0 for one in found.evidence), "a lower perplexity is better"
    assert (
        outcome(results, "order", better=far, than=near, tasks=["perplexity"], equal=[]).verdict
        == "contradicted"
    )
    none = outcome(results, "order", better=near, than=far, tasks=["perplexity"])
    assert none.verdict == claims.CANNOT
    assert "equal matrix, base, sparsity" in none.reason


def test_recipes_of_two_steps_are_compared_with_their_first_step():
    two = [
        variant(f"{one}+eora", Step(one, {"sparsity": 0.5}), Step("eora", {"rank": 8}))
        for one in ("wanda", "magnitude")
    ]
    ours = [DENSE, pruned("wanda", 0.5), pruned("wanda", 0.3), pruned("magnitude", 0.5), *two]
    stored = read([fill(FakeStore(), ours, [FACTS], n=30)])
    both = {"method": ["wanda + eora", "magnitude + eora"]}
    found = outcome(
        stored, "order", better=both, than={"sparsity": 0.5}, tasks=[FACTS], equal=["first", "sparsity"]
    )
    assert [one.what.replace(" rank 8", "") for one in found.evidence] == [
        "wanda 50 % + eora against wanda 50 %",
        "magnitude 50 % + eora against magnitude 50 %",
    ]
    alone = outcome(stored, "verdict", variants={"method": "wanda"}, tasks=[FACTS], expect="worse")
    assert [one.what for one in alone.evidence] == ["wanda 50 %", "wanda 30 %"], "one step only"


def test_two_metrics_part_if_one_is_shown_to_be_lost_and_the_other_not_to_be():
    ours = [DENSE, pruned("wanda", 0.3), pruned("wanda", 0.7)]
    stored = read([fill(FakeStore(), ours, ["kick_mini_mcq"], n=60)])
    own = stored.frame[stored.frame["primary"]]
    frame = pd.concat([own, own.assign(metric="ece", primary=False, verdict="")], ignore_index=True)
    whole = frame["group"].eq("") & ~frame["dense"]
    frame.loc[whole & frame["primary"], ["verdict", "gap", "within_noise"]] = ["not matching", -0.2, False]
    error, near = whole & frame["metric"].eq("ece"), frame["label"].eq("wanda 30 %")
    frame.loc[error, "higher_is_better"] = False
    frame.loc[error, ["gap_low", "gap_high", "within_noise"]] = [0.1, 0.2, False]

    def parts():
        made = type(stored)(frame, stored.cells, stored.notes)
        return outcome(made, "parts", tasks=["mcr_qa"], metric="ece")

    assert [one.says for one in parts().evidence] == ["against", "against"], "both are worse"
    assert parts().verdict == "contradicted"
    frame.loc[error & near, ["gap_low", "gap_high"]] = [-0.1, 0.2]
    assert parts().verdict == "undecided"
    frame.loc[error & near, ["gap_low", "gap_high"]] = [-0.2, -0.1]
    assert parts().verdict == "supported", "a lower error is better"
    assert parts().evidence[0].word == "score worse, ece better"
    frame.loc[error & near, "within_noise"] = True
    assert parts().verdict == "undecided"


def test_a_share_kept_is_decided_by_its_interval(results):
    far = {"method": "magnitude"}
    assert outcome(results, "kept", variants=far, tasks=[FACTS], least=0.99).verdict == "contradicted"
    assert outcome(results, "kept", variants=far, tasks=[FACTS], least=-1).verdict == "supported"


def test_what_the_results_do_not_hold_cannot_be_tested(results):
    found = outcome(results, "kept", variants={"method": "gblm"}, tasks=[FACTS], least=0.9)
    assert (found.verdict, found.reason) == (claims.CANNOT, "these results have no variant with method gblm")
    assert "no task of retrieval" in outcome(results, "hidden", tasks=["retrieval"]).reason


def test_perplexity_hides_what_is_shown_at_level_perplexity(results):
    frame = results.frame.copy()
    near = frame["label"].eq("wanda 30 %") & frame["primary"]
    frame.loc[near & frame["metric"].eq("perplexity"), "relative"] = 0.01
    frame.loc[near & frame["task"].eq(FACTS), ["verdict", "gap", "within_noise"]] = [
        "not matching",
        -0.2,
        False,
    ]
    level = type(results)(frame, results.cells, results.notes)
    found = outcome(level, "hidden", tasks=["factoid_qa"])
    assert found.verdict == "supported"
    assert {one.what for one in found.evidence} == {"wanda 30 %"}, "others' perplexity says it"
    frame.loc[near & frame["metric"].eq("fdt"), ["gap_low", "gap_high", "within_noise"]] = [-9.0, -2.0, False]
    assert metrics.describe("fdt").ends_at_dense
    assert outcome(level, "hidden", tasks=["fidelity"]).verdict == "supported"


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        ("{variants: {}, tasks: mcr_qa, expect: worse}", "tasks: got 'mcr_qa'; expected a list"),
        ("{variants: {}, tasks: [mcr_qa], expect: worst}", "expect: .*worst.*worse"),
        (
            "{variants: {bits: [2, 3, 4]}, tasks: [mcr_qa], expect: worse}",
            "bits: got .*a number or .low, high",
        ),
    ],
)
def test_a_measure_that_no_test_can_read_is_refused_with_its_file(tmp_path, measure, said):
    file = tmp_path / "x.yaml"
    claim = f"{{name: a, sentence: b, test: verdict, measure: {measure}}}"
    file.write_text(f"name: x\ntitle: X\nsource: s\nclaims:\n  - {claim}\n")
    with pytest.raises(KickError, match=rf"x\.yaml, claim 1.*{said}"):
        papers_file.paper(str(file))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\ntitle: X\nsource: s\nclaims: []\n", "at least one claim"),
        (
            "name: x\ntitle: X\nsource: s\nclaims:\n  - {name: a, sentence: b}\n",
            "either test and measure, or cannot",
        ),
        (
            "name: x\ntitle: X\nsource: s\nclaims:\n  - {name: a, sentence: b, test: ordre, measure: {}}\n",
            "order",
        ),
        (
            "name: x\ntitle: X\nsource: s\nclaims:\n  - {name: a, sentence: b, test: kept, measure: {}}\n",
            "variants is missing",
        ),
        ("name: x\ntitle: X\nclaims: []\n", "source is missing"),
    ],
)
def test_a_wrong_file_is_one_clear_error(tmp_path, text, said):
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(KickError, match=said):
        papers_file.paper(str(file))
    with pytest.raises(KickError, match="wanda"):
        papers_file.paper("wandaa")


def test_the_command_tests_claims_on_results_that_exist(tmp_path, capsys, monkeypatch):
    ours = [DENSE, pruned("wanda", 0.5), pruned("magnitude", 0.5)]
    store = fill(FakeStore(), ours, [FACTS, TEXT], n=40)
    monkeypatch.setattr("kick.cli.paper.opened", lambda folder: store)
    with pytest.raises(SystemExit) as ended:
        main(["paper", "wanda", "--results", "made-up", "--out", str(tmp_path)])
    assert ended.value.code == 0
    assert "wanda beats-magnitude: " in capsys.readouterr().out
    report = (tmp_path / "report.md").read_text("utf-8")
    assert re.match(r"# Claims of papers, and what was measured\n\n2 claims of 1 paper: [1-2] \w+, ", report)
    assert "| wanda | At equal sparsity Wanda does much better" in report
    (values,) = json.loads((tmp_path / "report.json").read_text("utf-8"), parse_constant=pytest.fail)
    assert [claim["claim"]["name"] for claim in values["claims"]] == [
        "beats-magnitude",
        "level-with-sparsegpt",
    ]
    assert values["claims"][0]["evidence"][0]["n"] == 40
    with pytest.raises(SystemExit) as ended:
        main(["paper", "laco", "--scale", "tiny"])
    assert ended.value.code == 2
    assert "--results DIR" in capsys.readouterr().err


def test_hostile_labels_are_text_in_the_report(results):
    found = outcome(results, "kept", variants={"method": "magnitude"}, tasks=[FACTS], least=0.9)
    evil = claims.ClaimEvidence(**{**vars(found.evidence[0]), "what": "<b>|x`"})
    paper = papers_file.Paper("p", "P", "s", (found.claim,))
    text = claims_view.markdown([(paper, [claims.Tested(found.claim, "undecided", "", (evil,))])], ["m"], [])
    assert "<b>" not in text.replace("\\<b", "")
