"""The trees of values in files of YAML, JSON and ``.env``, with every key once and in the order of the file.

Scalars are what YAML 1.2 and JSON say they are, since a sum over them must be that of another program.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import yaml

DEEPEST: Final = 50
METADATA: Final = "sops_"
_FLAT: Final = re.compile(r"__(list_[0-9]+|map_[a-z_0-9]+?)(?=__|$)")


class Bad(Exception):
    """What is wrong with a file, as the end of a sentence. Shows no value."""


def parsed(content: str, ending: str) -> Mapping[str, Any]:
    """The file's tree; its ending says how it is written, and what is not known is JSON."""
    match ending:
        case ".yaml" | ".yml":
            tree = _yaml(content)
        case ".env":
            tree = _lines(content)
        case ".ini":
            raise Bad("files of INI are not read; use YAML, JSON or .env")
        case _:
            tree = _json(content)
    if not isinstance(tree, Mapping):
        raise Bad("it holds no map of values")
    _check_depth(tree)
    return tree


def _check_depth(node: Any, depth: int = 0) -> None:
    if depth > DEEPEST:
        raise Bad(f"it is nested deeper than {DEEPEST} levels")
    for below in node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ():
        _check_depth(below, depth + 1)


# -- JSON -----------------------------------------------------------------------------------------------------------


def _json(content: str) -> Any:
    try:
        return json.loads(content, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise Bad("it is not JSON") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Bad("a key stands in it twice")
    return found


# -- YAML -----------------------------------------------------------------------------------------------------------


_TAG: Final = "tag:yaml.org,2002:"
_SCALARS: Final[Mapping[str, Callable[[str], Any]]] = {
    "str": str,
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": lambda text: int(text, 0 if text[:2] in ("0o", "0x") else 10),
    "float": float,
}


class _Loader(yaml.SafeLoader):
    """Plain scalars are told apart by the core schema of YAML 1.2; there are no aliases."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # typed so above

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise Bad("it holds an alias, which is not read here")
        return super().compose_node(parent, index)


for _name, _pattern in (  # the first that matches counts
    ("null", r"~|null|Null|NULL|"),
    ("bool", r"true|True|TRUE|false|False|FALSE"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), None)


def _yaml(content: str) -> Any:
    try:
        return _value(yaml.compose(content, Loader=_Loader))
    except (yaml.YAMLError, ValueError, RecursionError):
        raise Bad("it is not one document of YAML") from None


def _value(node: yaml.Node | None) -> Any:
    tag = "" if node is None else node.tag.removeprefix(_TAG)
    match node:
        case yaml.MappingNode() if tag == "map":
            pairs = [(_value(key), _value(value)) for key, value in node.value]
            if not all(isinstance(key, str) for key, _ in pairs):
                raise Bad("a key in it is not a text")
            return _once(pairs)
        case yaml.SequenceNode() if tag == "seq":
            return [_value(item) for item in node.value]
        case yaml.ScalarNode() if tag in _SCALARS:
            return _SCALARS[tag](node.value)
    raise Bad("it holds what is neither a map, a list, a text, a number, true, false nor null")


# -- .env -----------------------------------------------------------------------------------------------------------


def _lines(content: str) -> dict[str, Any]:
    """Values, and under ``sops`` what SOPS says of them, which stands in lines of its own."""
    lines = (line.removesuffix("\r") for line in content.split("\n"))
    split = [line.partition("=") for line in lines if line and not line.startswith("#")]
    pairs = _once([(name, value.replace("\\n", "\n")) for name, _, value in split])
    about: dict[str, Any] = {}
    for name, value in pairs.items():
        if name.startswith(METADATA):
            _put(about, _steps(name.removeprefix(METADATA)), value)
    values = {name: value for name, value in pairs.items() if not name.startswith(METADATA)}
    return values | ({"sops": _listed(about)} if about else {})


def _steps(name: str) -> list[str]:
    """``age__list_0__map_enc`` as ``age``, ``list_0``, ``map_enc``."""
    head = name.partition("__")[0]
    return [head, *_FLAT.findall(name)]


def _put(tree: dict[str, Any], steps: list[str], value: str) -> None:
    for step in steps[:-1]:
        below = tree.setdefault(step, {})
        if not isinstance(below, dict):
            raise Bad("what SOPS says of the file cannot be read")
        tree = below
    tree[steps[-1]] = value


def _listed(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    if node and all(step.startswith("list_") for step in node):
        return [_listed(node[step]) for step in sorted(node, key=lambda step: int(step.removeprefix("list_")))]
    return {step.removeprefix("map_"): _listed(below) for step, below in node.items()}
