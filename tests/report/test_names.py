"""The report knows every method by the name that it is registered under."""

from kick.analysis import traits
from kick.compress import describe
from kick.compress.method import methods
from kick.report import select, wording


def test_every_method_has_a_place_and_a_source():
    names = set(methods)
    assert names == set(wording.METHODS) == set(select.METHOD_ORDER) - {"dense"}
    for name in names:
        kind = methods[name].kind
        assert (name in traits.STRUCTURED) == (kind == "structure")
        fixed = kind == "quantize" and not any(item["name"] == "bits" for item in describe(name)["options"])
        assert (name in traits.FIXED_BITS) == fixed
