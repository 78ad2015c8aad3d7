"""Text to syntax tree: a tokenizer and a precedence parser for R's expressions, with patsy's spellings accepted too.

R's operators from loose to tight: ``~``, ``| ||``, ``& &&``, ``!``, comparisons, ``+ -``, ``* /``, ``%any%``, ``:``,
unary ``+ -``, ``^``. Accepted beside R: ``**``, ``[1, 2]`` and ``(1, 2)`` for ``c(1, 2)``, ``True`` and ``False``,
``np.log``, ``Q("my column")``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from pylmernn.formula.design import DesignError
from pylmernn.formula.nodes import Argument, Binary, Call, Constant, Name, Node, Number, Paren, String, Unary

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?P<long>L?)
    | (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | `(?P<quoted>(?:[^`\\]|\\.)+)`
    | (?P<name>(?:[^\W\d]|\.(?!\d))[\w.]*)
    | (?P<operator>%[^%\s]*%|\*\*|\|\||&&|<=|>=|==|!=|[-+*/^:~|&!<>=()\[\],])
    )""",
    re.VERBOSE,
)

_LEFT_POWER = {
    "~": 10, "|": 20, "||": 20, "&": 30, "&&": 30,
    "==": 50, "!=": 50, "<": 50, ">": 50, "<=": 50, ">=": 50,
    "+": 60, "-": 60, "*": 70, "/": 70, ":": 90, "^": 110,
}  # fmt: skip
_SPECIAL_POWER = 80
_PREFIX_POWER = {"~": 10, "!": 40, "+": 100, "-": 100}
_CONSTANTS = {
    "TRUE": "TRUE", "True": "TRUE", "FALSE": "FALSE", "False": "FALSE",
    "NULL": "NULL", "None": "NULL", "NA": "NA", "Inf": "Inf", "NaN": "NaN",
}  # fmt: skip
_QUERY_WORDS = {"and": "&", "or": "|", "not": "!"}
_CLOSES = {"(": ")", "[": "]"}


@dataclass(frozen=True)
class Token:
    """One word of the formula and where it stands (0-based)."""

    kind: str
    text: str
    at: int


@lru_cache(maxsize=512)
def parse_expression(text: str, query: bool = False) -> Node:
    """The syntax tree of a text.

    Parameters
    ----------
    text : str
    query : bool, default False
        Also read ``and``, ``or``, ``not`` as ``&``, ``|``, ``!``, as pandas' ``query`` does.

    Raises
    ------
    DesignError
        Naming the position (from 1) of what cannot be read.
    """
    return _Parser(text, _tokens(text, query)).whole()


def _tokens(text: str, query: bool) -> list[Token]:
    tokens: list[Token] = []
    at = 0
    end = len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            start = at + len(text[at:]) - len(text[at:].lstrip())
            what = "a quote or backtick that is not closed" if text[start] in "\"'`" else f"'{text[start]}'"
            raise DesignError(f"cannot read {what} at position {start + 1} of '{text}'.")
        kind = next(k for k in ("number", "string", "quoted", "name", "operator") if match.group(k) is not None)
        word = match.group(kind)
        start = match.start(kind)
        if kind == "number" and match.group("long"):
            kind = "integer"
        if kind == "operator" and word == "**":
            word = "^"
        if query and kind == "name" and word in _QUERY_WORDS:
            kind, word = "operator", _QUERY_WORDS[word]
        tokens.append(Token(kind, word, start))
        at = match.end()
    return tokens


class _Parser:
    """Precedence climbing over the tokens of one text."""

    def __init__(self, text: str, tokens: list[Token]) -> None:
        self.text = text
        self.tokens = tokens
        self.next = 0
        self.open: list[Token] = []

    def whole(self) -> Node:
        if not self.tokens:
            raise DesignError("the formula is empty: write response ~ predictors + (1 | group).")
        node = self.expression(0)
        if self.next < len(self.tokens):
            raise self.unexpected(self.tokens[self.next])
        return node

    def peek(self) -> str:
        """Text of the next operator, or '' for anything else."""
        if self.next < len(self.tokens) and self.tokens[self.next].kind == "operator":
            return self.tokens[self.next].text
        return ""

    def take(self) -> Token:
        if self.next == len(self.tokens):
            if self.open:
                raise self.unclosed()
            raise DesignError(f"'{self.text}' ends too early: something must follow '{self.tokens[-1].text}'.")
        self.next += 1
        return self.tokens[self.next - 1]

    def expression(self, power: int) -> Node:
        """Read as long as operators bind tighter than ``power``."""
        left = self.prefix()
        while True:
            operator = self.peek()
            binding = _SPECIAL_POWER if operator.startswith("%") else _LEFT_POWER.get(operator, -1)
            if binding <= power:
                return left
            self.take()
            if operator in ("|", "||"):
                self.check_bar()
            left = Binary(operator, left, self.expression(binding - 1 if operator == "^" else binding))

    def prefix(self) -> Node:
        token = self.take()
        if token.kind in ("number", "integer"):
            return Number(float(token.text), token.kind == "integer")
        if token.kind == "string":
            return String(re.sub(r"\\(.)", r"\1", token.text[1:-1]))
        if token.kind == "quoted":
            return Name(re.sub(r"\\(.)", r"\1", token.text))
        if token.kind == "name":
            return self.name(token)
        if token.text in _PREFIX_POWER:
            return Unary(token.text, self.expression(_PREFIX_POWER[token.text]))
        if token.text in _CLOSES:
            return self.group(token)
        raise self.unexpected(token)

    def name(self, token: Token) -> Node:
        if self.peek() == "[":
            return Call("[", (Argument(Name(token.text)), *self.arguments(self.take())))
        if self.peek() != "(":
            return Constant(_CONSTANTS[token.text]) if token.text in _CONSTANTS else Name(token.text)
        arguments = self.arguments(self.take())
        if token.text == "Q" and len(arguments) == 1 and isinstance(arguments[0].value, String):
            return Name(arguments[0].value.value)  # patsy's way to quote a column
        return Call(token.text, arguments)

    def group(self, opening: Token) -> Node:
        """``(x)``, or a Python list or tuple, which is read as ``c(...)``."""
        if opening.text == "(" and self.peek() in ("|", "||"):
            raise DesignError(
                f"nothing stands left of the bar at position {self.tokens[self.next].at + 1} of '{self.text}': "
                "write (1 | group) for an intercept by group."
            )
        values = self.arguments(opening)
        if opening.text == "(" and len(values) == 1 and values[0].name is None:
            return Paren(values[0].value)
        if not values or any(value.name is not None for value in values):
            raise DesignError(f"the parentheses at position {opening.at + 1} of '{self.text}' hold no expression.")
        return Call("c", values)

    def arguments(self, opening: Token) -> tuple[Argument, ...]:
        """Values up to the closing parenthesis or bracket of ``opening``."""
        closing = _CLOSES[opening.text]
        self.open.append(opening)
        values: list[Argument] = []
        while self.peek() != closing:
            values.append(self.argument())
            if self.peek() == ",":
                self.take()
            elif self.peek() != closing:
                if self.next == len(self.tokens):
                    raise self.unclosed()
                raise self.unexpected(self.tokens[self.next])
        self.take()
        self.open.pop()
        return tuple(values)

    def argument(self) -> Argument:
        named = self.next + 1 < len(self.tokens) and self.tokens[self.next + 1].text == "="
        if named and self.tokens[self.next].kind in ("name", "quoted"):
            name = self.take().text
            self.take()
            return Argument(self.expression(0), name)
        return Argument(self.expression(0))

    def check_bar(self) -> None:
        if self.next < len(self.tokens) and self.peek() not in (")", ","):
            return
        start = self.open[-1].at if self.open else 0
        fragment = (
            self.text[start : self.tokens[self.next].at + 1] if self.next < len(self.tokens) else self.text[start:]
        )
        raise DesignError(f"the bar in '{fragment}' has no grouping factor: write (1 | group).")

    def unclosed(self) -> DesignError:
        opening = self.open[-1]
        return DesignError(
            f"unbalanced parentheses: '{opening.text}' at position {opening.at + 1} of '{self.text}' is never closed."
        )

    def unexpected(self, token: Token) -> DesignError:
        if token.text in (")", "]") and token.kind == "operator" and not self.open:
            return DesignError(
                f"unbalanced parentheses: '{token.text}' at position {token.at + 1} of '{self.text}' closes nothing."
            )
        return DesignError(f"did not expect '{token.text}' at position {token.at + 1} of '{self.text}'.")
