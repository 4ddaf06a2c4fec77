"""What a backend answers, and the one field of it that a reference may name."""

from __future__ import annotations

import json
from collections.abc import Mapping

from desired_state.secrets import SecretRef
from drivers.errors import Refused

Content = str | Mapping[str, object]  # a text, or fields


def value(content: Content, secret: SecretRef) -> str:
    """The text, or the text in the field that is named: of a map, of a JSON object, or of lines ``KEY=value`` (blank
    lines and those that begin with # are skipped, and quotes around a value are no part of it)."""
    if secret.field is None:
        if not isinstance(content, str):
            raise Refused(f"secret {secret.reference}: there are fields, name one with #field")
        return content
    found = at(content if not isinstance(content, str) else _in_text(content, secret), secret.field)
    if found is None:
        raise Refused(f"secret {secret.reference}: there is no field {secret.field!r}")
    if not isinstance(found, str):
        raise Refused(f"secret {secret.reference}: the field {secret.field!r} is not a text")
    return found


def at(fields: Mapping[str, object], name: str) -> object:
    """What stands in the field of that name; else, step by step, what stands at a name such as ``db.password``."""
    if name in fields:
        return fields[name]
    step, dot, rest = name.partition(".")
    below = fields.get(step)
    return at(below, rest) if dot and isinstance(below, Mapping) else None


def _in_text(content: str, secret: SecretRef) -> Mapping[str, object]:
    return _of_object(content, secret) if content.lstrip().startswith("{") else _of_lines(content)


def _of_object(content: str, secret: SecretRef) -> Mapping[str, object]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Refused(f"secret {secret.reference}: the content begins like JSON and is no JSON object")
    return found


def _of_lines(content: str) -> Mapping[str, object]:
    lines = (line.strip() for line in content.splitlines())
    pairs = (line.removeprefix("export ").partition("=") for line in lines if line and not line.startswith("#"))
    return {name.strip(): _unquoted(value.strip()) for name, equals, value in pairs if equals}


def _unquoted(value: str) -> str:
    quoted = len(value) >= 2 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value
