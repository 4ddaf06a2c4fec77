"""Secrets as files on a real engine: there when the workload begins, in memory, and nowhere else."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from desired_state.model import Configuration, Target
from desired_state.secrets import SecretFile, SecretRef
from drivers.contract import Result
from drivers.docker import files, render
from drivers.errors import InvalidAction
from drivers.secrets import file
from stickers.observation import WorkloadState
from tests.drivers.docker import samples
from tests.drivers.docker.daemon import Daemon
from tests.drivers.docker.yard import Yard
from tests.harness import images
from tests.harness.images import App
from tests.harness.sshd import sshd_or_skip

pytestmark = pytest.mark.usefixtures("without_traffic")

PASSWORD = SecretRef(reference="env:PASSWORD", version="1")
VALUE = "c4nary\nvalue of a secret"
FILES = (
    SecretFile(name="db-password", secret=PASSWORD),
    SecretFile(name="token", secret=PASSWORD, path="/etc/shop/token"),
)
PICKY = App(  # does not start without its secret, and its user is nobody in particular
    version="picky", before='[ "$(/bin/busybox head -1 /run/secrets/db-password)" = c4nary ] || exit 7'
)


@pytest.fixture
def memory(yard: Yard) -> Iterator[Path]:
    path = Path(f"/dev/shm/holdfast-{yard.mark}")
    if files.file_system(str(path), Path("/proc/self/mounts").read_text()) not in files.IN_MEMORY:
        pytest.skip("/dev/shm is not in memory here")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
async def daemon(yard: Yard, memory: Path) -> AsyncIterator[Daemon]:
    yard.tools = replace(yard.tools, secret=_secret)
    async with Daemon(yard, target=_target(yard, str(memory))) as daemon:
        yield daemon


def _target(yard: Yard, directory: str) -> Target:
    return replace(yard.target, connection={**yard.target.connection, "secrets_directory": directory})


async def _secret(reference: SecretRef) -> str:
    assert reference == PASSWORD
    return VALUE


def inside(yard: Yard, path: str, *argv: str) -> str:
    [own] = yard.running()
    made = yard.client.exec_create(own["Id"], ["/bin/busybox", *(argv or ("cat",)), path])
    return str(yard.client.exec_start(made["Id"]).decode())


async def test_the_workload_finds_its_secrets_when_it_begins(daemon: Daemon, yard: Yard) -> None:
    wanted = daemon.placement(PICKY, secrets=FILES, user="1000:1000")
    outcome = await daemon.deploy(wanted)
    assert outcome.result is Result.CHANGED, outcome
    assert [inside(yard, file.inside) for file in FILES] == [VALUE, VALUE]
    seen = await daemon.workload(wanted)
    assert ((seen.artifact, seen.configuration), seen.differences) == (wanted.content, ())
    assert (await daemon.deploy(wanted, wanted)).result is Result.UNCHANGED


async def test_the_value_is_in_memory_and_nowhere_else(daemon: Daemon, yard: Yard, memory: Path) -> None:
    outcome = await daemon.deploy(daemon.placement(PICKY, secrets=FILES))
    told = [str(outcome), str(daemon.said), str(await daemon.observe(daemon.placement(PICKY, secrets=FILES)))]
    told += [json.dumps(one) for one in yard.containers()]
    told += [json.dumps(yard.client.df()), json.dumps(yard.client.volumes())]
    assert not any("c4nary" in text for text in told)
    [folder] = memory.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert sorted(os.listdir(folder)) == ["db-password", "token"]
    disk = Path(yard.client.info()["DockerRootDir"]) / "containers"
    assert not [path for path in disk.rglob("*") if path.is_file() and b"c4nary" in path.read_bytes()]


async def test_no_container_is_left_through_which_files_were_put(daemon: Daemon, yard: Yard) -> None:
    await daemon.deploy(daemon.placement(PICKY, secrets=FILES))
    assert yard.containers(render.FILES) == []


async def test_what_an_interrupted_action_left_is_in_nobodys_way(daemon: Daemon, yard: Yard, memory: Path) -> None:
    wanted = daemon.placement(PICKY, secrets=FILES)
    body = render.filler(yard.tools.installation, wanted.id, str(yard.pulled(images.ONE)), str(memory))
    yard.make(body.config, body.name)
    assert (await daemon.deploy(wanted)).result is Result.CHANGED
    assert yard.containers(render.FILES) == []


async def test_the_files_of_a_container_that_goes_are_gone(daemon: Daemon, yard: Yard, memory: Path) -> None:
    first = daemon.placement(PICKY, secrets=FILES)
    await daemon.deploy(first)
    [old] = memory.iterdir()
    second = daemon.placement(images.TWO, secrets=FILES[:1])
    await daemon.deploy(second, first, keep=0)
    assert sorted(os.listdir(old)) == ["db-password", "token"]  # last good is kept, with all it needs
    third = daemon.placement(images.THREE)
    await daemon.deploy(third, second, keep=0)
    assert old.is_file()
    assert old.read_bytes() == b""
    await daemon.remove(third)
    assert not [path for path in memory.rglob("*") if path.is_file() and path.read_bytes()]


async def test_a_container_whose_files_a_boot_took_is_started_with_them_again(
    daemon: Daemon, yard: Yard, memory: Path
) -> None:
    wanted = daemon.placement(PICKY, secrets=FILES)
    await daemon.deploy(wanted)
    [own] = yard.running()
    yard.client.stop(own["Id"], timeout=1)
    shutil.rmtree(memory)
    assert (await daemon.workload(wanted)).state is WorkloadState.STOPPED
    outcome = await daemon.deploy(wanted, wanted)
    assert outcome.as_wanted, outcome
    assert [one["Id"] for one in yard.running()] == [own["Id"]]
    assert inside(yard, FILES[1].inside) == VALUE


async def test_a_restart_after_a_boot_brings_the_files_too(daemon: Daemon, yard: Yard, memory: Path) -> None:
    wanted = daemon.placement(PICKY, secrets=FILES)
    await daemon.deploy(wanted)
    [own] = yard.running()
    yard.client.stop(own["Id"], timeout=1)
    shutil.rmtree(memory)
    outcome = await daemon.restart(wanted)
    assert outcome.result is Result.CHANGED, outcome
    assert inside(yard, FILES[0].inside) == VALUE


async def test_a_predecessor_goes_back_with_its_own_files(daemon: Daemon, yard: Yard) -> None:
    first = daemon.placement(PICKY, secrets=FILES)
    await daemon.deploy(first)
    bad = daemon.placement(images.BAD, secrets=FILES[:1])
    outcome = await daemon.deploy(
        replace(bad, health=first.health and replace(first.health, deadline=first.health.timeout)), first
    )
    assert outcome.result is Result.REVERTED, outcome
    assert inside(yard, FILES[1].inside) == VALUE


async def test_another_version_of_a_secret_is_another_configuration(daemon: Daemon) -> None:
    first = daemon.placement(PICKY, secrets=FILES[:1])
    raised = SecretFile(name="db-password", secret=replace(PASSWORD, version="2"))
    assert daemon.placement(PICKY, secrets=(raised,)).content != first.content


async def test_behind_ssh_they_arrive_as_well(yard: Yard, memory: Path) -> None:
    with sshd_or_skip() as server:
        yard.tools = replace(yard.tools, secret=lambda ref: _secret(ref) if ref == PASSWORD else file.read(ref))
        connection = server.connection(engine=yard.engine, secrets_directory=str(memory))
        async with Daemon(yard, target=replace(yard.target, connection=connection)) as daemon:
            outcome = await daemon.deploy(daemon.placement(PICKY, secrets=FILES))
    assert outcome.result is Result.CHANGED, outcome
    assert inside(yard, FILES[1].inside) == VALUE


async def test_a_directory_that_is_on_a_disk_is_refused_by_the_name_of_the_field(yard: Yard, tmp_path: Path) -> None:
    async with Daemon(yard, target=_target(yard, str(tmp_path))) as daemon:
        with pytest.raises(
            InvalidAction, match=r"secrets: .* is on \w+, not in memory: .*connection\.secrets_directory"
        ):
            await daemon.deploy(daemon.placement(images.ONE, secrets=FILES))
    assert yard.containers(render.FILES) == []


def test_a_container_of_windows_has_no_secret_as_a_file() -> None:
    wanted = samples.placement(Configuration(secrets=FILES))
    with pytest.raises(InvalidAction, match=r"no single file is mapped into them.*give them in environment"):
        files.refuse_windows(wanted, {"Os": "windows"})
    files.refuse_windows(wanted, {"Os": "linux"})
    files.refuse_windows(samples.placement(Configuration()), {"Os": "windows"})


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/run/holdfast", "tmpfs"), ("/running", "ext4"), ("/run", "tmpfs"), ("/run/my disk/x", "xfs"), ("/", "ext4")],
)
def test_the_file_system_of_a_path_is_read_from_the_mounts(path: str, kind: str) -> None:
    mounts = "/dev/a / ext4 rw 0 0\ntmpfs /run tmpfs rw 0 0\n/dev/b /run/my\\040disk xfs rw 0 0\n"
    assert files.file_system(path, mounts) == kind


def test_an_archive_holds_a_folder_for_root_alone_with_files_for_the_workload() -> None:
    with tarfile.open(fileobj=io.BytesIO(files._filled("folder", {"a": "1"}))) as archive:
        found: list[Any] = [(entry.name, entry.mode, entry.isdir()) for entry in archive]
    assert found == [("folder", 0o700, True), ("folder/a", 0o444, False)]
