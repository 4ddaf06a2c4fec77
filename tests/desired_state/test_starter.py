from __future__ import annotations

import re

from desired_state.load import load
from desired_state.sources.base import Tree
from desired_state.starter import starter
from drivers.docker.connection import Connection as DockerConnection
from drivers.process.connection import Connection as ProcessConnection

_COMMENTED = re.compile(r"^( *)# ( *(?:(?:[a-z][A-Za-z_]*|[A-Z_]{2,}):(?: .*)?|---))$", re.MULTILINE)

CONNECTIONS = {"docker": DockerConnection, "process": ProcessConnection}


def test_the_starter_tree_loads_without_findings() -> None:
    what = load(Tree(files=starter(), revision="1"), CONNECTIONS)
    assert [str(finding) for finding in what.findings] == []
    assert list(what.environments) == ["default/staging"]


def test_the_starter_tree_changes_nothing_until_a_person_says_so() -> None:
    what = load(Tree(files=starter(), revision="1"), CONNECTIONS)
    assert all(desired.environment.suspend for desired in what.environments.values())


def test_what_is_commented_out_in_the_starter_tree_is_right_too() -> None:
    files = {name: _COMMENTED.sub(r"\1\2", content.decode()).encode() for name, content in starter().items()}
    what = load(Tree(files=files, revision="1"), CONNECTIONS)
    assert [(finding.code, finding.path) for finding in what.findings] == [
        ("COMPONENT_UNKNOWN", "components.web.after[0]"),  # the starter's release has no db
        ("COMPONENT_NOT_HERE", "components.web"),  # and its second target is not in the zone
    ]
    assert b"\n      DB_PASSWORD: {secret" in files["environments/staging.yaml"]
    assert b"\ndriver: process" in files["targets/staging.yaml"]
