"""The parser: R's precedence, R's way of writing back, patsy's spellings, and lme4's expansion of bars."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylmernn.formula import parse
from pylmernn.formula.nodes import (
    Argument,
    Binary,
    Call,
    Constant,
    Name,
    Number,
    Paren,
    String,
    Unary,
    deparse,
    names_in,
    r_number,
)
from pylmernn.formula.parser import parse_expression
from pylmernn.formula.terms import expand

atoms = st.one_of(
    st.builds(Name, st.sampled_from(["x", "y1", ".", "a.b", "_u", "my col", "if", "größe", "2x", "a`b\\c"])),
    st.builds(Number, st.integers(0, 10**6).map(float)),
    st.builds(Number, st.decimals(0, 1000, places=4).map(float)),
    st.builds(lambda k: Number(float(k), True), st.integers(0, 99)),
    st.builds(String, st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=5)),
    st.builds(Constant, st.sampled_from(["TRUE", "FALSE", "NULL", "NA", "Inf", "NaN"])),
)
BINARY = ["+", "-", "*", "/", ":", "^", "%in%", "%%", "<", ">=", "==", "!=", "&", "&&", "|", "||"]


def calls(inner):
    named = st.builds(Argument, inner, st.sampled_from([None, "df", "Boundary.knots", "odd name"]))
    return st.builds(Call, st.sampled_from(["log", "poly", "as.factor"]), st.lists(named, max_size=3).map(tuple))


def with_parens(inner):
    operand = st.one_of(atoms, inner.map(Paren), calls(inner))
    return st.one_of(
        st.builds(Binary, st.sampled_from(BINARY), operand, operand),
        st.builds(Unary, st.sampled_from(["-", "+"]), operand),
        calls(inner),
        inner.map(Paren),
    )


def without_parens(inner):
    return st.one_of(
        st.builds(Binary, st.sampled_from(BINARY), inner, inner),
        st.builds(Unary, st.sampled_from(["-", "+", "!"]), inner),
        calls(inner),
    )


@given(st.recursive(atoms, with_parens, max_leaves=12))
def test_what_is_written_is_read_back(tree):
    assert parse_expression(deparse(tree)) == tree


@given(st.recursive(atoms, without_parens, max_leaves=12))
def test_writing_is_stable_whatever_the_precedence(tree):
    text = deparse(tree)
    assert deparse(parse_expression(text)) == text


@given(st.floats(-1e300, 1e300))
def test_numbers_keep_15_digits(x):
    assert float(r_number(x)) == pytest.approx(x, rel=1e-14, abs=0)


def test_numbers_look_as_in_r():
    shown = {1e5: "1e+05", 123456: "123456", 0.1: "0.1", 1e-4: "1e-04", 0.00012: "0.00012", 100: "100", 1e15: "1e+15"}
    assert {x: r_number(x) for x in shown} == shown
    assert [r_number(x) for x in (0.0, -2.5, float("inf"), -float("inf"), float("nan"))] == [
        "0", "-2.5", "Inf", "-Inf", "NaN",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text, grouped",
    [
        ("-x^2", "-(x^2)"),
        ("-a:b", "(-a):b"),
        ("a^b^c", "a^(b^c)"),
        ("2^-1", "2^(-1)"),
        ("a + b * c:d^2", "a + (b * (c:(d^2)))"),
        ("a/b/c", "(a/b)/c"),
        ("a %in% b * c", "(a %in% b) * c"),
        ("!x > 3 & y", "((!(x > 3))) & y"),
        ("1 + x | g", "(1 + x) | g"),
        ("a | b & c", "a | (b & c)"),
    ],
)
def test_operators_bind_as_in_r(text, grouped):
    def bare(node):
        if isinstance(node, Paren):
            return bare(node.inner)
        if isinstance(node, Unary):
            return Unary(node.operator, bare(node.operand))
        if isinstance(node, Binary):
            return Binary(node.operator, bare(node.left), bare(node.right))
        return node

    assert parse_expression(text) == bare(parse_expression(grouped))


@pytest.mark.parametrize(
    "ours, r",
    [
        ("I(x ** 2)", "I(x^2)"),
        ("C(f, Treatment('b'))", 'C(f, Treatment("b"))'),
        ("ns(x, knots=[1, 2])", "ns(x, knots = c(1, 2))"),
        ("ns(x, knots=(1,2))", "ns(x, knots = c(1, 2))"),
        ("poly(x, 2, raw=True)", "poly(x, 2, raw = TRUE)"),
        ("f(None, False)", "f(NULL, FALSE)"),
        ("Q('my col')", "`my col`"),
        ("x+1  -y*2/z", "x + 1 - y * 2/z"),
        ("3L + .5 + 1e3", "3L + 0.5 + 1000"),
    ],
)
def test_other_spellings_are_written_back_as_r_writes_them(ours, r):
    assert deparse(parse_expression(ours)) == r


def test_words_of_a_query():
    assert parse_expression("x > 3 and not g == 'a' or y", query=True) == parse_expression("x > 3 & !g == 'a' | y")
    assert parse_expression("`and` + x", query=True) == Binary("+", Name("and"), Name("x"))


def test_names_of_an_expression():
    assert names_in(parse_expression("log(a + b, base = k) * (-a) + f('c')")) == ["a", "b", "k"]


@pytest.mark.parametrize(
    "text, labels",
    [
        ("y ~ (x | g)", ["(x | g)"]),
        ("y ~ ((x | g))", ["(x | g)"]),
        ("y ~ x + (1 + log(x) | g) + (0+factor(f)|h)", ["(1 + log(x) | g)", "(0 + factor(f) | h)"]),
        ("y ~ (x || g)", ["(1 | g)", "(0 + x | g)"]),
        ("y ~ (0 + x || g)", ["(0 + x | g)"]),
        ("y ~ (x * z || g)", ["(1 | g)", "(0 + x | g)", "(0 + z | g)", "(0 + x:z | g)"]),
        ("y ~ (1 | a/b)", ["(1 | b:a)", "(1 | a)"]),
        ("y ~ (1 | a/b/c)", ["(1 | c:(b:a))", "(1 | b:a)", "(1 | a)"]),
        ("y ~ (x || a/b)", ["(1 | b:a)", "(1 | a)", "(0 + x | b:a)", "(0 + x | a)"]),
        ("y ~ (1 | a*b)", ["(1 | a)", "(1 | b)", "(1 | a:b)"]),
        ("y ~ (1 | a + b)", ["(1 | a)", "(1 | b)"]),
        ("y ~ (1 | (a:b))", ["(1 | a:b)"]),
        ("y ~ us(x | g)", ["(x | g)"]),
        ("y ~ diag(x | a/b)", ["diag(x | b:a)", "diag(x | a)"]),
        ("y ~ diag((x | g), hom = FALSE)", ["diag(x | g)"]),
        ("y ~ x + (z + (1 | g) + w)", ["(1 | g)"]),
    ],
)
def test_bars_expand_as_in_lme4(text, labels):
    assert [bar.label for bar in parse(text).random] == labels


@pytest.mark.parametrize(
    "text, fixed",
    [
        ("y ~ (1 | g)", "y ~ 1"),
        ("y ~ 0 + (1 | g)", "y ~ 0"),
        ("y ~ (1|g)+x+(x|h)-1", "y ~ x - 1"),
        ("y ~ (1|g) - 1", "y ~ -1"),
        ("log(y) ~ x + (z + (1 | g) + w)", "log(y) ~ x + (z + w)"),
        ("y ~ +(1 | g)", "y ~ 1"),
    ],
)
def test_the_fixed_part_without_bars(text, fixed):
    assert parse(text).nobars() == fixed
    assert parse(parse(text).nobars()).nobars() == fixed


def test_a_formula_is_written_back():
    text = "log(y)~x+I(x**2)+(1+x||g)+diag(x|h)"
    assert str(parse(text)) == "log(y) ~ x + I(x^2) + (1 + x || g) + diag(x | h)"
    assert parse(text).response == "log(y)"


def test_structures_are_kept_and_specials_set_apart():
    formula = parse("y ~ x + nn(a, b, hidden=c(10, 5)) + diag(x | g)")
    assert [bar.structure for bar in formula.random] == ["diag"]
    assert [deparse(call) for call in formula.specials] == ["nn(a, b, hidden = c(10, 5))"]
    assert formula.nobars() == "y ~ x"


@pytest.mark.parametrize(
    "text, labels, intercept",
    [
        ("a + b + a:b", ["a", "b", "a:b"], True),
        ("b:a + a", ["a", "b:a"], True),
        ("(a + b + c)^2 - a:b", ["a", "b", "c", "a:c", "b:c"], True),
        ("a:a + b:b:a", ["a", "a:b"], True),
        ("0 + a + 1", ["a"], True),
        ("a - 1", ["a"], False),
        ("-1 + a", ["a"], False),
        ("a - 0", ["a"], True),
        ("a * b - a", ["b", "a:b"], True),
        ("(a + b)/c", ["a", "b", "a:b:c"], True),
        ("a/(b + c)", ["a", "a:b", "a:c"], True),
        ("a %in% b", ["a:b"], True),
        ("(a * b * c) - (a:b + c)", ["a", "b", "a:c", "b:c", "a:b:c"], True),
        (". - b", ["a", "c"], True),
        ("x + offset(a) + offset(b)", ["x"], True),
        ("+a", ["a"], True),
    ],
)
def test_terms_are_rs(text, labels, intercept):
    terms = expand(parse_expression(text), ["a", "b", "c"])
    assert list(terms.labels) == labels
    assert terms.intercept is intercept
