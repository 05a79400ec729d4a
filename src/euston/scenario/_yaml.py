"""YAML 1.2 text to plain data, remembering the line and column of every key and value.

Only the node tree is taken from the parser; plain data are built here, so no tag can construct anything, keys
given twice are refused and aliases cannot multiply without bound.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

Path = tuple[str | int, ...]
Mark = tuple[int, int]

_MAX_CHARACTERS = 16 * 1024 * 1024
_MAX_NODES = 500_000
_MAX_DEPTH = 100
_CORE = "tag:yaml.org,2002:"
_PLAIN = {_CORE + name for name in ("map", "seq", "str", "int", "float", "bool", "null")}


class YamlProblem(Exception):
    """Text that is no readable, plain YAML; `mark` is (line, column), 1-based, or None."""

    def __init__(self, message: str, mark: Mark | None, path: Path = ()) -> None:
        super().__init__(message)
        self.message, self.mark, self.path = message, mark, path


@dataclass
class Document:
    """Plain data with the place of every key and value: (line, column), 1-based, by path."""

    data: Any
    keys: dict[Path, Mark] = field(default_factory=dict)
    values: dict[Path, Mark] = field(default_factory=dict)

    def mark(self, path: Path) -> Mark | None:
        """Where the key at `path`, or the nearest section around it, stands."""
        for length in range(len(path), -1, -1):
            here = path[:length]
            found = self.keys.get(here) or self.values.get(here)
            if found:
                return found
        return None


def read(text: str) -> Document:
    """Parse one YAML document.

    Raises
    ------
    YamlProblem
        Unreadable YAML, a tag other than the plain ones, a key given twice, a recursive or exploding alias.
    """
    if len(text) > _MAX_CHARACTERS:
        raise YamlProblem(
            f"has more than {_MAX_CHARACTERS // 2**20} Mi characters; a scenario is small", None
        )
    yaml = YAML(typ="safe", pure=True)
    try:
        node = yaml.compose(io.StringIO(text))
    except MarkedYAMLError as error:
        where = error.problem_mark or error.context_mark
        problem = " ".join(str(error.problem or error.context or "cannot be parsed").split())
        mark = None if where is None else (where.line + 1, where.column + 1)
        raise YamlProblem(f"unreadable YAML: {problem}", mark) from None
    except YAMLError as error:
        raise YamlProblem(f"unreadable YAML: {' '.join(str(error).split())}", None) from None
    except RecursionError:
        raise YamlProblem(f"unreadable YAML: nested deeper than {_MAX_DEPTH} levels", None) from None
    if node is None:
        raise YamlProblem("is empty; a scenario begins with `version: 1`", None)
    return _Reader(yaml.constructor).document(node)


def _mark(node: Node) -> Mark:
    return node.start_mark.line + 1, node.start_mark.column + 1


class _Reader:
    def __init__(self, constructor: SafeConstructor) -> None:
        self.constructor = constructor
        self.nodes = 0
        self.open: set[int] = set()

    def document(self, node: Node) -> Document:
        self.result = Document(None)
        self.result.data = self.value(node, ())
        return self.result

    def value(self, node: Node, path: Path) -> Any:
        mark = _mark(node)
        self.result.values.setdefault(path, mark)
        self.nodes += 1
        if self.nodes > _MAX_NODES:
            raise YamlProblem(f"holds more than {_MAX_NODES} values; too many aliases?", mark)
        if len(path) > _MAX_DEPTH:
            raise YamlProblem(f"unreadable YAML: nested deeper than {_MAX_DEPTH} levels", mark)
        tag = str(node.tag)
        if tag not in _PLAIN and tag != _CORE + "timestamp":
            raise YamlProblem(f"the tag {_shown(tag)} is refused; a scenario holds plain values only", mark)
        if id(node) in self.open:
            raise YamlProblem("an alias refers to the section it stands in", mark)
        self.open.add(id(node))
        try:
            if isinstance(node, MappingNode):
                return self.mapping(node, path)
            if isinstance(node, SequenceNode):
                return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
            return self.scalar(node, mark)
        finally:
            self.open.discard(id(node))

    def scalar(self, node: Node, mark: Mark) -> Any:
        assert isinstance(node, ScalarNode)
        if node.tag == _CORE + "timestamp":  # a date is only ever text here
            return str(node.value)
        try:
            return self.constructor.construct_object(node)
        except (ValueError, YAMLError):
            raise YamlProblem(
                f"unreadable YAML: {node.value!r} is no {str(node.tag)[len(_CORE) :]}", mark
            ) from None

    def mapping(self, node: MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        seen: dict[str, Mark] = {}
        for key_node, value_node in node.value:
            mark = _mark(key_node)
            key = key_node.value if isinstance(key_node, ScalarNode) else None
            if not isinstance(key, str) or str(key_node.tag) not in (_CORE + "str", _CORE + "timestamp"):
                shown = "a list or section" if key is None else repr(key).strip("'")
                raise YamlProblem(f"{shown} is not a key; keys are words", mark, path)
            here = (*path, key)
            if key in seen:
                raise YamlProblem(f"is given twice, first in line {seen[key][0]}", mark, here)
            seen[key] = mark
            self.result.keys[here] = mark
            result[key] = self.value(value_node, here)
        return result


def _shown(tag: str) -> str:
    return f"'!!{tag[len(_CORE) :]}'" if tag.startswith(_CORE) else f"'{tag}'"
