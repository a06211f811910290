"""Options of run-time methods: defaults written out, and what is refused."""

import pytest

from kick.errors import WrongOption
from kick.registry import UnknownName
from kick.runtime.entry import inapplicable, runtimes
from kick.runtime.method import build, canonical, describe_all


def test_every_method_says_what_it_does_and_is_built_from_its_options():
    described = describe_all()
    assert [one["name"] for one in described] == [
        "twilight",
        "page-attention",
        "lazyllm",
        "kv-quant",
        "sliding",
    ]
    for one in described:
        assert one["doc"].endswith(".")
        assert all(option["help"] for option in one["options"])
        given = {"bits": 4} if one["name"] == "kv-quant" else {}
        step = canonical(one["name"], given)
        assert len(step.digest) == 16
        assert build(step) == runtimes[one["name"]](**given)


def test_defaults_count_as_if_they_were_written():
    assert canonical("twilight", {}) == canonical("twilight", {"p": 0.85, "key_bits": 4})
    assert canonical("twilight", {}) != canonical("twilight", {"p": 0.9})


@pytest.mark.parametrize(
    ("name", "options", "error", "word"),
    [
        ("twiligt", {}, UnknownName, "twilight"),
        ("twilight", {"q": 1}, WrongOption, "unknown option 'q'"),
        ("twilight", {"p": 1.5}, WrongOption, "at most 1"),
        ("kv-quant", {}, ValueError, "needs the option 'bits'"),
        ("kv-quant", {"bits": 4, "residual": 33}, ValueError, "multiple of group"),
        ("page-attention", {"sub_page": 5}, ValueError, "must divide page"),
        ("lazyllm", {"schedule": "half"}, ValueError, "expected block:share"),
        ("lazyllm", {"schedule": "0.2:0.3 0.5:0.7"}, ValueError, "falling"),
    ],
)
def test_what_is_refused(name, options, error, word):
    with pytest.raises(error, match=word):
        canonical(name, options)


def test_what_a_method_cannot_affect_is_not_applicable():
    assert "decoding alone" in inapplicable("twilight", "loglikelihood")
    assert not inapplicable("twilight", "generate")
    assert not inapplicable("lazyllm", "loglikelihood")
    assert "has none" in inapplicable("lazyllm", "text")
    assert not inapplicable("sliding", "text")
    assert not inapplicable("twilight", "")
    assert not inapplicable("of another installation", "text")
