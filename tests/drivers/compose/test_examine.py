"""Compose projects, examined: their engine, their program, the place of their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from desired_state.model import Target
from drivers.compose.driver import ComposeDriver
from drivers.conformance import proper_tools
from drivers.contract import Diagnosis, Examiner, Grade, Look
from stickers.names import EnvironmentId, target_id
from tests.drivers.compose.yard import Yard


async def examined(tools: Any, **connection: Any) -> dict[str, Diagnosis]:
    driver = ComposeDriver(tools)
    assert isinstance(driver, Examiner)
    plain = {"template": {"services": {"web": {}}}}
    target = Target(
        id=target_id("default", "web-1"),
        environment=EnvironmentId("default/kit"),
        driver="compose",
        connection=plain | connection,
    )
    try:
        return {found.about: found for found in await driver.examine(Look(target=target))}
    finally:
        await driver.aclose()


async def test_a_project_whose_host_has_all_is_ok(yard: Yard, program: str, tmp_path: Path) -> None:
    root = tmp_path / "examined"
    found = await examined(yard.tools, engine=yard.engine, root=str(root), program=program)
    for about in ("compose", "root", "engine", "version", "clock"):
        assert found[about].grade is Grade.OK, found[about]
    assert program in found["compose"].sentence
    assert not root.exists()


@pytest.mark.parametrize("program", ["no-such-compose", "/bin/false"])
async def test_a_program_that_is_none_says_what_to_install(tmp_path: Path, program: str) -> None:

    found = await examined(proper_tools(), engine=f"unix://{tmp_path}/none.sock", root=str(tmp_path), program=program)
    assert found["compose"].grade is Grade.MISSING
    assert "docker-compose" in (found["compose"].remedy or "")
    assert found["engine"].grade is Grade.MISSING


async def test_a_root_that_is_a_file_is_told(tmp_path: Path) -> None:

    (tmp_path / "file").write_text("x")
    found = await examined(proper_tools(), engine=f"unix://{tmp_path}/none.sock", root=f"{tmp_path}/file/below")
    assert found["root"].grade is Grade.MISSING
    assert "is no directory" in found["root"].sentence
