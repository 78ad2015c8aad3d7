"""Numbers and tables as R prints them, so that a summary reads as lme4's does, to the letter."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

LINE_WIDTH = 80


def _significant(x: float, digits: int) -> tuple[int, int]:
    """Power of ten of x, and how many of its ``digits`` significant digits are left when trailing zeros go."""
    mantissa, power = f"{abs(x):.{digits - 1}e}".split("e")
    return int(power), len(mantissa.replace(".", "").rstrip("0")) or 1


def format_numbers(values: ArrayLike, digits: int = 7, nsmall: int = 0, na: str = "NA") -> list[str]:
    """Numbers in one common format, each shown to at least ``digits`` significant digits, as R's ``format``.

    Parameters
    ----------
    values : array of float
    digits : int
        The least number of significant digits of the number that needs most decimals.
    nsmall : int
        The least number of decimals.
    na : str
        Text of a missing value.

    Returns
    -------
    list of str
        All of one width, right-justified.
    """
    x = np.asarray(values, dtype=float).ravel() + 0.0  # no negative zeros
    finite = x[np.isfinite(x)]
    decimals, left, mantissa, exponent = 0, 1, 1, 2
    for value in finite:
        power, kept = _significant(value, digits) if value else (0, 1)
        negative = int(value < 0)
        decimals = max(decimals, kept - power - 1)
        left = max(left, max(power, 0) + 1 + negative)
        mantissa = max(mantissa, kept)
        exponent = max(exponent, len(str(abs(power))))
    fixed_width = left + (decimals + 1 if decimals else 0)
    sci_width = int((finite < 0).any()) + mantissa + (mantissa > 1) + exponent + 2
    if fixed_width <= sci_width:
        decimals = max(decimals, nsmall)
        texts = [f"{v:.{decimals}f}" for v in x]
    else:
        texts = [_scientific(v, mantissa - 1) for v in x]
    texts = [_special(v, na) if not np.isfinite(v) else t for v, t in zip(x, texts, strict=True)]
    width = max((len(t) for t in texts), default=0)
    return [t.rjust(width) for t in texts]


def _scientific(value: float, decimals: int) -> str:
    return f"{value:.{decimals}e}" if math.isfinite(value) else ""


def _special(value: float, na: str) -> str:
    if math.isnan(value):
        return na
    return "Inf" if value > 0 else "-Inf"


def format_number(value: float, digits: int = 7) -> str:
    """One number as R's ``format`` shows it."""
    return format_numbers([value], digits)[0]


def zapsmall(x: ArrayLike, digits: int) -> np.ndarray:
    """Round so that what is negligible beside the largest entry becomes zero."""
    x = np.asarray(x, dtype=float)
    largest = np.max(np.abs(x[np.isfinite(x)]), initial=0.0)
    if largest == 0:
        return x
    return r_round(x, max(0, math.floor(digits - math.log10(largest) + 0.5)))


def r_round(x: ArrayLike, digits: int) -> np.ndarray:
    """Round to decimals by the shortest decimal text, as R 4 does (0.15 -> 0.1, 2.5 -> 2)."""
    x = np.asarray(x, dtype=float)
    if digits > 15:
        return x
    return np.array([round(v, digits) if math.isfinite(v) else v for v in x.ravel().tolist()]).reshape(x.shape)


def named_vector(names: Sequence[str], texts: Sequence[str], gap: int = 1, width: int = LINE_WIDTH) -> str:
    """A named vector as R prints it: columns of one width, as many on a line as fit."""
    if not len(names):
        return ""
    cell = max(max(map(len, names)), max(map(len, texts)))
    per_line = max(1, width // (cell + gap))
    lines = []
    for start in range(0, len(names), per_line):
        stop = start + per_line
        for row in (names[start:stop], texts[start:stop]):
            lines.append("".join(t.rjust(cell) + " " * gap for t in row))
    return "\n".join(lines)


def matrix(
    row_names: Sequence[str],
    column_names: Sequence[str],
    cells: Sequence[Sequence[str]],
    right: bool = False,
    width: int = LINE_WIDTH,
) -> str:
    """A character matrix as R prints it without quotes; columns that do not fit go to further blocks.

    Parameters
    ----------
    row_names, column_names : the labels
    cells : rows of text
    right : bool
        Justify cells and headers to the right (numbers) or to the left.
    """
    stub = max(map(len, row_names), default=0)
    widths = [max([len(h)] + [len(row[j]) for row in cells]) for j, h in enumerate(column_names)]
    blocks: list[list[int]] = []
    block: list[int] = []
    used = stub
    for j, w in enumerate(widths):
        if block and used + w + 1 > width:
            blocks.append(block)
            block, used = [], stub
        block.append(j)
        used += w + 1
    blocks.append(block)
    lines = []
    for block in blocks:
        for name, row in zip(["", *row_names], [column_names, *cells], strict=True):
            texts = [row[j].rjust(widths[j]) if right else row[j].ljust(widths[j]) for j in block]
            lines.append(" ".join([name.ljust(stub), *texts]))
    return "\n".join(lines)


def cat_fill(items: Sequence[str], width: int = LINE_WIDTH) -> str:
    """Items separated by spaces, on a new line where the next does not fit (R's ``cat(fill = TRUE)``)."""
    text, used = "", 0
    for i, item in enumerate(items):
        if i:
            text += " "
        if used and used + len(item) + 1 > width:
            text += "\n"
            used = 0
        text += item
        used += len(item) + 1
    return text


def deparse(formula: str, cutoff: int = 60) -> list[str]:
    """Break a long formula after an operator once a line has more than ``cutoff`` characters, as R does."""
    lines, line, quote = [], "", ""
    for i, ch in enumerate(formula):
        line += ch
        if quote:
            quote = "" if ch == quote else quote
            continue
        if ch in "\"'`":
            quote = ch
        operator = ch == " " and formula[i - 2 : i] in (" +", " -", " *", " ~", " |")
        if operator and len(line) > cutoff:
            lines.append(line)
            line = "    "
    return [*lines, line]


def coefficient_cells(
    table: np.ndarray,
    digits: int = 4,
    estimates: int = 2,
    tests: Sequence[int] = (2,),
    p_values: bool = False,
    zap: Sequence[int] = (),
    na: str = "NA",
) -> list[list[str]]:
    """Cells of a coefficient or anova table, formatted as R's ``printCoefmat`` does.

    Parameters
    ----------
    table : array, shape (rows, columns)
    digits : int
        Significant digits of the estimates.
    estimates : int
        The first so many columns are estimates and standard errors and share one format.
    tests : columns that hold test statistics
    p_values : bool
        The last column holds p values.
    zap : columns in which negligible numbers become zero
    na : str
        Text of a missing value.
    """
    x = np.array(table, dtype=float)
    rows, columns = x.shape
    for j in zap:
        x[:, j] = zapsmall(x[:, j], digits)
    cells = np.full((rows, columns), "", dtype=object)
    last = columns - 1 if p_values else columns
    if estimates:
        part = x[:, :estimates]
        size = np.abs(part[np.isfinite(part) & (part != 0)])
        low = 1 + math.floor(math.log10(size.min())) if len(size) else 1
        cells[:, :estimates] = np.reshape(
            format_numbers(r_round(part, max(1, digits - low)), digits), (rows, estimates)
        )
    for j in range(estimates, last):
        if j in tests:
            cells[:, j] = format_numbers(r_round(x[:, j], max(1, min(5, digits - 1))), digits)
        else:
            cells[:, j] = format_numbers(x[:, j], digits)
    body = [j for j in range(last) if j not in tests]
    lost = [
        (i, j)
        for j in body
        for i in range(rows)
        if math.isfinite(x[i, j]) and (x[i, j] == 0) != (float(cells[i, j]) == 0)
    ]
    if lost:  # what rounding wiped out is shown by itself, with a digit less
        texts = format_numbers([x[at] for at in lost], max(1, digits - 1))
        for at, text in zip(lost, texts, strict=True):
            cells[at] = text
    if p_values:
        known = ~np.isnan(x[:, -1])
        cells[known, -1] = format_p_values(x[known, -1], max(1, min(5, digits - 1)))
    cells[np.isnan(x)] = na
    return [list(row) for row in cells]


def format_p_values(p: ArrayLike, digits: int, eps: float = 2.220446e-16) -> list[str]:
    """P values, the tiny ones as "< 2.2e-16", as R's ``format.pval``."""
    p = np.asarray(p, dtype=float)
    texts = np.full(p.shape, "NA", dtype=object)
    shown = p >= eps
    power = np.floor(np.log10(np.where(p > 0, p, 1.0)))
    fixed = shown & ((power >= -3) | ((power == -4) & (digits > 1)))
    for group in (fixed, shown & ~fixed):
        if group.any():
            texts[group] = format_numbers(p[group], digits)
    tiny = p < eps
    if tiny.any():
        texts[tiny] = _tiny([len(t) for t in texts[shown]], max(1, digits - 2), eps)
    return list(texts)


def _tiny(others: list[int], digits: int, eps: float) -> str:
    """The text "< 2.2e-16", with as many digits as the widest of the other p values leaves room for."""
    width = max(others, default=0)
    if others and digits > 1 and digits + 6 > width:
        digits = max(1, width - 7)
    close = digits == 1 and width <= 6
    return f"<{'' if close else ' '}{format_number(eps, digits)}"


def significance_stars(p: ArrayLike) -> list[str]:
    """R's stars: *** 0.001, ** 0.01, * 0.05, . 0.1."""
    marks = []
    for value in np.asarray(p, dtype=float):
        marks.append("" if math.isnan(value) else next((m for b, m in STARS if value <= b), " "))
    return marks


STARS = ((0.001, "***"), (0.01, "**"), (0.05, "*"), (0.1, "."))
STARS_LEGEND = "---\nSignif. codes:  0 ‘***’ 0.001 ‘**’ 0.01 ‘*’ 0.05 ‘.’ 0.1 ‘ ’ 1"


def abbreviate(names: Sequence[str], minlength: int) -> list[str]:
    """Short unique names: lower case vowels go first, then lower case letters, from the end (R's ``abbreviate``)."""
    plain = [name.strip(" ") for name in names]
    unique = list(dict.fromkeys(plain))
    short = {name: _shorten(name, minlength) for name in unique}
    clash = _repeated(short)
    while clash:
        minlength += 1
        for name in clash:
            short[name] = _shorten(name, minlength)
        clash = clash | _repeated(short)
        if not _repeated(short):
            break
    return [short[name] for name in plain]


def _repeated(short: dict[str, str]) -> set[str]:
    """Names whose abbreviation occurs before, and everybody who shares it."""
    seen: dict[str, list[str]] = {}
    for name, text in short.items():
        seen.setdefault(text, []).append(name)
    return {name for group in seen.values() if len(group) > 1 for name in group}


def _shorten(name: str, minlength: int) -> str:
    text = list(name)
    if len(text) < minlength:
        return name

    def first(i: int) -> bool:
        return text[i - 1].isspace()

    def last(i: int) -> bool:
        return not text[i - 1].isspace() and (i + 1 >= len(text) or text[i + 1].isspace())

    def long_enough() -> bool:
        return len(text) - sum(c.isspace() for c in text) <= minlength

    passes = (
        lambda i: text[i] in "aeiou" and last(i),
        lambda i: text[i] in "aeiou" and not first(i),
        lambda i: text[i].islower() and last(i),
        lambda i: text[i].islower() and not first(i),
        lambda i: not first(i) and not text[i].isspace(),
    )
    for drop in passes:
        for i in range(len(text) - 1, 0, -1):
            if long_enough():
                break
            if i < len(text) and drop(i):
                del text[i]
    if len(text) > minlength:
        text = text[:1] + [c for c in text[1:] if not c.isspace()]
    return "".join(text)
