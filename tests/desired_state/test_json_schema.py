from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from desired_state.json_schema import json_schema
from desired_state.schema import KINDS
from desired_state.starter import starter
from drivers import registry
from tests.desired_state.test_translation import WHOLE
from tests.desired_state.trees import CONNECTIONS, ENVIRONMENT, RELEASE, TARGET

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

SCHEMA = json_schema(CONNECTIONS)
REAL = json_schema({kind: registry.connection_model(kind) for kind in registry.BUILT_IN})


def valid(document: Any, schema: dict[str, Any] = SCHEMA) -> bool:
    return jsonschema.Draft202012Validator(schema).is_valid(document)


def test_the_schema_is_one_and_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert len(SCHEMA["oneOf"]) == 3
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


@pytest.mark.parametrize("text", [*WHOLE, RELEASE, ENVIRONMENT, TARGET])
def test_documents_that_load_are_valid(text: str) -> None:
    assert valid(yaml.safe_load(text))


def test_the_starter_tree_is_valid() -> None:
    documents = [document for text in starter().values() for document in yaml.safe_load_all(text)]
    assert documents
    assert all(valid(document, REAL) for document in documents)


@pytest.mark.parametrize(
    ("document", "path", "value"),
    [
        (0, ["kind"], "Relese"),
        (0, ["apiVersion"], "v1"),
        (0, ["components", "api"], "registry.example.com/shop/api:v1"),
        (0, ["components", "api"], 5),
        (0, ["componets"], {}),
        (1, ["sync", "mode"], "automtic"),
        (1, ["sync", "interval"], 30),
        (1, ["sync", "heel"], "automatic"),
        (1, ["suspend"], True),
        (1, ["strategy", "wave"], "25"),
        (1, ["components", "api", "prots"], []),
        (1, ["components", "api", "ports"], [8080]),
        (1, ["components", "api", "health", "http", "port"], 0),
        (1, ["components", "api", "memory"], "256MB"),
        (1, ["components", "API"], {}),
        (2, ["driver"], "shipp"),
        (2, ["connection", "hul"], "steel"),
        (2, ["connection", "hull"], 5),
        (2, ["labels", "zone"], 1),
        (2, ["name"], None),
    ],
)
def test_a_typo_is_not_valid(document: int, path: list[str], value: object) -> None:
    whole = yaml.safe_load(WHOLE[document])
    place = whole
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert not valid(whole)


def test_a_connection_is_judged_by_the_driver_beside_it() -> None:
    target = yaml.safe_load(TARGET)
    assert valid(target | {"connection": {"oars": 4}})
    assert not valid(target | {"connection": {"hull": "steel"}})
    assert valid(target | {"driver": "ship", "connection": {"hull": "steel"}})


def test_keys_that_begin_with_x_are_valid() -> None:
    assert valid(yaml.safe_load(TARGET) | {"x-note": [1], "connection": {"x-note": 1}})


def test_what_an_editor_shows_says_what_is_expected() -> None:
    interval = SCHEMA["$defs"]["Sync"]["properties"]["interval"]
    assert "default 30s" in interval["description"]
    assert SCHEMA["$defs"]["Target"]["properties"]["driver"]["enum"] == ["boat", "ship"]


def test_the_examples_are_valid() -> None:
    filled = {"WORK": "/w", "USER": "deploy", "SOCKET": "/run/docker.sock"}
    for file in sorted(EXAMPLES.rglob("*.y*ml")):
        text = re.sub("@(WORK|USER|SOCKET|PORT[0-9])@", lambda part: filled.get(part[1], "8080"), file.read_text())
        for document in yaml.safe_load_all(text):  # as its `run` fills it in
            if isinstance(document, dict) and document.get("kind") in KINDS:  # others stand in files of their own
                assert valid(document, REAL), file
