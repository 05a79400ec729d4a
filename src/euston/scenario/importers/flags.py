"""Flags of a command line, an argument file or a launch script, each with its line; nothing is executed.

Of the shell it knows words, quotes, comments, arrays, assignments, ``$NAME``, ``${NAME:-default}`` and
``$((integer arithmetic))``; everything else stays as it is written, and is refused where a number is needed.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass

from euston.errors import ConfigError

__all__ = ["Flag", "read_flags"]

MAX_WORDS = 20_000
_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\+?=(.*)", re.DOTALL)
_FLAG = re.compile(r"--[A-Za-z][A-Za-z0-9_.-]*")
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_]\w*)(?::?-([^${}]*))?\}|([A-Za-z_]\w*))")
_POSITIONAL = re.compile(r"\$\{\d+(?::?-([^${}]*))\}")
_ARITHMETIC = re.compile(r"\$\(\(([^()]*(?:\([^()]*\)[^()]*)*)\)\)")
_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
    ast.Mod: operator.mod,
}


@dataclass(frozen=True)
class Flag:
    """``--name value...`` with the line it stands on; `name` has dashes only."""

    name: str
    values: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class _Word:
    text: str
    line: int
    literal: bool = False  # in single quotes: variables stay as they are


_BREAK = "\n"


def read_flags(text: str, source: str) -> tuple[list[Flag], bool]:
    """Flags in order, and whether the text branches (``if``, ``case``): all branches are read.

    Raises
    ------
    ConfigError
        An open quote, or more words than any script has.
    """
    variables: dict[str, str] = {}
    found: list[tuple[str, int, list[str]]] = []
    branches = False
    words = list(_words(text, source))
    for index, word in enumerate(words):
        value = word.text
        if value == _BREAK or value in ("(", ")"):
            if found:
                found.append(("", word.line, []))  # what follows belongs to no flag
            continue
        assigned = None if word.literal else _NAME.fullmatch(value)
        if assigned is not None:
            after = words[index + 1].text if index + 1 < len(words) else ""
            inside = _expand(assigned[2], variables)
            if after != "(":
                variables[assigned[1]] = inside
            if "--" in inside:
                _add(found, inside.split(), word.line)
            if found:
                found.append(("", word.line, []))
            continue
        branches = branches or (value in ("if", "case") and not word.literal)
        value = value if word.literal else _expand(value, variables)
        if value.startswith("--") and re.search(r"\s", value):
            _add(found, value.split(), word.line)
            found.append(("", word.line, []))
        else:
            _add(found, [value], word.line)
    return [Flag(name, tuple(values), line) for name, line, values in found if name], branches


def _add(found: list[tuple[str, int, list[str]]], words: list[str], line: int) -> None:
    for word in words:
        head, given, tail = word.partition("=")
        if _FLAG.fullmatch(head):
            found.append((head[2:].replace("_", "-"), line, [tail] if given else []))
        elif found and found[-1][0] and word:
            found[-1][2].append(word)


def _words(text: str, source: str) -> Iterator[_Word]:
    """Words of a shell text, line breaks and parentheses among them as words of their own."""
    line, start, word, quoted, count = 1, 1, "", False, 0
    literal = after_flag = False
    i = 0

    def done() -> Iterator[_Word]:
        nonlocal word, quoted, literal, count, after_flag
        if word or quoted:
            count += 1
            after_flag = word.startswith("--")
            if count > MAX_WORDS:
                raise ConfigError(f"{source}:{line}: more than {MAX_WORDS:,} words; arguments are few")
            yield _Word(word, start, literal)
        word, quoted, literal = "", False, False

    while i < len(text):
        c = text[i]
        if not word and not quoted:
            start = line
        if c == "\\":
            following = text[i + 1] if i + 1 < len(text) else ""
            if following == "\n" or text[i + 1 : i + 3] == "\r\n":
                i += 1 if following == "\n" else 2
                line += 1
                yield from done()
            else:
                word += following
                i += 1
        elif c in "'\"":
            end = _closing(text, i, source, line)
            inside = text[i + 1 : end]
            word += inside.replace("\\\n", " ") if c == '"' else inside
            literal = literal or (c == "'" and not word[: -len(inside) or None])
            quoted = True
            line += inside.count("\n")
            i = end
        elif text.startswith("$(", i):
            end = _balanced(text, i + 1)
            word += text[i:end]
            line += text[i:end].count("\n")
            i = end - 1
        elif c == "#" and not word and not quoted:
            while i + 1 < len(text) and text[i + 1] != "\n":
                i += 1
        elif c == "\n":
            yield from done()
            after_flag = False
            yield _Word(_BREAK, line)
            line += 1
        elif after_flag and not word.startswith("-") and _part_of_value(c, word):
            word += c  # as in `--moe-layer-freq ([0]*3+[1]*58)`, which a shell would want in quotes
        elif c in "()":
            yield from done()
            after_flag = False
            yield _Word(c, line)
        elif c in ";&|":
            yield from done()
            after_flag = False
            yield _Word(_BREAK, line)
        elif c.isspace():
            yield from done()
        else:
            word += c
        i += 1
    yield from done()


def _part_of_value(c: str, word: str) -> bool:
    return c == "(" or (c == ")" and word.count("(") > word.count(")")) or (c == "|" and bool(word))


def _closing(text: str, at: int, source: str, line: int) -> int:
    mark = text[at]
    i = at + 1
    while i < len(text):
        if text[i] == "\\" and mark == '"':
            i += 1
        elif text[i] == mark:
            return i
        i += 1
    raise ConfigError(f"{source}:{line}: a quote {mark} that is opened here is never closed")


def _balanced(text: str, at: int) -> int:
    """Index behind the parenthesis that closes the one at `at`; the end of the text where none does."""
    depth = 0
    for i in range(at, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i + 1
    return len(text)


def _expand(text: str, variables: dict[str, str]) -> str:
    if "$" not in text or len(text) > 100_000:
        return text

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[3]
        known = variables.get(name)
        if known is not None and "$" not in known and len(known) <= 10_000:
            return known
        return match[2] if match[2] is not None else match[0]

    text = _POSITIONAL.sub(lambda match: match[1], _VARIABLE.sub(value, text))
    bare = _ARITHMETIC.sub(lambda match: _number(match[1], variables) or match[0], text)
    return bare if len(bare) <= 100_000 else text


def _number(expression: str, variables: dict[str, str]) -> str | None:
    """The value of an integer expression, None where it is none."""
    named = re.sub(r"[A-Za-z_]\w*", lambda match: variables.get(match[0], match[0]), expression)
    if not re.fullmatch(r"[\d\s()+*/%-]{1,200}", named):
        return None
    try:
        return str(_evaluate(ast.parse(named.strip(), mode="eval").body))
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _evaluate(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int) and node.value < 2**40:
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        found = int(_OPERATORS[type(node.op)](_evaluate(node.left), _evaluate(node.right)))
        if abs(found) < 2**62:
            return found
    raise ValueError
