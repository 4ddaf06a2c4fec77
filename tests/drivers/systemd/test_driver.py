"""What the systemd driver does beyond the contract, under a real systemd."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from desired_state.health import CommandCheck, Health
from desired_state.model import Port, RestartPolicy, Volume
from desired_state.secrets import SecretFile, SecretRef
from drivers.contract import Deploy, Grade, Look, Result, Stamp
from drivers.errors import Conflict, InvalidAction, Refused
from drivers.process.host import Place
from drivers.systemd import artifacts, host
from drivers.systemd.driver import SystemdDriver
from stickers.observation import HealthState, WorkloadState
from tests.drivers.systemd.ground import Ground
from tests.harness.apps import Character
from tests.harness.machine import Door, Machine

pytestmark = pytest.mark.anyio

CANARY = 's3cr3t"$x`\\'
PASSWORD = SecretRef(reference="env:PASSWORD", version="1")


@pytest.fixture
async def ground(machine: Machine, root: Path, images: Path) -> AsyncIterator[Ground]:
    found = Ground(machine, root, images)
    try:
        yield found
    finally:
        await found.driver.aclose()


# -- the unit ----------------------------------------------------------------------------------------------------------


async def test_the_unit_runs_as_it_is_rendered_and_starts_with_the_next_boot(ground: Ground) -> None:
    await ground.deploy(ground.placement("1.0"))
    assert ground.machine.run("cat", ground.installed) == (ground.release / "unit").read_text()
    shown = ground.show("FragmentPath", "UnitFileState", "ActiveState")
    assert shown == {"FragmentPath": ground.installed, "UnitFileState": "enabled", "ActiveState": "active"}


async def test_limits_are_those_of_its_control_group(ground: Ground) -> None:
    await ground.deploy(ground.placement("1.0", memory=64 << 20, cpus=250))
    shown = ground.show("MemoryMax", "CPUQuotaPerSecUSec", "LimitCORE")
    assert shown == {"MemoryMax": str(64 << 20), "CPUQuotaPerSecUSec": "250ms", "LimitCORE": "0"}


async def test_a_workload_that_outgrows_its_memory_is_ended(ground: Ground) -> None:
    code = "import time; time.sleep(0.3); x = bytearray(200 << 20); time.sleep(60)"
    command = ("python3", "-c", code)
    placement = ground.placement("1.0", memory=32 << 20, command=command, health=None, restart=RestartPolicy.NEVER)
    await ground.deploy(placement)
    found = await ground.until(lambda workload: workload.state is WorkloadState.STOPPED)
    assert found.exit_code == 128 + 9


async def test_the_workload_is_the_user_that_is_declared(ground: Ground) -> None:
    await ground.deploy(ground.placement("1.0", user="daemon:mail"))
    status = ground.machine.run("cat", f"/proc/{ground.show('MainPID')['MainPID']}/status").splitlines()
    assert [line.split()[1] for line in status if line.startswith(("Uid:", "Gid:"))] == ["1", "8"]


async def test_an_unknown_user_is_refused_before_anything_stops(ground: Ground) -> None:
    one = ground.placement("1.0")
    await ground.deploy(one)
    with pytest.raises(Refused, match="user nobody-here"):
        await ground.deploy(ground.placement("2.0", user="nobody-here"), one)
    assert ground.serves() == "1.0"


async def test_what_no_unit_can_give_is_refused(ground: Ground) -> None:
    wrong: dict[str, Any] = {
        "volumes": (Volume(source="data", destination="/data"),),
        "networks": ("front",),
        "cpus": 255,
        "environment": (("A.B", "x"),),
        "ports": (Port(container=8080, host=80),),
    }
    for name, value in wrong.items():
        with pytest.raises(InvalidAction, match=r"volumes|networks|hundredths|letters, digits|both must be equal"):
            await ground.deploy(ground.placement("1.0", **{name: value}))
    assert not ground.root.exists()


async def test_the_environment_arrives_letter_by_letter(ground: Ground) -> None:
    nasty = {
        "A": "a \"b\" 'c' `d` $HOME ${HOME} \\n %h",
        "B": " \ttab and\nnewline\n",
        "C": "",
        "D": "ä€ #;",
        "E": "\\",
    }
    variables = tuple(sorted({**nasty, "PORT": str(ground.port)}.items()))
    await ground.deploy(ground.placement("1.0", environment=variables))
    found = dict(pair.split("=", 1) for pair in ground.environment().decode().split("\0") if "=" in pair)
    assert {name: found[name] for name in nasty} == nasty


async def test_the_words_of_the_command_arrive_letter_by_letter(ground: Ground) -> None:
    words = ("", "a b", "$HOME", "${HOME}", "$$", "%h", "%%", ";", '"', "'", "\\", "\\n", "\n", "\x01", "ä€", "-", "@")
    command = ("python3", "-c", "import time; time.sleep(60)", *words)
    await ground.deploy(ground.placement("1.0", command=command, health=None))
    said = ground.machine.run("cat", f"/proc/{ground.show('MainPID')['MainPID']}/cmdline")
    assert tuple(said.split("\0")[:-1]) == command


# -- what is not ours --------------------------------------------------------------------------------------------------


async def test_a_foreign_unit_of_our_name_is_a_conflict_and_stays(ground: Ground) -> None:
    one = ground.placement("1.0")
    name = f"{one.artifact.digest[7:19]}-{one.configuration_digest[7:19]}"
    path = f"{host.INSTALLED}/{host.unit_of(Place(str(ground.place)), name)}"
    ground.root.parent.mkdir()
    ground.write(path, "[Service]\nExecStart=/bin/sleep 600\n")
    with pytest.raises(Conflict, match="is not of this placement"):
        await ground.deploy(one)
    assert "sleep 600" in ground.machine.run("cat", path)


async def test_our_marks_of_another_place_are_not_ours(ground: Ground) -> None:
    one = ground.placement("1.0")
    await ground.deploy(one)
    copied = ground.machine.run("cat", ground.installed).replace(str(ground.place), "/srv/elsewhere")
    path = ground.installed
    await ground.remove(one)
    ground.write(path, copied)
    with pytest.raises(Conflict, match="is not of this placement"):
        await ground.deploy(one)


# -- changed by hand ---------------------------------------------------------------------------------------------------


async def test_a_drop_in_is_seen_and_taken_away(ground: Ground) -> None:
    one = ground.placement("1.0")
    await ground.deploy(one)
    ground.write(f"{ground.installed}.d/more.conf", "[Service]\nEnvironment=X=1\n")
    ground.systemctl("daemon-reload")
    seen = await ground.workload()
    assert seen.configuration is None
    assert any("more.conf" in line for line in seen.differences)
    assert (await ground.deploy(one, one)).result is Result.CHANGED
    assert not ground.there(f"{ground.installed}.d")
    assert (await ground.workload()).differences == ()


async def test_a_limit_set_at_run_time_is_seen_and_taken_away(ground: Ground) -> None:
    one = ground.placement("1.0", memory=64 << 20)
    await ground.deploy(one)
    ground.systemctl("set-property", "--runtime", ground.unit, "MemoryMax=1G")
    assert (await ground.workload()).configuration is None
    await ground.deploy(one, one)
    assert ground.show("MemoryMax") == {"MemoryMax": str(64 << 20)}


async def test_an_edited_unit_is_seen_and_put_right(ground: Ground) -> None:
    one = ground.placement("1.0")
    await ground.deploy(one)
    text = ground.machine.run("cat", ground.installed)
    ground.write(ground.installed, text.replace("UMask=0022", "UMask=0000"))
    assert (await ground.workload()).differences == ("unit: found changed, wanted as rendered",)
    await ground.deploy(one, one)
    assert ground.machine.run("cat", ground.installed) == text
    assert (await ground.workload()).differences == ()


async def test_a_unit_disabled_by_hand_is_enabled_without_a_restart(ground: Ground) -> None:
    one = ground.placement("1.0")
    await ground.deploy(one)
    pid = ground.show("MainPID")
    ground.systemctl("disable", "--quiet", ground.unit)
    assert (await ground.workload()).differences == ("unit: found disabled, wanted enabled",)
    await ground.deploy(one, one)
    assert ground.systemctl("is-enabled", ground.unit) == "enabled\n"
    assert ground.show("MainPID") == pid


async def test_a_restart_by_hand_is_the_same_instance_started_later(ground: Ground) -> None:
    await ground.deploy(ground.placement("1.0"))
    before = await ground.workload()
    ground.systemctl("restart", ground.unit)
    after = await ground.workload()
    assert after.instance == before.instance
    assert before.started_at is not None
    assert after.started_at is not None
    assert after.started_at > before.started_at


async def test_the_unit_that_was_kept_is_the_one_that_is_installed_but_for_what_the_target_knows(
    ground: Ground,
) -> None:
    ground.secrets["env:PASSWORD"] = CANARY
    one = ground.placement("1.0", secrets=(SecretFile(name="password", secret=PASSWORD),), user="daemon")
    await ground.deploy(one)
    kept = {file.name: file.text for file in ground.driver.rendered(ground.target, [one], ())}[ground.unit]
    program = f"{ground.release}/tree/python3"
    told = kept.removeprefix(artifacts.NOTE).replace(f'"{program}"', '"/usr/bin/python3"')
    assert ground.machine.run("cat", ground.installed) == told


# -- secrets and boots -------------------------------------------------------------------------------------------------


async def test_a_secret_is_kept_in_memory_alone(ground: Ground) -> None:
    ground.secrets["env:PASSWORD"] = CANARY
    variables = (("PASSWORD", PASSWORD), ("PORT", str(ground.port)))
    await ground.deploy(ground.placement("1.0", environment=variables))
    assert f"PASSWORD={CANARY}".encode() in ground.environment()
    assert ground.says(b"s3cr3t") == []
    assert "s3cr3t" not in ground.systemctl("show", ground.unit) + ground.machine.run("cat", ground.installed)
    secrets = host.secrets_of(Place(str(ground.place)), ground.release.name)
    assert ground.machine.run("stat", "--format=%a %U", secrets) == "600 root\n"
    assert ground.machine.run("stat", "--file-system", "--format=%T", secrets) == "tmpfs\n"


async def test_a_secret_as_a_file_is_the_workloads_own_and_in_memory_alone(ground: Ground) -> None:
    ground.machine.run("mount", "--make-rshared", "/")  # as systemd itself does wherever it is in no container
    ground.secrets["env:PASSWORD"] = CANARY
    files = (SecretFile(name="db-password", secret=PASSWORD),)
    await ground.deploy(ground.placement("1.0", user="daemon", secrets=files))
    credentials = dict(line.split(b"=", 1) for line in ground.environment().split(b"\0") if line)[
        b"CREDENTIALS_DIRECTORY"
    ]
    inside = f"/proc/{ground.show('MainPID')['MainPID']}/root{credentials.decode()}/db-password"
    assert ground.machine.run("cat", inside) == CANARY
    assert ground.machine.run("stat", "--file-system", "--format=%T", inside) in ("tmpfs\n", "ramfs\n")
    assert ground.says(b"s3cr3t") == []
    assert CANARY.encode() not in ground.environment()
    assert "s3cr3t" not in ground.systemctl("show", ground.unit) + ground.machine.run("cat", ground.installed)
    kept = f"{host.secrets_of(Place(str(ground.place)), ground.release.name)}{host.FILES}"
    assert ground.machine.run("stat", "--format=%a %U", kept, f"{kept}/db-password") == "700 root\n600 root\n"
    assert ground.machine.run("stat", "--file-system", "--format=%T", kept) == "tmpfs\n"


async def test_a_file_at_a_place_of_its_own_is_refused_by_name(ground: Ground) -> None:
    files = (SecretFile(name="db-password", secret=PASSWORD, path="/etc/password"),)
    with pytest.raises(InvalidAction, match="secrets: db-password has the path /etc/password"):
        await ground.deploy(ground.placement("1.0", secrets=files))


async def test_a_secret_that_systemd_would_drop_is_refused_and_not_shown(ground: Ground) -> None:
    ground.secrets["env:PASSWORD"] = "bell\x07"
    variables = (("PASSWORD", PASSWORD), ("PORT", str(ground.port)))
    with pytest.raises(InvalidAction, match="environment PASSWORD") as caught:
        await ground.deploy(ground.placement("1.0", environment=variables))
    assert "bell" not in str(caught.value)


async def test_after_a_boot_what_needs_no_secret_runs_and_what_needs_one_waits_for_it(ground: Ground) -> None:
    plain = ground.placement("1.0")
    await ground.deploy(plain)
    before = await ground.workload()
    ground.machine.reboot()
    await ground.begin_again()
    after = await ground.until(lambda workload: workload.state is WorkloadState.RUNNING, plain)
    assert (after.instance, after.differences) == (before.instance, ())
    assert (await ground.deploy(plain, plain)).result is Result.UNCHANGED

    ground.secrets["env:PASSWORD"] = CANARY
    secret = ground.placement("2.0", secrets=(SecretFile(name="password", secret=PASSWORD),))
    await ground.deploy(secret, plain)
    ground.machine.reboot()
    await ground.begin_again()
    assert (await ground.workload()).state is WorkloadState.STOPPED
    assert ground.show("ActiveState", "ConditionResult") == {"ActiveState": "inactive", "ConditionResult": "no"}
    assert (await ground.restart(secret)).as_wanted
    assert ground.serves() == "2.0"


# -- ends and new beginnings -------------------------------------------------------------------------------------------


async def test_systemd_restarts_what_crashes_and_it_stays_the_same_instance(ground: Ground) -> None:
    await ground.deploy(ground.placement("1.0"))
    before = await ground.workload()
    ground.systemctl("kill", "--signal=KILL", ground.unit)
    after = await ground.until(lambda found: found.restarts == 1 and found.state is WorkloadState.RUNNING)
    assert after.instance == before.instance


async def test_a_crash_loop_is_not_proven_and_the_last_good_one_runs_again(ground: Ground) -> None:
    one = ground.placement("1.0")
    await ground.deploy(one)
    crash = ground.placement("2.0", Character.CRASH, health=ground.health(ground.port, deadline=timedelta(seconds=2)))
    assert (await ground.deploy(crash, one)).result is Result.REVERTED
    assert ground.serves() == "1.0"


async def test_what_does_not_end_is_killed_when_its_grace_is_over(ground: Ground) -> None:
    one = ground.placement("1.0", Character.STUBBORN, stop_grace=timedelta(milliseconds=700))
    await ground.deploy(one)
    assert (await ground.deploy(ground.placement("2.0"), one)).result is Result.CHANGED
    assert ground.serves() == "2.0"


async def test_a_handover_goes_on_when_whoever_ordered_it_is_gone(ground: Ground) -> None:
    """The session ends right after the order; systemd stops the one and starts the other."""
    one, two = ground.placement("1.0"), ground.placement("2.0")
    await ground.deploy(one)
    await ground.deploy(two, one)
    session = Door(ground.machine)
    where = {"root": str(ground.root), "installation": "inst-1", "target": str(ground.target.id), "fence": 1}
    place = {**where, "component": "web", "slot": "live"}
    assert "answer" in session.answer({"do": "hold", **place})
    release = f"{one.artifact.digest[7:19]}-{one.configuration_digest[7:19]}"
    order = {"do": "start", "release": release, "replace": True, "key": "k", "secrets": {}}
    assert "answer" in session.answer({"do": "order", **place, "order": order})
    session.close()
    await ground.until(lambda found: found.artifact == one.artifact.digest and found.state is WorkloadState.RUNNING)
    ground.serving_at_last("1.0")


async def test_a_removal_leaves_neither_unit_nor_link_nor_secret(ground: Ground) -> None:
    ground.secrets["env:PASSWORD"] = CANARY
    variables = (("PASSWORD", PASSWORD), ("PORT", str(ground.port)))
    one = ground.placement("1.0", environment=variables, secrets=(SecretFile(name="password", secret=PASSWORD),))
    await ground.deploy(one)
    await ground.remove(one)
    found = ground.machine.run("find", host.INSTALLED, host.SECRETS, "-name", "*holdfast-web-*", "-o", "-type", "f")
    assert "holdfast-" not in found
    assert CANARY not in found


# -- health and logs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "state"), [("0", HealthState.HEALTHY), ("3", HealthState.UNHEALTHY)])
async def test_a_health_command_runs_as_the_workload_does(ground: Ground, code: str, state: HealthState) -> None:
    script = "import os, sys; sys.exit(int(os.environ['CODE']) or (os.getuid() != 1) or not os.path.exists('app.py'))"
    rules = {"interval": timedelta(milliseconds=50), "timeout": timedelta(seconds=5), "deadline": timedelta(seconds=9)}
    asked = Health(check=CommandCheck(argv=("python3", "-c", script)), successes=1, **rules)
    variables = (("CODE", code), ("PORT", str(ground.port)))
    await ground.deploy(ground.placement("1.0", user="daemon", environment=variables, health=None))
    placement = ground.placement("1.0", user="daemon", environment=variables, health=asked)
    assert (await ground.workload(placement)).health.state is state


async def test_the_log_is_what_the_workload_printed(ground: Ground) -> None:
    await ground.deploy(ground.placement("1.0"))
    lines = [line async for line in ground.driver.logs(ground.target, ground.id, tail=10, follow=False)]
    assert lines == ["shop 1.0 listens"]


# -- where there is no systemd -----------------------------------------------------------------------------------------


async def test_a_host_that_systemd_has_not_booted_is_refused(ground: Ground) -> None:
    if Path("/run/systemd/system").is_dir():
        pytest.skip("systemd has booted this machine")
    await ground.driver.aclose()
    ground.driver = SystemdDriver(ground.tools)
    looked = await ground.driver.observe([Look(target=ground.target)])
    assert "not booted by systemd" in (looked[ground.target.id].unseen or "")
    change = Deploy(placement=ground.placement("1.0"), replaces=None, stamp=Stamp(sequence=1, previous=None))
    with pytest.raises(Refused, match=r"systemd|root"):
        await ground.send(change)


# -- the examination ---------------------------------------------------------------------------------------------------


async def test_a_booted_target_is_examined_with_its_systemd(ground: Ground) -> None:
    found = {each.about: each for each in await ground.driver.examine(Look(target=ground.target))}
    assert found["systemd"].grade is Grade.OK
    assert "keeps the workloads" in found["systemd"].sentence
    assert found["root"].grade is Grade.OK


def test_a_target_that_systemd_did_not_boot_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "BOOTED", str(tmp_path / "none"))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    ask = {"do": "examine", "root": str(tmp_path), "installation": "inst", "target": "default/t1", "python": "python3"}
    keeper = host.Session().answer(ask)["answer"]["keeper"]
    assert keeper["lacks"] == "the target was not booted by systemd"
