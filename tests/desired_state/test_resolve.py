from __future__ import annotations

import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from desired_state.model import Policy, RollbackPolicy, Strategy, StrategyKind, Suspension, Sync
from stickers.names import Artifact, Digest
from tests.desired_state.test_translation import WHOLE
from tests.desired_state.trees import (
    DIGEST_A,
    DIGEST_B,
    ENVIRONMENT,
    RELEASE,
    TARGET,
    codes,
    found,
    joined,
    resolved,
    resolved_files,
    state,
)

TWO = TARGET.replace("t1", "t2")


def test_the_least_that_can_be_said_is_a_desired_state() -> None:
    desired = state(RELEASE, ENVIRONMENT, TARGET)
    assert desired.environment.id == "default/staging"
    assert desired.revision == "r1"
    assert [(str(placement.id), placement.artifact) for placement in desired.placements] == [
        ("default/t1/api", Artifact("registry.example.com/shop/api", Digest(DIGEST_A))),
        ("default/t1/web", Artifact("registry.example.com/shop/web", Digest(DIGEST_B))),
    ]
    assert {placement.release for placement in desired.placements} == {"shop@1"}


def test_the_policies_of_an_environment_arrive() -> None:
    environment = state(
        RELEASE,
        ENVIRONMENT
        + 'suspend: {reason: a visit, until: "2026-11-22T06:00:00+01:00"}\n'
        + "sync: {mode: ask, heal: report, ahead: ask, prune: true, removal_limit: 10%, interval: 5s}\n"
        + "strategy: {kind: rolling, wave: 2, max_failures: 1}\nrollback: manual\nkeep: 5\n"
        + "components: {api: {after: [web]}}\n",
        TARGET,
    ).environment
    assert environment.suspend == Suspension(reason="a visit", until=datetime(2026, 11, 22, 5, tzinfo=UTC))
    assert environment.sync == Sync(
        mode=Policy.ASK,
        heal=Policy.REPORT,
        ahead=Policy.ASK,
        prune=True,
        removal_limit=10,
        interval=timedelta(seconds=5),
    )
    assert environment.strategy == Strategy(wave=2, percent=False, max_failures=1)
    assert (environment.rollback, environment.keep) == (RollbackPolicy.MANUAL, 5)
    assert environment.after == {"api": ("web",)}


def test_what_is_not_said_of_policies_is_the_models_default() -> None:
    environment = state(RELEASE, ENVIRONMENT, TARGET).environment
    assert (environment.sync, environment.strategy, environment.suspend) == (Sync(), Strategy(), None)


def test_all_at_once_needs_no_wave() -> None:
    environment = state(RELEASE, ENVIRONMENT + "strategy: {kind: all-at-once}\n", TARGET).environment
    assert environment.strategy.kind is StrategyKind.ALL_AT_ONCE


def test_a_release_keeps_where_it_came_from() -> None:
    release = resolved(RELEASE + "source: {repository: r, commit: c}\n").releases[0]
    assert (release.name, release.repository, release.commit) == ("shop@1", "r", "c")
    assert release.components["web"].resolved_from == "v1"  # type: ignore[index]


def test_labels_decide_which_targets_run_a_component() -> None:
    environment = ENVIRONMENT + "components: {api: {select: {zone: a}}, web: {select: {zone: b, rack: r1}}}\n"
    targets = [
        TARGET + "labels: {zone: a, rack: r1}\n",
        TWO + "labels: {zone: b, rack: r1}\n",
        TARGET.replace("t1", "t3") + "labels: {zone: b}\n",
    ]
    placements = state(RELEASE, environment, *targets).placements
    assert [str(placement.id) for placement in placements] == ["default/t1/api", "default/t2/web"]


def test_an_environment_of_which_nothing_is_said_runs_the_whole_release() -> None:
    assert len(state(RELEASE, ENVIRONMENT, TARGET, TWO).placements) == 4


def test_an_environment_without_targets_is_no_mistake() -> None:
    assert state(RELEASE, ENVIRONMENT).placements == ()


def test_projects_are_worlds_of_their_own() -> None:
    other = [text + "project: other\n" for text in (RELEASE, ENVIRONMENT, TARGET)]
    what = resolved(RELEASE, ENVIRONMENT, TARGET, *other)
    assert sorted(what.environments) == ["default/staging", "other/staging"]
    assert codes(RELEASE, ENVIRONMENT, TARGET + "project: other\n") == ["ENVIRONMENT_UNKNOWN"]


def test_a_connection_is_kept_as_said_and_without_defaults() -> None:
    target = TARGET + "connection: {via: local, oars: 4}\n"
    assert state(RELEASE, ENVIRONMENT, target).targets[0].connection == {"oars": 4}


def test_a_default_that_is_written_out_changes_no_desire() -> None:
    plain = state(RELEASE, ENVIRONMENT, TARGET)
    assert state(RELEASE, ENVIRONMENT, TARGET + "connection: {via: local, oars: 2}\n").digest == plain.digest


PRODUCT = f"""\
apiVersion: holdfast/v1
kind: Release
name: shop
version: 2.3.1
source: {{repository: https://git.example.com/shop.git, commit: 9f1c2d7e}}
components:
  api: registry.example.com/shop/api@{DIGEST_A}
  db: registry.example.com/shop/db@{DIGEST_A}
  web: {{image: registry.example.com/shop/web, digest: "{DIGEST_B}", resolved_from: v2.3.1}}
---
apiVersion: holdfast/v1
kind: Environment
name: staging
release: shop@2.3.1
suspend: false
sync: {{mode: automatic, heal: automatic, prune: false, interval: 30s}}
strategy: {{kind: rolling, wave: 25%, max_failures: 0}}
rollback: automatic
components:
  api:
    ports: ["127.0.0.1:8081:8080"]
    environment: {{LOG_LEVEL: info, DB_PASSWORD: {{secret: "file:/run/kv/shop#password"}}}}
    after: [db]                                          # order between components
    select: {{zone: a}}                                    # which targets run it; all when left out
    health: {{http: {{port: 8080, path: /health, status: 200}}, interval: 1s, timeout: 5s, successes: 3, deadline: 60s}}
---
apiVersion: holdfast/v1
kind: Target
name: web-1
environment: staging
driver: boat
labels: {{zone: a}}
connection: {{via: local}}
"""


def test_documents_as_people_are_shown_them_mean_what_they_say() -> None:
    desired = state(PRODUCT)
    assert desired.release.name == "shop@2.3.1"
    assert desired.environment.after == {"api": ("db",)}
    assert [str(placement.id) for placement in desired.placements] == [
        f"default/web-1/{name}" for name in ("api", "db", "web")
    ]


WRONG = [
    (
        "a release that does not exist",
        (RELEASE, ENVIRONMENT.replace("shop@1", "shop@2"), TARGET),
        "f.yaml:12:10: release: found 'shop@2'; expected the name of a release that is declared in project default; "
        "did you mean shop@1?",
    ),
    (
        "a target of an environment that does not exist",
        (RELEASE, ENVIRONMENT, TARGET.replace("staging", "stagin")),
        "f.yaml:17:14: environment: found 'stagin'; expected the name of an environment that is declared in project "
        "default; did you mean staging?",
    ),
    (
        "a driver that is not installed",
        (RELEASE, ENVIRONMENT, TARGET.replace("boat", "shipp")),
        "f.yaml:18:9: driver: found 'shipp'; expected one of boat, ship; did you mean ship?",
    ),
    (
        "an environment's component that the release has not",
        (RELEASE, ENVIRONMENT + "components:\n  apii: {}\n", TARGET),
        "f.yaml:14:3: components.apii: found the component apii; expected a component of shop@1: api, web; "
        "did you mean api?",
    ),
    (
        "a target's component that the release has not",
        (RELEASE, ENVIRONMENT, TARGET + "components:\n  wbe: {}\n"),
        "f.yaml:20:3: components.wbe: found the component wbe; expected a component of shop@1: api, web; "
        "did you mean web?",
    ),
    (
        "an order after a component that the release has not",
        (RELEASE, ENVIRONMENT + "components: {api: {after: [db]}}\n", TARGET),
        "f.yaml:13:28: components.api.after[0]: found the component db; expected a component of shop@1: api, web",
    ),
    (
        "an order that goes round in a circle",
        (RELEASE, ENVIRONMENT + "components: {api: {after: [web]}, web: {after: [api]}}\n", TARGET),
        "f.yaml:13:27: components.api.after: found a circle: api before web before api; expected an order that has a "
        "beginning",
    ),
    (
        "an order of a component after itself",
        (RELEASE, ENVIRONMENT + "components: {api: {after: [api]}}\n", TARGET),
        "f.yaml:13:27: components.api.after: found a circle: api before api; expected an order that has a beginning",
    ),
    (
        "a component that runs nowhere",
        (RELEASE, ENVIRONMENT + "components: {api: {select: {zone: a}}}\n", TARGET + "labels: {zone: b}\n"),
        "f.yaml:13:28: components.api.select: found the component api on no target; expected labels of a target in its "
        "select, or optional: true",
    ),
    (
        "a word on a component that the target does not run",
        (
            RELEASE,
            ENVIRONMENT + "components: {api: {select: {zone: a}}}\n",
            TARGET + "labels: {zone: a}\n",
            TWO + "components: {api: {user: a}}\n",
        ),
        "f.yaml:27:14: components.api: found the component api, which this target does not run; expected labels that "
        "its select asks for, or nothing said of it here",
    ),
    (
        "a wave where there are no waves",
        (RELEASE, ENVIRONMENT + "strategy: {kind: all-at-once, wave: 25%}\n", TARGET),
        "f.yaml:13:31: strategy.wave: found a wave; expected none: all-at-once is one wave",
    ),
    (
        "an environment declared twice",
        (RELEASE, ENVIRONMENT, ENVIRONMENT, TARGET),
        "f.yaml:16:7: name: found the environment staging a second time; expected one document of this name; it is "
        "declared in f.yaml on line 9",
    ),
    (
        "a target declared twice",
        (RELEASE, ENVIRONMENT, TARGET, TARGET),
        "f.yaml:22:7: name: found the target t1 a second time; expected one document of this name; it is declared in "
        "f.yaml on line 14",
    ),
    (
        "a release declared twice",
        (RELEASE, RELEASE, ENVIRONMENT, TARGET),
        "f.yaml:11:7: name: found the release shop@1 a second time; expected one document of this name; it is declared "
        "in f.yaml on line 1",
    ),
    (
        "a release that changes",
        (RELEASE, RELEASE.replace(DIGEST_A, DIGEST_B), ENVIRONMENT, TARGET),
        "f.yaml:12:10: version: found the release shop@1 with another content; expected a new version: a release never "
        "changes; it is declared in f.yaml on line 1",
    ),
]


@pytest.mark.parametrize(("what", "documents", "line"), WRONG, ids=[what for what, _, _ in WRONG])
def test_what_makes_no_sense_together_is_found(what: str, documents: tuple[str, ...], line: str) -> None:
    assert found(*documents) == [line]


@pytest.mark.parametrize(
    ("api", "web", "taken"),
    [
        ("8081:80", "8081:80", True),
        ("8081:80", "127.0.0.1:8081:81", True),
        ("8081:80", "0.0.0.0:8081:80", True),
        ("[::]:8081:80", "8081:80", True),
        ("127.0.0.1:8081:80", "127.0.0.2:8081:80", False),
        ("8081:80", "8081:80/udp", False),
        ("8081:80", "8082:80", False),
        ("80", "80", False),
        ("127.0.0.1:8081:80', '0.0.0.0:8082:80", "8082:80", True),
        ("0.0.0.0:8081:80", "127.0.0.7:8081:80", True),
    ],
)
def test_two_components_cannot_publish_one_port_of_a_target(api: str, web: str, taken: bool) -> None:
    said = f"components: {{api: {{ports: ['{api}']}}, web: {{ports: ['{web}']}}}}\n"
    assert codes(RELEASE, ENVIRONMENT + said, TARGET) == (["PORT_TAKEN"] if taken else [])


def test_a_port_that_is_taken_is_found_where_the_second_one_asks_for_it() -> None:
    environment = ENVIRONMENT + "components: {api: {ports: ['8081:80']}}\n"
    target = TARGET + "components:\n  web:\n    ports: ['8081:80']\n"
    assert found(RELEASE, environment, target) == [
        "f.yaml:22:12: components.web.ports: found the port 127.0.0.1:8081/tcp, which api publishes on the same "
        "target; expected a port of its own"
    ]


def test_an_optional_component_may_run_nowhere() -> None:
    environment = ENVIRONMENT + "components: {api: {optional: true, select: {zone: a}}}\n"
    assert [str(placement.id) for placement in state(RELEASE, environment, TARGET).placements] == ["default/t1/web"]


def test_two_circles_are_two_findings() -> None:
    release = RELEASE + "".join(f"  c{n}: r/c@{DIGEST_A}\n" for n in range(2))
    said = "components: {api: {after: [web]}, web: {after: [api]}, c0: {after: [c1]}, c1: {after: [c0]}}\n"
    assert codes(release, ENVIRONMENT + said, TARGET) == ["AFTER_CIRCLE", "AFTER_CIRCLE"]


def test_all_findings_of_a_tree_come_at_once_with_file_and_line() -> None:
    what = resolved_files(
        {
            "1.yaml": RELEASE.replace("kind: Release", "kind: Release\nfoo: 1"),
            "2.yaml": b"a: \xff",
            "3.yaml": joined(ENVIRONMENT + "keep: -1\ncomponents: {apii: {}}\n", "x: [\n"),
            "4.yaml": TARGET.replace("boat", "boot") + "labels: {zone: 1}\n",
            "5.yaml": TARGET.replace("staging", "prod") + "---\n" + TWO.replace("staging", "prod"),
        }
    )
    assert [(found.file, found.line, found.code) for found in what.findings] == [
        ("1.yaml", 3, "KEY_UNKNOWN"),
        ("2.yaml", 1, "NOT_UTF8"),
        ("3.yaml", 5, "OUT_OF_RANGE"),
        ("3.yaml", 6, "COMPONENT_UNKNOWN"),
        ("3.yaml", 9, "NOT_YAML"),
        ("4.yaml", 5, "DRIVER_UNKNOWN"),
        ("4.yaml", 6, "WRONG_TYPE"),
        ("5.yaml", 3, "DECLARED_TWICE"),
        ("5.yaml", 10, "ENVIRONMENT_UNKNOWN"),
    ]


@pytest.mark.parametrize(
    "broken",
    [
        (RELEASE.replace("version: ", "versio: "), ENVIRONMENT, TARGET),
        (RELEASE.replace(DIGEST_A, "sha256:x"), ENVIRONMENT + "components: {api: {}}\n", TARGET),
        (RELEASE.replace("name: shop", "name: [shop]"), ENVIRONMENT, TARGET),
        (RELEASE, ENVIRONMENT.replace("name: staging", "name: staging\nname: x"), TARGET),
        (RELEASE, ENVIRONMENT.replace("kind: Environment", "kind: Enviroment"), TARGET),
        (RELEASE, ENVIRONMENT + "sync: {mode: x}\n", TARGET),
        (RELEASE, ENVIRONMENT + "components: {api: {select: {zone: a}}}\n", TARGET + "labels: {zone: 1}\n"),
        (RELEASE, ENVIRONMENT + "components: {api: {select: {zone: 1}}}\n", TARGET + "components: {api: {}}\n"),
    ],
)
def test_one_mistake_is_one_finding_and_not_also_one_in_each_document_that_refers_to_it(
    broken: tuple[str, ...],
) -> None:
    expected = 2 if "versio:" in broken[0] else 1  # the unknown key, and the one that is missing therefore
    assert len(codes(*broken)) == expected


def test_a_document_that_is_cut_short_is_known_by_what_was_read_of_it() -> None:
    what = resolved_files({"1.yaml": RELEASE, "2.yaml": ENVIRONMENT + "sync: {\n", "3.yaml": TARGET})
    assert [found.code for found in what.findings] == ["NOT_YAML"]


def test_with_any_finding_there_is_no_desired_state_at_all() -> None:
    what = resolved_files({"good.yaml": joined(RELEASE, ENVIRONMENT, TARGET), "other.yaml": "x"})
    assert what.findings
    assert what.environments == {}


def test_a_tree_without_documents_is_empty_and_without_findings() -> None:
    for files in ({}, {"a.yaml": "# nothing\n"}):
        what = resolved_files(dict(files))
        assert what.empty
        assert what.findings == ()


def test_a_tree_that_cannot_be_read_is_not_empty() -> None:
    assert not resolved_files({"a.yaml": b"\xff"}).empty
    assert not resolved(RELEASE).empty


def _many_ports() -> tuple[str, str, str]:
    """Fifty components, each with hundreds of addresses of the same port."""
    parts = "".join(f"  c{n}: r/c@{DIGEST_A}\n" for n in range(50))
    ports = [[f"127.0.{n}.{at}:80:80" for at in range(250)] for n in range(50)]
    said = ", ".join(f"c{n}: {{ports: {given}}}" for n, given in enumerate(ports))
    return RELEASE + parts, ENVIRONMENT + f"components: {{{said}}}\n", TARGET


def _many_circles() -> tuple[str, str, str]:
    parts = "".join(f"  c{n}: r/c@{DIGEST_A}\n" for n in range(4_000))
    circles = ", ".join(f"c{n}: {{after: [c{n ^ 1}]}}" for n in range(4_000))
    return RELEASE + parts, ENVIRONMENT + f"components: {{{circles}}}\n", TARGET


def _many_unknown_keys() -> tuple[str, str, str]:
    return RELEASE, ENVIRONMENT + "".join(f"unknown-{n}: 1\n" for n in range(20_000)), TARGET


@pytest.mark.parametrize("made", [_many_ports, _many_circles, _many_unknown_keys])
def test_a_file_made_to_be_slow_is_read_in_the_time_of_any_other(made: Callable[[], tuple[str, ...]]) -> None:
    began = time.process_time()
    resolved(*made())
    assert time.process_time() - began < 15


# -- meaning, not form -------------------------------------------------------------------------------------------------


def shuffled(node: Any, rng: random.Random) -> Any:
    if isinstance(node, dict):
        keys = list(node)
        rng.shuffle(keys)
        return {key: shuffled(node[key], rng) for key in keys}
    return [shuffled(item, rng) for item in node] if isinstance(node, list) else node


def written(document: Any, rng: random.Random) -> str:
    """The document in some style of YAML, with its keys in some order."""
    text: str = yaml.safe_dump(
        shuffled(document, rng),
        sort_keys=False,
        default_flow_style=rng.choice([True, False, None]),
        default_style=rng.choice([None, None, '"']) if not _has_other_than_texts(document) else None,
        indent=rng.choice([2, 4, 7]),
        width=rng.choice([20, 80, 1000]),
        line_break=rng.choice(["\n", "\r\n"]),
        allow_unicode=rng.choice([True, False]),
    )
    return text


def _has_other_than_texts(node: Any) -> bool:
    if isinstance(node, dict):
        return any(map(_has_other_than_texts, node.values()))
    if isinstance(node, list):
        return any(map(_has_other_than_texts, node))
    return not isinstance(node, str)


@given(st.integers(min_value=0, max_value=2**32))
@settings(max_examples=60, deadline=None)
def test_moving_reformatting_and_reordering_change_no_digest(seed: int) -> None:
    rng = random.Random(seed)
    documents = [yaml.safe_load(text) for text in (*WHOLE, WHOLE[2].replace("name: t1", "name: t2"))]
    rng.shuffle(documents)
    files: dict[str, str | bytes] = {}
    for document in documents:
        name = rng.choice(["a.yaml", "b/c.yaml", "z.yml"])
        files[name] = str(files.get(name, "# a comment\n")) + "---\n" + written(document, rng)
    what = resolved_files(files)
    assert what.findings == (), [str(found) for found in what.findings]
    assert {id: desired.digest for id, desired in what.environments.items()} == PLAIN


PLAIN = {
    id: desired.digest
    for id, desired in resolved(*WHOLE, WHOLE[2].replace("name: t1", "name: t2")).environments.items()
}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("t1", "t9"),
        ("driver: boat", "driver: boat\nlabels: {zone: z}"),
        ("driver: boat", "driver: boat\nconnection: {oars: 8}"),
        ("release: shop@1", "release: shop@1\nkeep: 7"),
        ("release: shop@1", "release: shop@1\nsync: {mode: ask}"),
        ("release: shop@1", "release: shop@1\ncomponents: {api: {user: a}}"),
        ("release: shop@1", "release: shop@1\ncomponents: {api: {after: [web]}}"),
        ("release: shop@1", "release: shop@1\nsuspend: {reason: x}"),
        (DIGEST_A, DIGEST_B),
    ],
)
def test_every_change_of_meaning_changes_the_digest(before: str, after: str) -> None:
    texts = [RELEASE, ENVIRONMENT, TARGET]
    assert state(*[text.replace(before, after) for text in texts]).digest != state(*texts).digest


def test_another_revision_of_the_same_meaning_is_the_same_desire() -> None:
    assert state(RELEASE, ENVIRONMENT, TARGET + "# a comment\n").digest == state(RELEASE, ENVIRONMENT, TARGET).digest


@given(st.binary(max_size=300), st.binary(max_size=100))
@settings(max_examples=150, deadline=None)
def test_whatever_the_bytes_are_loading_only_finds(one: bytes, two: bytes) -> None:
    what = resolved_files({"a.yaml": one, "b.yaml": ENVIRONMENT.encode() + two})
    assert all(str(found).isprintable() for found in what.findings)
    assert not what.environments or not what.findings


ODD = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just("api"), st.just("8080")
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)


@given(st.integers(min_value=0, max_value=2**32), ODD)
@settings(max_examples=100, deadline=None)
def test_whatever_stands_anywhere_in_a_document_loading_only_finds(seed: int, odd: Any) -> None:
    rng = random.Random(seed)
    documents = [yaml.safe_load(text) for text in WHOLE]
    place = rng.choice(documents)
    for _ in range(rng.randrange(4)):
        inner = [value for value in place.values() if isinstance(value, dict)]
        if inner:
            place = rng.choice(inner)
    place[rng.choice([*place, "new"])] = odd
    what = resolved_files({f"{n}.yaml": yaml.safe_dump(document) for n, document in enumerate(documents)})
    assert all(str(found).isprintable() for found in what.findings)
    assert not what.environments or not what.findings
