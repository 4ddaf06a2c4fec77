"""Plain hosts, examined: under this Python and the oldest one, and nothing changed by it."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from desired_state.model import Placement, Target
from desired_state.secrets import SecretFile, SecretRef
from drivers.contract import Diagnosis, Examiner, Grade, Look
from drivers.errors import Unreachable
from drivers.process import examine, host
from drivers.process.connection import Connection
from stickers.names import Artifact, Digest
from tests.drivers.process.far import Far
from tests.drivers.process.yard import Yard


async def examined(yard: Yard, *placements: Placement, **connection: Any) -> dict[str, Diagnosis]:
    target = yard.target_at(connection.pop("root", yard.root), "web-1", **connection)
    assert isinstance(yard.driver, Examiner)
    return {found.about: found for found in await yard.driver.examine(Look(target=target, placements=placements))}


async def test_a_host_that_has_all_is_ok_and_stays_as_it_is(yard: Yard) -> None:
    found = await examined(yard, yard.placement("1"))
    assert {about: each.grade for about, each in found.items()} == dict.fromkeys(
        ("python", "root", "disk", "clock", "artifact"), Grade.OK
    )
    assert "can be made" in found["root"].sentence
    assert not yard.root.exists()


async def test_a_root_in_use_is_this_targets(yard: Yard) -> None:
    await yard.deploy(yard.placement("1"))
    before = sorted(yard.root.rglob("*"))
    assert "is this target's" in (await examined(yard))["root"].sentence
    assert sorted(yard.root.rglob("*")) == before


async def test_a_root_of_another_target_is_told(yard: Yard) -> None:
    await yard.deploy(yard.placement("1"))
    target = yard.target_at(yard.root, "web-2")
    (root,) = (one for one in await yard.driver.examine(Look(target=target)) if one.about == "root")
    assert root.grade is Grade.MISSING
    assert "belongs to target default/web-1" in root.sentence


async def test_a_root_with_strangers_in_it_is_told(yard: Yard) -> None:
    yard.root.mkdir()
    (yard.root / "precious").write_text("x")
    root = (await examined(yard))["root"]
    assert root.grade is Grade.MISSING
    assert "holds precious" in root.sentence


async def test_a_root_that_is_a_file_or_below_one_is_told(yard: Yard) -> None:
    yard.root.write_text("x")
    assert (await examined(yard))["root"].grade is Grade.MISSING
    below = (await examined(yard, root=yard.root / "below"))["root"]
    assert below.grade is Grade.MISSING
    assert "is no directory" in below.sentence


def test_a_root_that_may_not_be_written_says_how_to_make_it() -> None:
    root = {"there": False, "folder": True, "nearest": "/srv", "writable": False, "owner": None, "strangers": []}
    found = examine.root({"root": root, "user": 1000}, {"root": "/srv/web-1"})
    assert found.grade is Grade.MISSING
    assert found.remedy == "as root: install -d -o 1000 /srv/web-1"


def test_whether_a_root_may_be_written_is_asked_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = host.Claim(f"{tmp_path}/a/b", "inst", "default/t1")
    assert host.root_at(claim)["writable"]
    monkeypatch.setattr(os, "access", lambda path, mode: path != str(tmp_path))
    assert not host.root_at(claim)["writable"]


@pytest.mark.parametrize(("python", "said"), [("no-such-python", "no program"), ("/bin/true", "no Python that runs")])
async def test_a_python_that_is_none_is_told(yard: Yard, python: str, said: str) -> None:
    found = (await examined(yard, python=python))["python"]
    assert found.grade is Grade.MISSING
    assert said in found.sentence


async def test_an_artifact_that_cannot_be_had_is_told(yard: Yard) -> None:
    placement = yard.placement("1")
    gone = replace(placement, artifact=Artifact(placement.artifact.repository, Digest("sha256:" + "0" * 64)))
    assert (await examined(yard, gone))["artifact"].grade is Grade.MISSING
    nowhere = (await examined(yard, placement, artifacts="oci:/nowhere"))["artifact"]
    assert nowhere.grade is Grade.MISSING
    assert "/nowhere" in nowhere.sentence


async def test_a_registry_that_does_not_answer_is_unknown(yard: Yard) -> None:
    placement = replace(yard.placement("1"), artifact=Artifact("127.0.0.1:1/shop/web", Digest("sha256:" + "0" * 64)))
    assert (await examined(yard, placement, artifacts="registry"))["artifact"].grade is Grade.UNKNOWN


async def test_credentials_that_cannot_be_resolved_are_told(yard: Yard) -> None:
    placement = yard.placement("1", registry_credentials=SecretRef(reference="env:NONE"))
    found = (await examined(yard, placement, artifacts="registry"))["artifact"]
    assert found.grade is Grade.MISSING
    assert "env:NONE" in found.sentence


async def test_what_this_driver_would_refuse_is_told_beforehand(yard: Yard) -> None:
    found = (await examined(yard, yard.placement("1", networks=("front",))))["declared"]
    assert found.grade is Grade.MISSING
    assert "web: " in found.sentence


def test_what_keeps_the_workloads_is_told_where_it_is_not_ours() -> None:
    lacking = {"name": "systemd", "version": None, "lacks": "the target was not booted by systemd"}
    assert [each.grade for each in examine._keeper(lacking)] == [Grade.MISSING]
    assert [each.grade for each in examine._keeper(lacking | {"lacks": None, "version": 252})] == [Grade.OK]
    assert examine._keeper(None) == ()


async def test_another_user_needs_root(yard: Yard) -> None:
    found = await examined(yard, yard.placement("1", user="nobody"))
    assert ("user" in found) is (os.geteuid() != 0)


def test_the_host_answers_facts_under_every_python(far: Far) -> None:
    facts = far.ask("examine", python=far.python)
    assert facts["python"]["path"] == far.python
    assert facts["python"]["version"][0] == 3
    assert abs(facts["time"] - time.time()) < 60
    assert facts["disk"]["size"] > facts["disk"]["free"] > 0
    assert facts["root"]["writable"]
    assert not far.root.exists()


def test_an_owner_that_cannot_be_read_is_anothers(near: Far) -> None:
    near.root.mkdir()
    (near.root / "owner.json").write_text("{")
    assert near.ask("examine", python="python3")["root"]["owner"] == ["unreadable", "unreadable"]


async def test_a_host_that_cannot_be_asked_is_unknown(yard: Yard) -> None:
    class Gone:
        async def see(self, *_: Any, **__: Any) -> Any:
            raise Unreachable("the line is cut")

    target: Target = yard.target
    connection = Connection.model_validate(dict(target.connection))
    (found,) = await examine.examine(Gone(), connection, Look(target=target), yard.tools)  # type: ignore[arg-type]
    assert found.grade is Grade.UNKNOWN
    assert "the line is cut" in found.sentence


def test_a_path_is_measured_where_it_would_be_made(tmp_path: Path) -> None:
    assert host.room_at(f"{tmp_path}/not/yet")["size"] == host.room_at(str(tmp_path))["size"]


async def test_an_artifact_is_looked_for_as_the_target_would_run_it(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine's platform is not that of the daemon."""
    asked = []
    monkeypatch.setattr(examine, "_from_layout", lambda connection, placement, machine: asked.append(str(machine)))
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "web-1", "6.1", "#1", "aarch64")))
    assert (await examined(yard, yard.placement("1")))["artifact"].grade is Grade.OK
    assert asked == ["linux/arm64"]


async def test_secrets_as_files_need_a_directory_in_memory(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    placement = yard.placement("1", secrets=(SecretFile(name="a", secret=SecretRef(reference="env:A")),))
    found = await examined(yard, placement)
    assert (found["secrets"].grade, "are kept in memory, in /" in found["secrets"].sentence) == (Grade.OK, True)
    monkeypatch.setattr(host, "rooms", lambda: ["/nowhere/holdfast-0"])
    found = await examined(yard, placement)
    assert found["secrets"].grade is Grade.MISSING
    assert "secrets" not in await examined(yard, yard.placement("1"))
