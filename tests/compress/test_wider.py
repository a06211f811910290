"""Each method on more architectures: to the weight what was asked, or refused in one line before any work.

Which pairs are refused is the table in docs/methods.md, which test_docs.py makes again.
"""

import pytest

from kick.compress.method import methods
from tests.compress.test_every_method import RETOKENISING, TRAINING, assert_asked
from tests.support.architectures import WIDER
from tests.support.pairs import refusal


@pytest.mark.parametrize("name", WIDER)
def test_each_method_does_what_was_asked_or_is_refused_in_one_line(name):
    for method in sorted(set(methods) - TRAINING - RETOKENISING):
        why = refusal(method, name)
        if why:
            assert "\n" not in why
            assert "choose" in why, (method, why)
        else:
            assert_asked(method, name)
