"""`holdfast doctor`, as a person and as a program reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from api import doctor
from api.cli.main import main
from desired_state.model import Target
from desired_state.secrets import SecretRef
from drivers.conformance import proper_tools
from drivers.contract import Diagnosis, Grade, Look
from drivers.diagnosis import ok
from drivers.errors import Unreachable
from stickers.names import EnvironmentId, target_id
from stickers.observation import Observation

DIGEST = "sha256:" + "a" * 64
TREE = """
apiVersion: holdfast/v1
kind: Release
name: shop
version: 1.0.0
components: {{web: "registry.example.com/shop/web@{digest}"}}
---
apiVersion: holdfast/v1
kind: Environment
name: staging
release: shop@1.0.0
components:
  web:
    environment: {{TOKEN: {{secret: "env:DOCTOR_TOKEN"}}}}
---
apiVersion: holdfast/v1
kind: Target
name: web-1
environment: staging
driver: process
connection: {{root: {root}/web-1, artifacts: "oci:{root}/none"}}
---
apiVersion: holdfast/v1
kind: Target
name: sea-1
environment: staging
driver: memory
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOCTOR_TOKEN", "c4nary-of-the-mine")
    (tmp_path / "holdfast").mkdir()
    (tmp_path / "holdfast" / "all.yaml").write_text(TREE.format(digest=DIGEST, root=tmp_path))
    main(["keys", "init"])
    return tmp_path


def test_every_target_is_examined_without_a_daemon(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    before = sorted(home.rglob("*"))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "default/web-1  process" in out
    assert "✗ artifact  missing: " in out
    assert "→ push or pack it" in out
    assert "default/sea-1  memory" in out
    assert "1 can be resolved from here" in out
    assert "2 targets: 1 missing, " in out
    assert "c4nary" not in out
    assert sorted(home.rglob("*")) == before


def test_one_target_is_examined_alone(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["doctor", "sea-1"]) == 0
    out = capsys.readouterr().out
    assert "here" not in out.splitlines()
    assert "web-1" not in out
    assert main(["doctor", "default/sea-1"]) == 0


def test_it_is_data_for_programs(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["doctor", "--output", "json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert {said["about"] for said in answer["here"]} == {"keys", "state", "disk", "daemon", "hooks"}
    (web,) = (target for target in answer["targets"] if target["id"] == "default/web-1")
    assert web["driver"] == "process"
    (artifact,) = (said for said in web["diagnoses"] if said["about"] == "artifact")
    assert artifact["grade"] == "missing"
    assert artifact["remedy"]


def test_a_secret_that_cannot_be_resolved_is_missing(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    capsys.readouterr()
    monkeypatch.delenv("DOCTOR_TOKEN")
    assert main(["doctor", "sea-1"]) == 1
    assert "missing: secret env:DOCTOR_TOKEN: the variable is not set" in capsys.readouterr().out


def test_without_keys_it_says_what_makes_them(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["doctor", "--state", "elsewhere"]) == 1
    out = capsys.readouterr().out
    assert "✗ keys" in out
    assert "→ holdfast keys init" in out


def test_an_unknown_target_names_the_nearest(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "web-2"]) == 2
    assert "did you mean default/web-1?" in capsys.readouterr().err


def test_documents_with_findings_are_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "holdfast" / "b.yaml").write_text("kind: Relese\n")
    assert main(["doctor"]) == 2
    assert "holdfast validate" in capsys.readouterr().err


# -- many targets ---------------------------------------------------------------------------------------------------


class Bad:
    """A driver whose targets each go wrong in a way of their own, by name."""

    kind = "bad"

    async def examine(self, look: Look) -> tuple[Diagnosis, ...]:
        name = look.target.id.partition("/")[2]
        if name.startswith("hangs"):
            await anyio.sleep_forever()
        if name == "unreachable":
            raise Unreachable("no way there")
        if name == "broken":
            raise RuntimeError("a slip")
        return (ok("engine", "fine"),)


class Blind:
    """A driver that examines nothing."""

    kind = "blind"

    async def observe(self, looks: list[Look]) -> Mapping[Any, Observation]:
        now = proper_tools().now()
        return {one.target.id: Observation(target=one.target.id, at=now, unseen="dark") for one in looks}


def look(name: str, driver: str = "bad") -> Look:
    return Look(target=Target(id=target_id("default", name), environment=EnvironmentId("default/e"), driver=driver))


async def examined(*looks: Look) -> dict[str, Diagnosis]:
    drivers: Any = {"bad": Bad(), "blind": Blind()}
    found = await doctor.examined(drivers, proper_tools(), looks)
    return {id.partition("/")[2]: said[0] for id, said in found.items()}


async def test_a_hundred_that_hang_take_one_deadline_and_hide_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "WITHIN", timedelta(seconds=0.2))
    with anyio.fail_after(15):
        found = await examined(*(look(f"hangs-{number}") for number in range(100)), look("good"))
    assert found["good"].grade is Grade.OK
    assert found["hangs-7"].grade is Grade.UNKNOWN
    assert "did not end within" in found["hangs-7"].sentence


async def test_whatever_a_driver_raises_is_one_targets_affair() -> None:
    found = await examined(look("unreachable"), look("broken"), look("good"), look("x", "none"))
    assert [found[name].grade for name in ("unreachable", "broken", "good", "x")] == [
        Grade.UNKNOWN,
        Grade.UNKNOWN,
        Grade.OK,
        Grade.UNKNOWN,
    ]
    assert "a slip" in found["broken"].sentence


async def test_a_kind_that_examines_nothing_is_at_least_looked_at() -> None:
    found = await examined(look("x", "blind"))
    assert "cannot be seen: dark" in found["x"].sentence


async def test_one_secret_of_many_targets_is_resolved_once() -> None:
    from dataclasses import replace

    from desired_state.model import Configuration
    from tests.drivers.docker import samples

    asked: list[SecretRef] = []

    async def secret(reference: SecretRef) -> str:
        asked.append(reference)
        return "value"

    declared = Configuration(environment=(("A", SecretRef(reference="env:A")), ("B", SecretRef(reference="env:A"))))
    looks = [replace(look(f"good-{number}"), placements=(samples.placement(declared),)) for number in range(5)]
    tools = replace(proper_tools(), secret=secret)
    found = await doctor.examined({"bad": Bad()}, tools, looks)  # type: ignore[dict-item]
    assert len(asked) == 1
    assert all(said[-1].sentence == "1 can be resolved from here" for said in found.values())
