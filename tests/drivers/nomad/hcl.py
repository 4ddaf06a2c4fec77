"""As much of HCL as a small job needs: blocks with labels, and attributes that are texts, numbers, lists and maps."""

from __future__ import annotations

import json
import re
from typing import Any

Json = dict[str, Any]

TOKEN = re.compile(r'\s*(?:#[^\n]*|("(?:[^"\\]|\\.)*")|(-?\d+)|(true|false)|([A-Za-z_][A-Za-z0-9_-]*)|([{}\[\]=,]))')
PLURAL = {"job": "", "group": "TaskGroups", "task": "Tasks", "network": "Networks", "port": "DynamicPorts"}
NAMES = {"datacenters": "Datacenters", "driver": "Driver", "count": "Count", "env": "Env", "to": "To", "mode": "Mode"}


def parsed(text: str) -> Json:
    tokens = [match.group(1, 2, 3, 4, 5) for match in TOKEN.finditer(text) if any(match.groups())]
    job, rest = _block(tokens, raw=False)
    if rest:
        raise ValueError("expected one block")
    return job


def _block(tokens: list[Any], *, raw: bool) -> tuple[Json, list[Any]]:
    """A block from its keyword on; answers it and what follows."""
    kind, label = tokens[0][3], None
    tokens = tokens[1:]
    if tokens[0][0]:
        label, tokens = json.loads(tokens[0][0]), tokens[1:]
    body, tokens = _body(tokens[1:], raw=kind in ("config", "env"))
    if kind == "job":
        return {"ID": label, "Name": label} | body, tokens
    return {"_kind": kind} | ({"Label" if kind == "port" else "Name": label} if label else {}) | body, tokens


def _body(tokens: list[Any], *, raw: bool) -> tuple[Json, list[Any]]:
    body: Json = {}
    while tokens[0][4] != "}":
        name = tokens[0][3]
        if tokens[1][4] == "=":
            value, tokens = _value(tokens[2:])
            body[name if raw else NAMES[name]] = value
            continue
        inner, tokens = _block(tokens, raw=raw)
        kind = inner.pop("_kind")
        if kind in PLURAL:
            body.setdefault(PLURAL[kind], []).append(inner)
        else:
            body[kind.capitalize()] = inner
    return body, tokens[1:]


def _value(tokens: list[Any]) -> tuple[Any, list[Any]]:
    text, number, truth, _, mark = tokens[0]
    if text:
        return json.loads(text), tokens[1:]
    if number:
        return int(number), tokens[1:]
    if truth:
        return truth == "true", tokens[1:]
    if mark != "[":
        raise ValueError(f"expected a value, found {tokens[0]}")
    items, tokens = [], tokens[1:]
    while tokens[0][4] != "]":
        item, tokens = _value(tokens)
        items.append(item)
        tokens = tokens[1:] if tokens[0][4] == "," else tokens
    return items, tokens[1:]
