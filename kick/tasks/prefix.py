"""Whether a text can still become a Python program, told while it is written.

    program = Program()
    program.can_continue("def f(x):\\n    return (x")     True: incomplete
    program.can_continue("def f(x):\\n    return )")      False: no text after it makes it a program
    program.is_whole("def f(x):\\n    return x")          True

The grammar is that of the package lark, with some rules of newer Python; its LALR parser needs no recursion
and refuses a token at once if no program begins so. The text is only read: nothing is compiled or run, and
texts beyond the limits below are refused. What only Python's compiler notices, such as `break` outside a
loop, is not refused, and a few forms of valid Python are (docs/beyond.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from kick.errors import KickError

if TYPE_CHECKING:
    import regex
    from lark import Lark, Token
    from lark.indenter import PythonIndenter
    from lark.lexer import TerminalDef
    from lark.parsers.lalr_interactive_parser import InteractiveParser

VERSION = 1
PACKAGE = "lark"
LONGEST = 40_000  # characters
BRACKETS, BLOCKS = 200, 100  # open at once: Python's own limits
STATES = 4_000  # of the parser's stack

# Of the package's grammar, what is changed: `_`, decorators and unpacking as in Python 3.9 and later, several
# conditions of a comprehension, no `<>`.
GRAMMAR = r"""
%import python (file_input, name, decorator, return_stmt, yield_expr, arguments, argvalue, comprehension)
%import python (comp_fors, comp_for, comp_op, test, or_test, test_nocond, exprlist, testlist_star_expr)
%import python (NAME, ASYNC, STRING, LONG_STRING, _NEWLINE, _INDENT, _DEDENT)
%override name: NAME | "match" | "case" | "_"
%override decorator: "@" test _NEWLINE
%override return_stmt: "return" [testlist_star_expr]
%override yield_expr: "yield" [testlist_star_expr] | "yield" "from" test
%override comprehension{comp_result}: comp_result comp_fors
%override comp_for: [ASYNC] "for" exprlist "in" or_test ("if" test_nocond)*
%override comp_op: "<"|">"|"=="|">="|"<="|"!="|"in"|"not" "in"|"is"|"is" "not"
%override arguments: _argument ("," _argument)* ","? | comprehension{test}
_argument: argvalue | "*" test | "**" test
"""
_BLANK = re.compile(r"(?:[\t \f]|\\[\t \f]*\r?\n)+")
_BROKEN_LINE = re.compile(r"[\t \f]*\\[\t \f]*\r?")  # a line that is to be continued, up to its end
# a string from its beginning, or what may be the letters before one; whether it is closed is not asked here
_OPEN_STRING = re.compile(r"""(?is)(?:[ubf]?r?|r[ubf])(?:(?:\"{3}|'{3}).*|["'][^\n]*)?""")


@dataclass(frozen=True)
class _Python:
    """What reads the language: lexer, parser, and the terminals: literals, patterns, and strings, which end
    at the first mark that closes them."""

    lexer: Lark
    parser: Lark
    literals: Sequence[tuple[str, str]]
    patterns: Sequence[tuple[str, regex.Pattern[str]]]
    strings: Sequence[tuple[str, regex.Pattern[str]]]


def available() -> str:
    """The version of lark that is installed. Raises KickError if none is."""
    try:
        import lark
        import regex  # noqa: F401
    except ImportError as error:
        raise KickError(
            f"guided decoding needs the package {PACKAGE}, which is not installed; pip install 'kick[beyond]'"
        ) from error
    return lark.__version__


@cache
def _python() -> _Python:
    available()
    import regex
    from lark import Lark

    how: dict[str, Any] = {"start": "file_input", "lexer": "basic", "maybe_placeholders": False}
    parser = Lark(GRAMMAR, parser="lalr", **how)
    fixed = [(str(one.name), one.pattern.value) for one in parser.terminals if _literal(one)]
    found = [
        (str(one.name), regex.compile(one.pattern.to_regexp()))
        for one in parser.terminals
        if not _literal(one)
    ]
    return _Python(
        lexer=Lark(GRAMMAR, parser=None, **how),
        parser=parser,
        literals=fixed,
        patterns=[(name, pattern) for name, pattern in found if not name.endswith("STRING")],
        strings=[(name, pattern) for name, pattern in found if name.endswith("STRING")],
    )


def _literal(terminal: TerminalDef) -> bool:
    return bool(terminal.pattern.type == "str")


@dataclass(frozen=True)
class _Place:
    """How far a text has been read: characters, the parser after them, open brackets and indentation."""

    at: int
    parser: InteractiveParser
    indenter: PythonIndenter

    def accepts(self, name: str) -> bool:
        """Whether a token of that name may come next."""
        from lark import Token
        from lark.exceptions import UnexpectedToken

        if name == self.indenter.NL_type and self.indenter.paren_level:
            return True
        if name not in self.parser.choices():
            return False
        try:
            self.parser.copy(deepcopy_values=False).feed_token(Token(name, ""))
        except UnexpectedToken:
            return False
        return True

    def after(self, token: Token) -> _Place | None:
        """The place after a token that begins here; None if no program goes on so."""
        from lark.exceptions import UnexpectedToken
        from lark.indenter import DedentError

        parser, indenter = self.parser.copy(deepcopy_values=False), copy(self.indenter)
        indenter.indent_level = list(indenter.indent_level)
        try:
            for one in indenter.handle_NL(token) if token.type == indenter.NL_type else (token,):
                parser.feed_token(one)
        except (UnexpectedToken, DedentError):
            return None
        indenter.paren_level += (token.type in indenter.OPEN_PAREN_types) - (
            token.type in indenter.CLOSE_PAREN_types
        )
        if (
            indenter.paren_level > BRACKETS
            or len(indenter.indent_level) > BLOCKS
            or len(parser.parser_state.state_stack) > STATES
        ):
            return None
        return _Place(self.at + len(token), parser, indenter)

    def ends(self) -> bool:
        """Whether a program may end here, at the start of a line."""
        from lark import Token
        from lark.exceptions import UnexpectedToken

        parser = self.parser.copy(deepcopy_values=False)
        try:
            for _ in self.indenter.indent_level[1:]:
                parser.feed_token(Token(self.indenter.DEDENT_type, ""))
            parser.feed_token(Token("$END", ""))
        except UnexpectedToken:
            return False
        return True


class Program:
    """A program in progress: asked of texts that mostly begin alike, it reads what is new in each.

    Raises KickError if the package lark is not installed.
    """

    def __init__(self) -> None:
        from lark.indenter import PythonIndenter

        self._start = _Place(0, _python().parser.parse_interactive(), PythonIndenter())
        self._place, self._text = self._start, ""

    def can_continue(self, text: str) -> bool:
        """Whether some program begins with the text."""
        if len(text) > LONGEST:
            return False
        place = self._settled(text)
        if place is not None:
            self._place, self._text = place, text
        return place is not None

    def is_whole(self, text: str) -> bool:
        """Whether the text is a program as it is."""
        text += "\n"
        if len(text) > LONGEST:
            return False
        place = self._settled(text)
        if place is None or place.indenter.paren_level:
            return False
        rest = text[place.at :].lstrip("\t \f")
        token = _first(rest)
        if token is None:
            return not rest and place.ends()
        end = place.after(token) if token.type == place.indenter.NL_type else None
        return end is not None and end.ends()

    def _settled(self, text: str) -> _Place | None:
        return _settled(self._place if text.startswith(self._text) else self._start, text)


def _settled(place: _Place, text: str) -> _Place | None:
    """The last place whose tokens no text that follows can change; None if no program begins so."""
    while rest := text[place.at :]:
        if found := _BLANK.match(rest):
            place = replace(place, at=place.at + found.end())
            continue
        if _BROKEN_LINE.fullmatch(rest) or any(map(place.accepts, _growing(rest))):
            return place
        token = _first(rest)
        after = None if token is None or len(token) == len(rest) else place.after(token)
        if after is None:
            return None
        place = after
    return place


def _growing(rest: str) -> Iterator[str]:
    """The names of the terminals that the whole rest of a text is, or is the beginning of."""
    python = _python()
    for name, literal in python.literals:
        if literal.startswith(rest):
            yield name
    for name, pattern in python.patterns:
        if pattern.fullmatch(rest, partial=True):
            yield name
    if _OPEN_STRING.fullmatch(rest):
        closed = next((found for _, one in python.strings if (found := one.match(rest))), None)
        if closed is None or closed.end() == len(rest):
            yield from (name for name, _ in python.strings)


def _first(rest: str) -> Token | None:
    """The first token of the rest of a text; None if it begins with none."""
    from lark.exceptions import UnexpectedCharacters

    try:
        return next(iter(_python().lexer.lex(rest)), None)
    except UnexpectedCharacters:
        return None
