"""What pydantic refuses, as findings that point into the file."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.desired_state.trees import (
    DIGEST_A,
    ENVIRONMENT,
    RELEASE,
    TARGET,
    codes,
    found,
    resolved,
    resolved_files,
    state,
)

# Every map that has fixed keys, each filled.
WHOLE_RELEASE = f"""\
apiVersion: holdfast/v1
kind: Release
project: default
name: shop
version: "1"
source: {{repository: https://git.example.com/shop.git, commit: 9f1c2d7e}}
components:
  api: registry.example.com/shop/api@{DIGEST_A}
  web: {{image: registry.example.com/shop/web, digest: "{DIGEST_A}", resolved_from: v1}}
"""
WHOLE_ENVIRONMENT = """\
apiVersion: holdfast/v1
kind: Environment
name: staging
release: shop@1
suspend: {reason: a visit, until: "2026-11-22T06:00:00+01:00"}
sync: {mode: ask, heal: automatic, ahead: report, prune: true, removal_limit: 10%, interval: 5s}
strategy: {kind: rolling, wave: 2, max_failures: 1}
rollback: manual
keep: 3
components:
  api:
    command: [serve, --port, "8080"]
    environment: {LEVEL: info, PASSWORD: {secret: "env:PASSWORD", version: "2"}}
    ports: ["127.0.0.1:8081:8080"]
    volumes: ["data:/data"]
    networks: [shop]
    user: "1000"
    restart: always
    memory: 256Mi
    cpus: 0.5
    stop_grace: 20s
    healthcheck: {command: [check], interval: 5s, timeout: 1s, retries: 2, start_period: 1s}
    registry_credentials: {secret: "file:/etc/registry.json#token"}
    health: {http: {port: 8080, path: /health, status: 204, body: ok}, interval: 1s, timeout: 2s, successes: 2,
             minimum: 1s, deadline: 30s}
    hooks:
      pre_deploy: {command: [migrate], environment: {DB: {secret: "env:DB"}}, deadline: 30s}
      post_deploy: {command: [announce], deadline: 5s, on_failure: warn}
    state: running
    after: [web]
    select: {zone: a}
    optional: true
  web:
    health: {tcp: {port: 80}}
"""
WHOLE_TARGET = """\
apiVersion: holdfast/v1
kind: Target
name: t1
environment: staging
driver: ship
labels: {zone: a}
connection: {via: local, hull: steel, tls: {ca: /ca.pem}}
components:
  api: {health: {http: {port: 9090}}, environment: {LEVEL: debug}}
"""
WHOLE = [WHOLE_RELEASE, WHOLE_ENVIRONMENT, WHOLE_TARGET]

FREE = {"labels", "environment", "select"}  # maps whose keys people choose


def test_documents_that_say_everything_have_no_findings() -> None:
    assert found(*WHOLE) == []


def maps_with_fixed_keys(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(node, dict):
        is_free = bool(path) and (path[-1] in FREE or path[-1] == "components")
        if not is_free:
            yield path
        for key, value in node.items():
            yield from maps_with_fixed_keys(value, (*path, key))


def at(node: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        node = node[step]
    return node


CASES = [
    (number, path)
    for number, text in enumerate(WHOLE)
    for path in maps_with_fixed_keys(yaml.load(text, Loader=yaml.BaseLoader))
]


def dumped(documents: list[Any]) -> list[str]:
    return [yaml.safe_dump(document, sort_keys=False, default_flow_style=False) for document in documents]


@pytest.mark.parametrize(("number", "path"), CASES)
def test_an_unknown_key_is_found_at_every_level_with_the_nearest_known_one(number: int, path: tuple[str, ...]) -> None:
    documents = [yaml.safe_load(text) for text in WHOLE]
    place = at(documents[number], path)
    known = next(iter(place))
    place[known + "x"] = "value"
    texts = dumped(documents)
    (finding,) = resolved_files(dict(zip(("1.yaml", "2.yaml", "3.yaml"), texts, strict=True))).findings
    line = texts[number].splitlines()[finding.line - 1]
    assert finding.code == "KEY_UNKNOWN"
    assert finding.file == f"{number + 1}.yaml"
    assert line[finding.column - 1 :].startswith(known + "x:")
    assert finding.path == ".".join((*path, known + "x"))
    assert finding.nearest == known


def test_the_cases_of_unknown_keys_are_all_maps() -> None:
    assert len(CASES) >= 18


@pytest.mark.parametrize(("number", "path"), CASES)
def test_a_key_that_begins_with_x_is_free_at_every_level_and_changes_nothing(
    number: int, path: tuple[str, ...]
) -> None:
    documents = [yaml.safe_load(text) for text in WHOLE]
    plain = state(*dumped(documents)).digest
    extended = copy.deepcopy(documents)
    at(extended[number], path)["x-anything"] = {"of": ["any", {"kind": None}]}
    assert state(*dumped(extended)).digest == plain


def test_in_maps_whose_keys_people_choose_x_is_a_key_like_any_other() -> None:
    target = TARGET + "labels: {x-rack: r1}\n"
    assert state(RELEASE, ENVIRONMENT, target).targets[0].labels == {"x-rack": "r1"}


def environment(said: str) -> list[str]:
    """The findings of an environment that says this beside the least; its line 5 is the first of it."""
    lines = [str(finding) for finding in resolved_files({"r": RELEASE, "e": ENVIRONMENT + said, "t": TARGET}).findings]
    return [line.removeprefix("e:") for line in lines]


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            "sync: {mode: automtic}\n",
            "5:14: sync.mode: found 'automtic'; expected one of automatic, ask, report; did you mean automatic?",
        ),
        ("sync: {prune: yes}\n", "5:15: sync.prune: found 'yes'; expected true or false"),
        (
            "sync: {interval: 30}\n",
            "5:18: sync.interval: found 30; expected a span of time such as 500ms, 30s, 5m or 1h",
        ),
        ("sync: {removal_limit: 30}\n", "5:23: sync.removal_limit: found 30; expected a percent from 0% to 100%"),
        ("sync: null\n", "5:7: sync: found null; expected a map"),
        ("sync: [a]\n", "5:7: sync: found a list; expected a map"),
        (
            "rollback: auto\n",
            "5:11: rollback: found 'auto'; expected one of automatic, manual; did you mean automatic?",
        ),
        ("keep: -1\n", "5:7: keep: found -1; expected at least 0"),
        ("keep: 2.5\n", "5:7: keep: found 2.5; expected a whole number"),
        ("keep: '2'\n", "5:7: keep: found '2'; expected a whole number"),
        ("keep: true\n", "5:7: keep: found true; expected a whole number"),
        (
            "suspend: true\n",
            "5:10: suspend: found true; expected false, or {reason: why, until: when it ends by itself}",
        ),
        ("suspend: {}\n", "5:10: suspend.reason: found nothing; expected the key reason: why, for people"),
        ("suspend: {reason: ' '}\n", "5:19: suspend.reason: found ' '; expected a text that says something"),
        (
            "suspend: {reason: x, until: 2026-11-22}\n",
            "5:29: suspend.until: found '2026-11-22'; expected a time with its zone, such as 2026-11-22T06:00:00+01:00",
        ),
        (
            "strategy: {kind: canary}\n",
            "5:18: strategy.kind: found 'canary'; expected one of all-at-once, rolling",
        ),
        (
            "strategy: {wave: 0%}\n",
            "5:18: strategy.wave: found '0%'; expected a number of targets such as 3, or a percent of them such as 25%",
        ),
        ("components: {api: }\n", "5:19: components.api: found null; expected a map"),
        (
            "components: {API: {}}\n",
            "5:14: components.API: found the key API; expected lower-case letters, digits and hyphens, at most 63, "
            "beginning and ending with a letter or digit",
        ),
        (
            "components: {api: {ports: [8080]}}\n",
            '5:28: components.api.ports[0]: found 8080; expected a text: "8080", "8081:8080" or "127.0.0.1:8081:8080", '
            "with /udp after it where it is not tcp",
        ),
        (
            "components: {api: {ports: {a: b}}}\n",
            "5:27: components.api.ports: found a map; expected a list",
        ),
        (
            "components: {api: {health: {http: {port: 70000}}}}\n",
            "5:42: components.api.health.http.port: found 70000; expected at most 65535",
        ),
        (
            "components: {api: {health: {interval: 0s, tcp: {port: 1}}}}\n",
            "5:39: components.api.health.interval: found '0s'; expected a span of time such as 500ms, 30s, 5m or 1h, "
            "longer than 0s",
        ),
        (
            "components: {api: {user: 1000}}\n",
            "5:26: components.api.user: found 1000; expected a text: user or user:group, by name or by number, "
            'such as "1000:1000"',
        ),
        (
            "components: {api: {restart: no}}\n",
            "5:29: components.api.restart: found 'no'; expected one of never, on-failure, unless-stopped, always",
        ),
        (
            "components: {api: {state: runing}}\n",
            "5:27: components.api.state: found 'runing'; expected one of running, stopped; did you mean running?",
        ),
        (
            "components: {api: {select: {zone: 1}}}\n",
            "5:35: components.api.select.zone: found 1; expected a text; put it in quotes if it is meant as one",
        ),
        ("components: {api: {command: []}}\n", "5:29: components.api.command: found a list; expected at least 1"),
        (
            "components: {api: {memory: 256}}\n",
            "5:28: components.api.memory: found 256; expected a size such as 256Mi or 1G, at least 1Mi",
        ),
        (
            "gates: []\n",
            "5:1: gates: found the unknown key gates; expected one of apiVersion, components, keep, kind, name, "
            "project, release, rollback, strategy, suspend, sync",
        ),
    ],
)
def test_each_finding_says_where_what_and_what_instead(said: str, line: str) -> None:
    assert environment(said) == [line]


@pytest.mark.parametrize(
    ("said", "path"),
    [
        ("environment: {PASSWORD: 424242}", "environment.PASSWORD"),
        ("environment: {PASSWORD: [424242]}", "environment.PASSWORD"),
        ("environment: {PASSWORD: {secret: '424242'}}", "environment.PASSWORD.secret"),
        ("environment: {PASSWORD: {value: '424242'}}", "environment.PASSWORD.secret"),
        ("environment: {PASSWORD=424242}", "environment.PASSWORD…"),
        ("environment: [PASSWORD=424242]", "environment"),
        ("environment: PASSWORD=424242", "environment"),
        ("command: serve --password 424242", "command"),
        ("registry_credentials: '424242'", "registry_credentials"),
        ("registry_credentials: {secret: '424242'}", "registry_credentials.secret"),
    ],
)
def test_no_finding_shows_a_value_that_may_be_secret(said: str, path: str) -> None:
    lines = environment(f"components: {{api: {{{said}}}}}\n")
    assert lines
    assert all("424242" not in line for line in lines)
    assert any(f"components.api.{path}: " in line for line in lines)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("valut:kv/x#y", "; did you mean vault?"),
        ("aws-smm:x", "; did you mean aws-sm?"),
        ("vault:kv/x", "expected vault:mount/path#field"),
        ("sops:/x.yaml", "expected sops:/path#field"),
        ("enf", "aws-ssm:/path#field or sops:/path#field"),
    ],
)
def test_a_reference_that_is_none_says_how_its_backend_is_written(said: str, expected: str) -> None:
    (line,) = environment(f"components: {{api: {{environment: {{PASSWORD: {{secret: '{said}'}}}}}}}}\n")
    assert "PASSWORD.secret: found a text; expected" in line
    assert line.endswith(expected)


@pytest.mark.parametrize(
    ("reference", "version", "expected"),
    [
        ("vault:kv/x#y", "v2", "the number of a version"),
        ("vault:kv/x#y", "0", "the number of a version"),
        ("aws-ssm:/x", "two words", "the number of a version, or a label"),
        ("aws-sm:x", "two words", "a version's id, or a stage such as AWSPREVIOUS"),
    ],
)
def test_a_version_that_its_backend_cannot_keep_is_found(reference: str, version: str, expected: str) -> None:
    said = f"{{secret: '{reference}', version: '{version}'}}"
    (line,) = environment(f"components: {{api: {{environment: {{X: {said}}}}}}}\n")
    assert "environment.X.version: found" in line
    assert line.endswith(f"expected {expected}")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("{verify: false}", "found the unknown key verify; expected one of ca, server_name"),
        ("{ca: ca.pem}", "found 'ca.pem'; expected the absolute path of a file, without . and .."),
        ("{server_name: 'https://x'}", "found 'https://x'; expected the name of a host"),
        ("true", "found true; expected a map"),
    ],
)
def test_tls_of_a_check_has_no_switch_that_turns_it_off(said: str, expected: str) -> None:
    (line,) = environment(f"components: {{api: {{health: {{http: {{port: 80, tls: {said}}}}}}}}}\n")
    assert "health.http.tls" in line
    assert expected in line


def test_a_backend_without_versions_takes_any_text_as_one() -> None:
    for said in ("{secret: 'env:A', version: 'any text'}", "{secret: 'vault:kv/x#y', version: '12'}"):
        assert environment(f"components: {{api: {{environment: {{X: {said}}}}}}}\n") == []


def test_what_is_missing_is_named_at_the_map_that_lacks_it() -> None:
    assert found("kind: Target\nname: t1\nlabels: {}\n") == [
        "f.yaml:1:1: apiVersion: found nothing; expected the key apiVersion",
        "f.yaml:1:1: driver: found nothing; expected the key driver: the runtime, such as docker or process",
        "f.yaml:1:1: environment: found nothing; expected the key environment: the name of the "
        "environment it belongs to",
    ]


def test_a_release_names_artifacts_by_digest_only() -> None:
    release = RELEASE.replace(f"@{DIGEST_A}", ":v1").replace("image: registry.example.com/shop/web", "image: Shop:1")
    assert found(release.replace("sha256:bb", "sha256:BB")) == [
        "f.yaml:6:8: components.api: found 'registry.example.com/shop/api:v1'; expected repository@sha256:<64 hex>, or "
        "{image: repository, digest: sha256:<64 hex>}; `holdfast release create` resolves tags",
        "f.yaml:7:16: components.web.image: found 'Shop:1'; expected an image repository without tag or digest, "
        "such as registry.example.com/shop/api",
        "f.yaml:7:32: components.web.digest: found 'sha256:BB" + "b" * 62 + "'; expected sha256: and 64 lower-case "
        "hexadecimal digits",
    ]


def test_a_version_that_reads_as_a_number_is_asked_for_in_quotes() -> None:
    assert found(RELEASE.replace('"1"', "1.10")) == [
        "f.yaml:4:10: version: found 1.1; expected a text; put it in quotes if it is meant as one"
    ]


def test_a_kind_that_is_unknown_is_found_with_the_nearest() -> None:
    assert found("apiVersion: holdfast/v1\nkind: Enviroment\nname: x\n") == [
        "f.yaml:2:7: kind: found 'Enviroment'; expected one of Release, Environment, Target; did you mean Environment?"
    ]
    assert codes("name: x\n") == ["KEY_MISSING"]
    assert codes("kind: [a]\n") == ["KIND_UNKNOWN"]


def test_another_api_version_is_refused() -> None:
    (line,) = found(RELEASE.replace("holdfast/v1", "holdfast/v2"))
    assert line == "f.yaml:1:13: apiVersion: found 'holdfast/v2'; expected holdfast/v1"


def test_a_connection_is_judged_by_its_drivers_model() -> None:
    target = TARGET.replace("boat", "ship") + "connection: {hul: steel, tls: {ca: 5, kee: x}, password: 42}\n"
    assert found(RELEASE, ENVIRONMENT, target) == [
        "f.yaml:19:13: connection.hull: found nothing; expected the key hull",
        "f.yaml:19:14: connection.hul: found the unknown key hul; expected one of hull, password, tls, via; "
        "did you mean hull?",
        "f.yaml:19:36: connection.tls.ca: found 5; expected a text; put it in quotes if it is meant as one",
        "f.yaml:19:39: connection.tls.kee: found the unknown key kee; expected one of ca, key; did you mean key?",
        "f.yaml:19:58: connection.password: found a number; expected a text; put it in quotes if it is meant as one",
    ]


def test_a_rule_of_a_whole_connection_is_told_at_the_connection() -> None:
    target = TARGET.replace("boat", "ship") + "connection: {hull: glass}\n"
    assert found(RELEASE, ENVIRONMENT, target) == [
        "f.yaml:19:13: connection: found a map; expected tls for a hull of glass"
    ]


def test_a_connection_that_is_missing_lacks_its_keys() -> None:
    (finding,) = resolved(RELEASE, ENVIRONMENT, TARGET.replace("boat", "ship")).findings
    assert (finding.path, finding.line, finding.code) == ("connection.hull", 14, "KEY_MISSING")


def test_of_what_the_reader_refused_no_second_finding_is_made() -> None:
    assert codes(RELEASE, ENVIRONMENT, TARGET.replace("name: t1", "name: *alias")) == ["ALIAS"]
    assert codes(RELEASE, ENVIRONMENT, TARGET.replace("driver: boat", "<<: {driver: boat}")) == ["MERGE_KEY"]
    assert codes(RELEASE, ENVIRONMENT.replace("name: staging", "name: &a staging"), TARGET) == ["ANCHOR"]
