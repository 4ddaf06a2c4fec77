"""JSON Schema of the documents, for editors: what they can underline while one writes.

It knows form, not meaning: that a release exists, or that two components want one port, only `validate` knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from desired_state import schema

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_REF: Final = "#/$defs/{model}"


def json_schema(connections: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    """One schema for every kind of document; a target's connection is that of its driver."""
    drivers = {driver: connections[driver] for driver in sorted(connections)}
    models = [*schema.KINDS.values(), *drivers.values()]
    refs, whole = models_json_schema(
        [(model, "validation") for model in dict.fromkeys(models)], by_alias=True, ref_template=_REF
    )
    definitions = {name: _held(_open(definition)) for name, definition in whole["$defs"].items()}
    target = definitions[_name(refs[schema.Target, "validation"])]
    target["properties"]["driver"]["enum"] = list(drivers)
    target["allOf"] = [_connection(driver, refs[model, "validation"]) for driver, model in drivers.items()]
    return {
        "$schema": DIALECT,
        "title": "Holdfast documents",
        "oneOf": [refs[model, "validation"] for model in schema.KINDS.values()],
        "$defs": definitions,
    }


def _name(reference: Mapping[str, Any]) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _connection(driver: str, reference: Mapping[str, Any]) -> dict[str, Any]:
    is_driver = {"properties": {"driver": {"const": driver}}, "required": ["driver"]}
    return {"if": is_driver, "then": {"properties": {"connection": dict(reference)}}}


def _open(definition: dict[str, Any]) -> dict[str, Any]:
    """A map with fixed keys takes keys that begin with `x-`."""
    if definition.get("additionalProperties") is False:
        return definition | {"patternProperties": {"^x-": True}}
    return definition


def _held(node: Any) -> Any:
    """Keys that people choose keep to their grammar: pydantic says only what stands under those that do."""
    if isinstance(node, list):
        return [_held(item) for item in node]
    if not isinstance(node, dict):
        return node
    held = {key: _held(item) for key, item in node.items()}
    patterns = held.get("patternProperties")
    if isinstance(patterns, dict) and "additionalProperties" not in held:
        ((pattern, values),) = held.pop("patternProperties").items()
        held |= {"propertyNames": {"pattern": pattern}, "additionalProperties": values}
    return held
