"""A backend is one class with @backend; a matrix picks it by name, and a key names it unless it is equal."""

import pytest

from kick.engine.backend import backend, backends, named, names, of_cell
from kick.engine.engine import Engine
from kick.engine.plain import Plain
from kick.errors import KickError
from kick.matrix import load
from kick.records import Response
from kick.sweep.worker import Worker
from tests.support.small_tables import KEYED, planned


class Constant:
    """Answers everything alike."""

    def __init__(self, model, tokenizer, **how):
        self.how = how

    def answer(self, requests, on_done=None):
        return [Response(text="yes") for _ in requests]

    def notes(self):
        return {"batch_tokens": self.how["batch_tokens"] or 30}


@pytest.fixture
def constant():
    """The backend `constant`, whose scores are not shown to be equal to any other's."""
    made = backend("constant", title="answers everything alike", also=("same",), version=3)(Constant)
    yield made
    del backends._items["constant"], backends._entered["constant"]


def keys(engine):
    return planned(f"{KEYED}engine: {{name: {engine}}}\n").keys


def test_names_are_the_declared_ones_and_earlier_ones():
    assert {"packed", "plain", "transformers"} <= set(names())
    assert named("transformers").name == "packed"
    assert backends["packed"] is Engine
    assert backends["plain"] is Plain


def test_an_unknown_engine_is_refused_with_near_names():
    with pytest.raises(KickError, match=r"m\.yaml:.*unknown engine 'pakced'; did you mean 'packed'"):
        load.parse(KEYED + "engine: {name: pakced}\n", "m.yaml")


def test_a_key_names_a_backend_only_if_its_scores_are_not_shown_to_be_equal(constant):
    assert keys("packed") == keys("plain") == keys("transformers")
    assert not set(keys("constant")) & set(keys("packed"))
    assert keys("same") == keys("constant")
    plan = planned(KEYED + "engine: {name: same}\n")
    cells = plan.cells
    assert {cell.engine for cell in cells} == {"constant 3"}
    assert of_cell("constant 3") == "constant"
    assert of_cell("") == "packed"


def test_a_worker_answers_with_the_backend_of_its_name(constant, tmp_path):
    plan = planned(KEYED + "engine: {name: constant}\n")
    dense = plan.variants[0]
    work = Worker(str(tmp_path), "m", dense, (), batch_tokens=12, backend="constant")
    made = work._engine(dense, None, None, None)
    assert isinstance(made, Constant)
    assert made.notes() == {"batch_tokens": 12}


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match=r"'plain' is taken by kick\.engine\.plain"):
        backend("plain", title="another")(Constant)
