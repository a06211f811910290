"""What the report says of a method: from its result, else from this installation, and where it stands."""

from dataclasses import replace

import pytest

from kick import catalog
from kick.analysis import traits
from kick.analysis.frame import read
from kick.catalog import Facts
from kick.errors import KickError
from kick.records import Step
from kick.report import page, palette, select, tables
from kick.report.figures import draw
from tests.support.synthetic import DENSE, FakeStore, fill, pruned, quantized, variant

# as an installation that has them would store them
NEW = Facts("new-pruner", title="New <Pruner>", paper="Somebody, 2031", kind="prune", place=35)
FIXED = Facts("new-nf3", title="New NF3", paper="Nobody, 2032", kind="quantize", place=45, bits=3)


def stored(*variants, facts=(), task="kick_mini_mcq"):
    """A store of results whose steps carry the facts of these methods, and no others."""
    store, known = fill(FakeStore(), [DENSE, *variants], [task], n=20), {one.name: one for one in facts}
    for key, result in store.results.items():
        steps = [
            {"method": step.method, "options": dict(step.options), "version": 1}
            | (known[step.method].record(step.options) if step.method in known else {})
            for step in result.cell.variant.recipe
        ]
        store.results[key] = replace(result, compression={**result.compression, "steps": steps})
    return store


@pytest.fixture(scope="module")
def report():
    fixed = variant("new-nf3", Step("new-nf3", {"double": True}))
    several = [pruned(name, 0.5) for name in ("new-pruner", "sparsegpt", "wanda")]
    return read([stored(quantized("gptq", 4), fixed, *several, facts=[NEW, FIXED])])


def test_methods_that_are_not_installed_have_their_title_paper_and_place(report):
    assert not {"new-pruner", "new-nf3"} & catalog.known().keys()
    made = page.view(report, title=None, notes=(), examples=0)
    assert made.methods == (
        ("wanda", "Wanda: Sun et al., ICLR 2024, arXiv 2306.11695"),
        ("new-pruner", "New <Pruner>: Somebody, 2031"),
        ("sparsegpt", "SparseGPT: Frantar and Alistarh, ICML 2023, arXiv 2301.00774"),
        ("gptq", "GPTQ: Frantar et al., ICLR 2023, arXiv 2210.17323"),
        ("new-nf3", "New NF3: Nobody, 2032"),
    )


def test_their_rows_stand_in_order_with_their_pattern_and_bits(report, tmp_path):
    frame = report.frame
    assert select.method_order(frame) == ["dense", "wanda", "new-pruner", "sparsegpt", "gptq", "new-nf3"]
    labels = [line[0] for line in tables.known["scores"].make(frame).cells]
    assert labels[2:4] == ["new-pruner 50 %", "sparsegpt 50 %"]
    assert labels[-1] == "new-nf3 3-bit"
    by_label = select.by_label(frame)
    assert by_label["new-pruner 50 %"]["pattern"] == "unstructured"
    assert by_label["new-nf3 3-bit"]["bits"] == 3
    drawn = draw(frame, tmp_path, names=["score_by_sparsity", "score_by_bits"])
    assert all(one.files for one in drawn)
    assert "new-pruner" in (tmp_path / "score_by_sparsity.csv").read_text()
    assert "new-nf3" in (tmp_path / "score_by_bits.csv").read_text()


def test_results_stored_without_facts_are_told_by_this_installation():
    nf4, flap = variant("nf4", Step("nf4", {"double": True})), variant("flap", Step("flap", {"share": 0.5}))
    assert (traits.traits(nf4)["bits"], traits.label(nf4)) == (4, "nf4 4-bit")
    assert traits.traits(flap)["structured"]
    assert traits.traits(flap)["pattern"] == "structured"
    assert [traits.traits(one)["place"] for one in (DENSE, pruned("magnitude", 0.5), flap, nf4)] == [
        -1,
        20,
        1010,
        2050,
    ]


def test_a_method_of_which_nothing_is_known_draws_after_the_others():
    report = read([stored(pruned("unheard-of", 0.5), pruned("wanda", 0.5))])
    assert select.method_order(report.frame) == ["dense", "wanda", "unheard-of"]
    assert [name for name, _ in page.view(report, title=None, notes=(), examples=0).methods] == ["wanda"]


def test_facts_that_are_none_are_taken_for_absent():
    for record in (None, [], "prune", {"kind": {}}, {"kind": "prune", "place": "first", "title": 3}):
        assert traits.facts(pruned("x", 0.5), [record])["x"].name == "x"


def test_a_look_that_is_none_is_refused(monkeypatch):
    for look in ("purple s -", "blue s", "blue ? -"):
        odd = replace(catalog.shipped()["wanda"], look=look)
        monkeypatch.setattr(catalog, "known", lambda odd=odd: {"wanda": odd})
        with pytest.raises(KickError, match="'wanda' has the look"):
            palette.method_look("wanda")
