"""A method's facts: read off the decorators without an import, the same as those that are registered."""

import subprocess
import sys
from dataclasses import fields, replace

import pytest

from kick import catalog
from kick.catalog import Facts, recorded, shipped
from kick.compress import describe
from kick.compress.method import methods


def test_what_is_read_is_what_is_registered():
    own = {name: entry for name, entry in methods.items() if entry.cls.__module__.startswith("kick.")}
    assert own.keys() == shipped().keys()
    for name, facts in shipped().items():
        assert {f.name: getattr(own[name], f.name) for f in fields(Facts)} == vars(facts)


def test_reading_them_imports_nothing_heavy():
    program = (
        "import sys; from kick.catalog import shipped; assert 'wanda' in shipped(); "
        "print(*({'torch', 'kick.compress', 'pandas'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not done.stdout.split()


def test_a_method_is_in_the_file_of_its_name():
    for name, facts in shipped().items():
        folder = catalog.FOLDERS[facts.trains]
        file = folder / f"{name.removeprefix('recover-').replace('-', '_').replace('.', '_')}.py"
        assert [facts.name for facts in catalog.read(file)] == [name]


def test_places_differ_within_a_kind_and_looks_between_methods():
    facts = shipped().values()
    placed = [one.order for one in facts if one.place != catalog.LAST]
    assert len(set(placed)) == len(placed)
    looks = [one.look for one in facts if one.look]
    assert len(set(looks)) == len(looks)


@pytest.mark.parametrize("name", shipped())
def test_bits_are_a_fact_where_they_are_not_an_option(name):
    asked = any(item["name"] == "bits" for item in describe(name)["options"])
    quantizes = shipped()[name].kind == "quantize"
    assert (shipped()[name].bits is not None) == (quantizes and not asked)


@pytest.mark.parametrize(
    ("name", "options", "pattern", "bits"),
    [
        ("wanda", {"sparsity": 0.5}, "unstructured", None),
        ("wanda", {"sparsity": "2:4"}, "2:4", None),
        ("wanda", {"sparsity": 0.0}, "", None),
        ("flap", {"share": 0.3}, "structured", None),
        ("last-n", {"layers": 2}, "structured", None),
        ("gptq", {"bits": 3}, "", 3),
        ("nf4", {"double": True}, "", 4),
        ("llm.int8", {}, "", 8),
        ("smoothquant", {"alpha": 0.5}, "", 8),
    ],
)
def test_what_a_step_does_follows_from_its_options(name, options, pattern, bits):
    facts = shipped()[name]
    assert (facts.pattern(options), facts.width(options)) == (pattern, bits)
    told = recorded(name, facts.record(options))
    assert (told.pattern(options), told.width(options)) == (pattern, bits)
    assert (told.title, told.paper, told.kind, told.order) == (
        facts.title,
        facts.paper,
        facts.kind,
        facts.order,
    )


def test_a_step_stored_without_facts_gives_none():
    assert recorded("wanda", {"method": "wanda", "options": {}, "version": 1}) is None
    assert recorded("wanda", {"kind": ["prune"]}) is None


def test_what_a_method_chooses_itself_may_hang_on_an_option():
    assert "chooses the shares" in shipped()["owl"].own_choice({})
    magnitude = shipped()["magnitude"]
    assert not magnitude.own_choice({"per": "matrix", "ties": "exact"})
    assert magnitude.own_choice({"per": "global"}) == "per: global sets one threshold for all matrices"


def test_methods_without_a_place_come_after_those_of_their_kind():
    new = Facts("new", title="New", paper="", kind="prune")
    placed = [one for one in shipped().values() if one.place != catalog.LAST]
    kinds = {one.kind: one.order for one in placed}  # the last of each
    assert kinds["prune"] < new.order < shipped()["flap"].order
    assert replace(new, kind="").order > kinds["compensate"]


def test_arguments_that_are_not_written_out_are_refused_with_their_line(tmp_path):
    file = tmp_path / "new.py"
    file.write_text(
        'TITLE = "New"\n\n\n@method("new", title=TITLE, paper="", kind="prune")\nclass New: ...\n'
    )
    with pytest.raises(ValueError, match=r"new\.py:4: .* plain values"):
        list(catalog.read(file))
