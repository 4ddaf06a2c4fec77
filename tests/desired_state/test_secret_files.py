"""Secrets as files: how they are declared, laid over each other, and refused where a runtime has none."""

from __future__ import annotations

import pytest

from desired_state.load import load
from desired_state.model import Configuration
from desired_state.resolve import Resolved
from desired_state.secrets import SecretFile, SecretRef
from desired_state.sources.base import Tree
from tests.desired_state.trees import CONNECTIONS, ENVIRONMENT, RELEASE, TARGET, BoatConnection, joined


class Hold(BoatConnection):
    """Of a runtime that has secrets as files, at its own place only."""

    def secret_refused(self, file: SecretFile) -> str | None:
        return None if file.path is None else "no path: it is in the hold"


class Anywhere(BoatConnection):
    def secret_refused(self, file: SecretFile) -> str | None:
        return None


def resolved(base: str, own: str | None = None, connection: type[BoatConnection] = Anywhere) -> Resolved:
    target = TARGET + (f"components: {{api: {{{own}}}}}\n" if own is not None else "")
    text = joined(RELEASE, ENVIRONMENT + f"components: {{api: {{{base}}}}}\n", target)
    return load(Tree(files={"f.yaml": text.encode()}, revision="r"), {**CONNECTIONS, "boat": connection})


def declared(base: str, own: str | None = None) -> tuple[SecretFile, ...]:
    what = resolved(base, own)
    assert what.findings == (), what.findings
    [state] = what.environments.values()
    return next(each.configuration.secrets for each in state.placements if each.id.component == "api")


def found(base: str, own: str | None = None, connection: type[BoatConnection] = Anywhere) -> list[str]:
    return [str(finding) for finding in resolved(base, own, connection).findings]


def test_what_is_said_arrives_sorted_and_has_a_place_of_its_own() -> None:
    files = declared('secrets: {b: {secret: "env:B", path: /etc/b}, a: {secret: "vault:kv/a#a", version: "3"}}')
    assert files == (
        SecretFile(name="a", secret=SecretRef(reference="vault:kv/a#a", version="3")),
        SecretFile(name="b", secret=SecretRef(reference="env:B"), path="/etc/b"),
    )
    assert [file.inside for file in files] == ["/run/secrets/a", "/etc/b"]


def test_a_target_replaces_a_secret_takes_one_away_and_leaves_the_rest() -> None:
    files = declared(
        'secrets: {a: {secret: "env:A"}, b: {secret: "env:B"}, c: {secret: "env:C"}}',
        'secrets: {a: {secret: "env:OTHER"}, b: null}',
    )
    assert [(file.name, file.secret.reference) for file in files] == [("a", "env:OTHER"), ("c", "env:C")]


def test_reference_version_name_and_path_are_part_of_the_configuration() -> None:
    def digest(*files: SecretFile) -> str:
        return Configuration(secrets=files).digest

    one = SecretFile(name="a", secret=SecretRef(reference="env:A"))
    others = (
        SecretFile(name="a", secret=SecretRef(reference="env:B")),
        SecretFile(name="a", secret=SecretRef(reference="env:A", version="2")),
        SecretFile(name="a", secret=SecretRef(reference="env:A"), path="/a"),
        SecretFile(name="b", secret=SecretRef(reference="env:A")),
    )
    assert len({digest(), digest(one), *map(digest, others)}) == 6


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ('secrets: {"../a": {secret: "env:A"}}', "the name of a file"),
        ('secrets: {a: {secret: "env:A", path: a}}', "the absolute path of a file"),
        ('secrets: {a: {secret: "env:A", path: /x/../a}}', "the absolute path of a file"),
        ('secrets: {a: "plain"}', "f.yaml"),
        ("secrets: {a: {path: /a}}", "secret"),
        ('secrets: {a: {secret: "env:A", path: /x}, b: {secret: "env:B", path: /x}}', "a path of its own"),
        ('secrets: {a: {secret: "env:A"}}, volumes: ["data:/run/secrets/a"]', "where a volume is"),
        ("secrets: {a: null}", "null takes away an inherited secret, and none is"),
    ],
)
def test_what_cannot_be_meant_is_told_with_its_place(said: str, wrong: str) -> None:
    [line] = found(said)
    assert "secrets" in line
    assert wrong in line


def test_a_runtime_without_them_refuses_them_by_the_name_of_the_field() -> None:
    [line] = found('secrets: {a: {secret: "env:A"}}', connection=BoatConnection)
    assert "components.api.secrets" in line
    assert "a boat target has them in environment alone" in line


def test_a_runtime_that_chooses_the_place_refuses_another() -> None:
    [line] = found('secrets: {a: {secret: "env:A", path: /a}}', connection=Hold)
    assert "components.api.secrets.a.path" in line
    assert "no path: it is in the hold" in line
