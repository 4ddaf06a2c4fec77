"""The compose driver on a real engine: what stands is what the lock says, and nothing is done twice or to others."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from desired_state.model import Volume
from desired_state.secrets import SecretFile, SecretRef
from drivers.compose import artifacts
from drivers.compose.driver import ComposeDriver
from drivers.compose.template import Template
from drivers.conformance.bench import Version
from drivers.conformance.stage import Stage, Wish
from drivers.contract import Deploy, Diagnosis, Grade, Look, Outcome, RenderedKind, Result, Step
from drivers.docker import files
from drivers.errors import Busy, InvalidAction, Refused
from stickers.observation import Observation
from tests.drivers.compose.bench import ComposeBench
from tests.drivers.compose.yard import Yard
from tests.harness import images

BOTH = pytest.mark.parametrize("program", ["first", "second"], indirect=True)
NASTY = {
    "DOLLARS": "$HOME ${PATH} $$ $(id)",
    "QUOTES": "a\"b'c`d",
    "SLASHES": "\\n \\\\ \\$",
    "SPACES": "  a  b  ",
    "NUMBER": "1e3",
    "HASH": "a #b",
    "WORDS": "ünï 🎈",
}

RICH: dict[str, Any] = {
    "services": {
        "api": {
            "environment": {name: value.replace("$", "$$") for name, value in NASTY.items()},
            "ports": ["127.0.0.1::8080"],
            "volumes": ["data:/data"],
            "tmpfs": ["/scratch"],
            "networks": {"front": {"aliases": ["shop"]}, "back": None},
            "healthcheck": {"test": ["CMD", "/bin/busybox", "true", "$$1"], "interval": "1s", "retries": 2},
            "labels": {"team": "a$$b"},
            "working_dir": "/www",
            "hostname": "shop",
            "user": "0:0",
            "mem_limit": "64m",
            "cpus": 0.5,
            "read_only": True,
            "cap_drop": ["NET_RAW"],
            "security_opt": ["no-new-privileges:true"],
            "stop_signal": "SIGINT",
            "logging": {"driver": "json-file", "options": {"max-size": "1m"}},
        },
        "web": {"entrypoint": ["/serve"], "networks": ["back"], "depends_on": ["api"]},
        "api-admin": {"init": False},
    },
    "networks": {"front": {}, "back": {"internal": True}},
    "volumes": {"data": None},
}


@pytest.fixture
async def stage(bench: ComposeBench) -> AsyncIterator[Stage]:
    stage = Stage(bench)
    yield stage
    await stage.aclose()


def ids(yard: Yard) -> dict[str, str]:
    """component -> its container, by the engine's word."""
    return {one["Config"]["Labels"]["holdfast.component"]: one["Id"] for one in yard.workloads()}


def by_hand(yard: Yard, *words: str) -> str:
    """The compose program on the lock that holds, as an operator would call it."""
    command = [yard.program, "-p", yard.place.project, "-f", str(yard.folder.lock), *words]
    environment = os.environ | {"DOCKER_HOST": yard.engine}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


async def deploy(stage: Stage, *wishes: Wish, **fields: Any) -> list[Outcome]:
    """In one action."""
    changes = [replace(await stage.deploy(wish), **fields) for wish in wishes]
    return list((await stage.apply(stage.action(*changes))).outcomes)


async def with_configuration(stage: Stage, **own: Any) -> Deploy:
    change = await stage.deploy(Wish())
    return replace(
        change,
        placement=replace(
            change.placement, configuration=replace(change.placement.configuration, environment=(), **own)
        ),
    )


# -- what stands is what the lock says --------------------------------------------------------------------------------


@BOTH
async def test_everything_a_template_can_say_is_seen_as_wanted_and_done_once(stage: Stage, yard: Yard) -> None:
    """A service that was not recreated never looks stale, whatever is in it."""
    yard.template = RICH
    wishes = [Wish(), Wish(component="web"), Wish(component="api-admin")]
    for outcome in await deploy(stage, *wishes):
        assert outcome.result is Result.CHANGED, outcome.detail
    before = ids(yard)
    seen = await stage.observe()
    assert [one.workload.differences for one in seen.standings if one.workload] == [(), (), ()]
    for outcome in await deploy(stage, *wishes):
        assert outcome.result is Result.UNCHANGED, outcome.detail
    by_hand(yard, "up", "-d")
    assert ids(yard) == before
    api = yard.client.inspect_container(before["api"])
    assert {f"{name}={value}" for name, value in NASTY.items()} <= set(api["Config"]["Env"])
    assert api["Config"]["Labels"]["team"] == "a$b"
    (outcome,) = await deploy(stage, Wish(version=Version.TWO))
    assert outcome.result is Result.CHANGED, outcome.detail


async def test_the_lock_that_is_kept_with_a_job_is_the_one_that_stands(stage: Stage, yard: Yard) -> None:
    yard.template = RICH
    wishes = [Wish(), Wish(component="web"), Wish(component="api-admin")]
    await deploy(stage, *wishes)
    wanted = sorted((stage.placement(wish) for wish in wishes), key=lambda placement: placement.id)
    kept = {file.name: file for file in artifacts.rendered(yard.place, wanted, ())}
    assert yard.folder.lock.read_text() == kept["lock.yaml"].text


async def test_a_way_back_deploys_the_very_words_that_were_kept(stage: Stage, yard: Yard) -> None:
    """Whatever this version would say of it today."""
    one = stage.placement(Wish())
    [kept] = [file for file in artifacts.rendered(yard.place, [one], ()) if file.kind is RenderedKind.COMPOSE_LOCK]
    former = replace(kept, text=kept.text.replace('"stop_grace_period": "3s"', '"stop_grace_period": "3000ms"'))
    assert former.text != kept.text
    await deploy(stage, Wish(version=Version.TWO))
    [outcome] = (await stage.apply(replace(stage.action(await stage.deploy(Wish())), rendered=(former,)))).outcomes
    assert outcome.result is Result.CHANGED, outcome.detail
    assert yard.folder.lock.read_text() == former.text


async def test_the_lock_stands_beside_its_hash_and_sha256sum_agrees(stage: Stage, yard: Yard) -> None:
    await deploy(stage, Wish())
    lock = yard.folder.lock.resolve()
    assert lock.name == f"{hashlib.sha256(lock.read_bytes()).hexdigest()}.yaml"
    check = ["sha256sum", "--check", f"{lock.name}.sha256"]
    assert (await anyio.run_process(check, cwd=lock.parent, check=False)).returncode == 0
    assert str(stage.placement(Wish()).artifact) in by_hand(yard, "config")


async def test_a_change_of_one_service_touches_no_other(stage: Stage, yard: Yard) -> None:
    await deploy(stage, Wish(), Wish(component="web"))
    before = ids(yard)
    await deploy(stage, Wish(version=Version.TWO))
    after = ids(yard)
    assert after["web"] == before["web"]
    assert after["api"] != before["api"]
    text = yard.folder.lock.read_text()
    assert str(stage.placement(Wish(component="web")).artifact) in text


async def test_a_service_that_a_hand_stopped_stays_stopped_while_another_is_changed(stage: Stage, yard: Yard) -> None:
    await deploy(stage, Wish(), Wish(component="web"))
    await stage.bench.stop(stage.id("web"))
    await deploy(stage, Wish(version=Version.TWO))
    assert not yard.running(stage.id("web"))


async def test_what_a_hand_changed_at_a_container_is_seen_and_made_good(stage: Stage, yard: Yard) -> None:
    """Compose compares only labels, and would take it for as wanted."""
    await deploy(stage, Wish())
    (one,) = yard.running()
    yard.client.start(yard.remade(one, Env=[*one["Config"]["Env"], "BY_HAND=1"]))
    seen = await stage.standing()
    assert seen is not None
    assert seen.workload is not None
    assert seen.workload.configuration is None
    assert "BY_HAND" in " ".join(seen.workload.differences)
    (outcome,) = await deploy(stage, Wish())
    assert outcome.result is Result.CHANGED
    assert "BY_HAND=1" not in yard.running()[0]["Config"]["Env"]


async def test_another_template_is_another_configuration_and_only_for_the_services_it_changes(
    stage: Stage, yard: Yard
) -> None:
    await deploy(stage, Wish(), Wish(component="web"))
    before = ids(yard)
    yard.template = {"services": {"api": {"environment": {"NEW": "1"}}, "web": {}, "api-admin": {}}}
    first, second = await deploy(stage, Wish(), Wish(component="web"))
    assert (first.result, second.result) == (Result.CHANGED, Result.UNCHANGED)
    assert ids(yard)["web"] == before["web"]
    assert "NEW=1" in yard.running(stage.id())[0]["Config"]["Env"]


async def test_a_container_in_our_project_that_is_not_ours_stays(stage: Stage, yard: Yard) -> None:
    """An orphan to compose; without our labels it is nobody's to remove."""
    labels = {"com.docker.compose.project": yard.place.project, "com.docker.compose.service": "by-hand"}
    stranger = yard.stranger(f"{yard.place.project}-by-hand", str(yard.pulled(images.ONE)), labels=labels)
    one = await stage.deployed(Wish())
    await stage.one(await stage.removal(one))
    assert yard.client.inspect_container(stranger)["State"]["Running"]


@pytest.mark.parametrize("program", ["first"], indirect=True)
async def test_another_version_of_compose_is_no_drift(stage: Stage, yard: Yard, second: str) -> None:
    """Its own idea of what has changed is not asked."""
    await deploy(stage, Wish(), Wish(component="web"))
    before = ids(yard)
    yard.program = second
    (outcome,) = await deploy(stage, Wish())
    assert outcome.result is Result.UNCHANGED
    (outcome,) = await deploy(stage, Wish(version=Version.TWO))
    assert outcome.result is Result.CHANGED
    assert ids(yard)["web"] == before["web"]
    await stage.must_stand(stage.placement(Wish(version=Version.TWO)))


# -- the way back -----------------------------------------------------------------------------------------------------


async def test_a_failed_proof_goes_back_to_the_very_lock_that_was_kept(stage: Stage, yard: Yard) -> None:
    one = stage.placement(Wish())
    await deploy(stage, Wish())
    good = yard.folder.lock.resolve()
    content = good.read_bytes()
    (outcome,) = await deploy(stage, Wish(version=Version.BAD), predecessor=one)
    assert outcome.result is Result.REVERTED, outcome.detail
    assert yard.folder.lock.resolve() == good
    assert good.read_bytes() == content
    await stage.must_stand(one)


async def test_a_failed_template_goes_back_to_the_one_that_was_proven(stage: Stage, yard: Yard) -> None:
    before = stage.placement(Wish())
    await deploy(stage, Wish())
    yard.template = {"services": {"api": {"command": ["/none"], "entrypoint": ["/none"]}}}
    (outcome,) = await deploy(stage, Wish(), predecessor=before)
    assert outcome.result is Result.REVERTED, outcome.detail
    await stage.must_stand(before)


async def test_one_service_that_fails_takes_no_other_of_its_action_with_it(stage: Stage, yard: Yard) -> None:
    api, web = Wish(), Wish(component="web")
    await deploy(stage, api, web)
    changes = [
        replace(await stage.deploy(replace(api, version=Version.BAD)), predecessor=stage.placement(api)),
        replace(await stage.deploy(replace(web, version=Version.TWO)), predecessor=stage.placement(web)),
    ]
    first, second = (await stage.apply(stage.action(*changes))).outcomes
    assert (first.result, second.result) == (Result.REVERTED, Result.CHANGED)
    await stage.must_stand(stage.placement(api))
    await stage.must_stand(stage.placement(replace(web, version=Version.TWO)))


async def test_the_old_lock_holds_until_the_new_one_stands_beside_it(stage: Stage, yard: Yard) -> None:
    await deploy(stage, Wish())
    old = yard.folder.lock.resolve()
    action = stage.action(await stage.deploy(Wish(version=Version.TWO)))
    assert await stage.crash(action, Step.START)
    assert yard.folder.lock.resolve() == old
    assert await stage.crash(action, Step.PROVE)
    assert yard.folder.lock.resolve() != old
    assert old.exists()


async def test_lock_files_and_images_do_not_pile_up(stage: Stage, yard: Yard) -> None:
    assert isinstance(stage.bench, ComposeBench)
    stage.bench.keep_to_itself()
    before = None
    for version in (Version.ONE, Version.TWO, Version.THREE):
        before = await stage.deployed(Wish(version=version), before=before, keep=0)
    assert len(list(yard.folder.lock.resolve().parent.glob("*.yaml"))) == 2
    left = [ref for image in yard.client.images() for ref in image["RepoDigests"] or () if yard.repository in ref]
    assert len(left) == 2  # what runs, and last good


async def test_nothing_is_left_of_a_project_whose_last_service_is_gone(stage: Stage, yard: Yard) -> None:
    one = await stage.deployed(Wish())
    await stage.one(await stage.removal(one))
    assert not [network for network in yard.client.networks() if yard.mark in network["Name"]]
    assert [path.name for path in yard.folder.path.iterdir() if path.name != "services"] == ["hold"]


# -- what compose is told ---------------------------------------------------------------------------------------------


class Told:
    """A compose program in front of the real one, which remembers how it was called."""

    def __init__(self, yard: Yard, tmp_path: Path, before: str = "") -> None:
        self.calls, self.path = tmp_path / "calls", tmp_path / "compose"
        self.path.write_text(
            f"#!{sys.executable}\n"
            "import json, os, sys\n"
            "if 'version' not in sys.argv:\n"
            f"    with open({str(self.calls)!r}, 'a') as calls:\n"
            "        print(json.dumps([sys.argv[1:], dict(os.environ)]), file=calls)\n"
            f"    {before or 'pass'}\n"
            f"os.execv({yard.program!r}, [{yard.program!r}, *sys.argv[1:]])\n"
        )
        self.path.chmod(0o700)
        yard.program = str(self.path)

    def all(self) -> list[tuple[list[str], dict[str, str]]]:
        return [tuple(json.loads(line)) for line in self.calls.read_text().splitlines()] if self.calls.exists() else []


async def test_compose_is_told_of_the_lock_alone_and_once_for_all_services(
    stage: Stage, yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPOSE_FILE", "/somewhere/else.yaml")
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", "other")
    told = Told(yard, tmp_path)
    await deploy(stage, Wish(), Wish(component="web"), Wish(component="api-admin"))
    ((argv, environment),) = told.all()
    words = " ".join(argv)
    assert f"--file {yard.folder.lock}" in words
    assert f"--project-name {yard.place.project}" in words
    assert words.endswith("api api-admin web")
    assert not {"--force-recreate", "--remove-orphans", "--build", "pull"} & set(argv)
    assert not {"COMPOSE_FILE", "COMPOSE_PROJECT_NAME"} & environment.keys()


async def test_a_second_turn_does_not_even_call_compose(stage: Stage, yard: Yard, tmp_path: Path) -> None:
    told = Told(yard, tmp_path)
    await deploy(stage, Wish())
    await deploy(stage, Wish())
    assert len(told.all()) == 1


async def test_the_words_of_compose_are_the_reason_when_it_fails(stage: Stage, yard: Yard, tmp_path: Path) -> None:
    one = await stage.deployed(Wish())
    before = ids(yard)
    Told(yard, tmp_path, "sys.exit('the disk is full') if not os.path.exists(sys.argv[0] + '.once') else 0")
    (outcome,) = await deploy(stage, Wish(version=Version.TWO), predecessor=one)
    assert outcome.result in (Result.REVERTED, Result.UNPROVEN)
    assert "the disk is full" in outcome.detail
    assert ids(yard) == before


async def test_a_program_that_is_none_is_refused_before_anything_is_touched(stage: Stage, yard: Yard) -> None:
    yard.program = "/bin/true"
    with pytest.raises(Refused, match="/bin/true is not a compose program"):
        await deploy(stage, Wish())
    assert not yard.root.exists()


async def test_nobody_acts_while_the_program_of_somebody_who_is_gone_still_runs(stage: Stage, yard: Yard) -> None:
    handle = yard.folder.hold()
    async with await anyio.open_process(["sleep", "30"], pass_fds=(handle,)) as program:
        os.close(handle)
        with pytest.raises(Busy):
            await deploy(stage, Wish())
        program.kill()
    (outcome,) = await deploy(stage, Wish())
    assert outcome.result is Result.CHANGED


# -- secrets ----------------------------------------------------------------------------------------------------------


@BOTH
async def test_a_secret_reaches_its_service_as_it_is_and_stands_nowhere_else(
    bench: ComposeBench, yard: Yard, tmp_path: Path
) -> None:
    value = "ca$$nary-${X}-\"'\\n #\n-end"
    reference = SecretRef(reference="vault:shop#password")

    async def secret(asked: SecretRef) -> str:
        assert asked == reference
        return value

    bench.tools = replace(bench.tools, secret=secret)
    told, stage = Told(yard, tmp_path), Stage(bench)
    change = await stage.deploy(Wish())
    configuration = replace(change.placement.configuration, environment=(("PASSWORD", reference),))
    change = replace(change, placement=replace(change.placement, configuration=configuration))
    outcome = await stage.one(change)
    assert outcome.result is Result.CHANGED, outcome.detail
    (one,) = yard.running()
    assert f"PASSWORD={value}" in one["Config"]["Env"]
    files = [path for path in yard.root.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if b"canary" in path.read_bytes() or b"nary-" in path.read_bytes()]
    assert not [argv for argv, _ in told.all() if "nary" in " ".join(argv)]
    other = await stage.deploy(Wish(component="web"))
    assert (await stage.one(other)).result is Result.CHANGED  # without asking for the first one's secret
    assert (await stage.one(replace(change, replaces=await stage.footing(stage.id())))).result is Result.UNCHANGED
    await stage.aclose()


FILES = (
    SecretFile(name="db-password", secret=SecretRef(reference="vault:shop#password", version="1")),
    SecretFile(name="token", secret=SecretRef(reference="vault:shop#password", version="1"), path="/etc/shop/token"),
)
VALUE = "c4nary $HOME\nvalue of a secret"


@pytest.fixture
def memory(yard: Yard) -> Iterator[Path]:
    """A directory of the engine's host that is in memory."""
    path = Path(f"/dev/shm/holdfast-{yard.mark}")
    if files.file_system(str(path), Path("/proc/self/mounts").read_text()) not in files.IN_MEMORY:
        pytest.skip("/dev/shm is not in memory here")
    yard.memory = str(path)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
async def secretive(memory: Path, bench: ComposeBench) -> AsyncIterator[Stage]:
    async def secret(asked: SecretRef) -> str:
        assert asked.reference == "vault:shop#password"
        return VALUE

    bench.tools = replace(bench.tools, secret=secret)
    stage = Stage(bench)
    yield stage
    await stage.aclose()


def inside(yard: Yard, path: str) -> str:
    (own,) = yard.running()
    made = yard.client.exec_create(own["Id"], ["/bin/busybox", "cat", path])
    return str(yard.client.exec_start(made["Id"]).decode())


def filled(memory: Path) -> list[str]:
    """The directories with secrets in them."""
    return sorted({path.parent.name for path in memory.rglob("*") if path.is_file() and path.read_bytes()})


@BOTH
async def test_a_secret_as_a_file_is_in_memory_and_nowhere_else(secretive: Stage, yard: Yard, memory: Path) -> None:
    change = await with_configuration(secretive, secrets=FILES)
    outcome = await secretive.one(change)
    assert outcome.result is Result.CHANGED, outcome.detail
    assert [inside(yard, file.inside) for file in FILES] == [VALUE, VALUE]
    (folder,) = memory.iterdir()
    assert (folder.stat().st_mode & 0o777, sorted(os.listdir(folder))) == (0o700, ["db-password", "token"])
    told = [*(json.dumps(one) for one in yard.containers()), str(outcome)]
    told += [path.read_text() for path in yard.root.rglob("*") if path.is_file()]
    assert not [text for text in told if "c4nary" in text]
    (standing,) = (await secretive.observe(change.placement)).standings
    assert standing.workload is not None
    assert standing.workload.differences == ()
    (own,) = yard.running()
    again = replace(change, replaces=await secretive.footing(secretive.id()))
    assert (await secretive.one(again)).result is Result.UNCHANGED
    assert [one["Id"] for one in yard.running()] == [own["Id"]]


async def test_the_files_of_a_content_go_with_it(secretive: Stage, yard: Yard, memory: Path) -> None:
    first = await with_configuration(secretive, secrets=FILES)
    await secretive.one(first)
    (old,) = filled(memory)
    second = await with_configuration(secretive, secrets=FILES[:1])
    assert (await secretive.one(replace(second, predecessor=first.placement))).result is Result.CHANGED
    (new,) = filled(memory)
    assert new != old
    assert inside(yard, FILES[0].inside) == VALUE
    await secretive.apply(secretive.action(await secretive.removal(second.placement)))
    assert filled(memory) == []


async def test_a_predecessor_goes_back_with_its_own_files(secretive: Stage, yard: Yard, memory: Path) -> None:
    first = await with_configuration(secretive, secrets=FILES)
    await secretive.one(first)
    before = filled(memory)
    bad = await secretive.deploy(Wish(version=Version.BAD))
    configuration = replace(bad.placement.configuration, secrets=FILES[:1])
    bad = replace(bad, placement=replace(bad.placement, configuration=configuration), predecessor=first.placement)
    assert (await secretive.one(bad)).result is Result.REVERTED
    assert filled(memory) == before
    assert inside(yard, FILES[1].inside) == VALUE


async def test_what_a_boot_took_is_there_again_when_it_is_started(secretive: Stage, yard: Yard, memory: Path) -> None:
    change = await with_configuration(secretive, secrets=FILES)
    await secretive.one(change)
    for again in ("restarted", "deployed"):
        (own,) = yard.running()
        yard.client.stop(own["Id"], timeout=1)
        shutil.rmtree(memory)
        if again == "restarted":
            outcome = await secretive.one(await secretive.restart(change.placement))
        else:
            outcome = await secretive.one(replace(change, replaces=await secretive.footing(secretive.id())))
        assert outcome.as_wanted, (again, outcome.detail)
        assert inside(yard, FILES[1].inside) == VALUE


async def test_a_directory_for_secrets_that_is_on_a_disk_is_refused(stage: Stage, yard: Yard, tmp_path: Path) -> None:
    yard.memory = str(tmp_path)
    with pytest.raises(InvalidAction, match=r"not in memory: .*connection\.secrets_directory"):
        await stage.one(await with_configuration(stage, secrets=FILES))
    assert yard.containers() == []


# -- what is refused --------------------------------------------------------------------------------------------------


async def test_a_host_mount_of_a_component_is_refused_unless_it_is_allowed(stage: Stage, yard: Yard) -> None:
    change = await with_configuration(stage, volumes=(Volume(source="/etc", destination="/etc2"),))
    with pytest.raises(InvalidAction, match=r"/etc is of the host and not in connection\.host_mounts"):
        await stage.one(change)
    assert not yard.workloads()


async def test_a_template_of_former_days_mounts_nothing_that_is_not_allowed_today(stage: Stage, yard: Yard) -> None:
    part = Template.model_validate({"services": {"api": {"volumes": ["/etc:/etc2"]}}}).part("api")
    assert part is not None
    with pytest.raises(InvalidAction, match=r"/etc is of the host"):
        await stage.one(await with_configuration(stage, template=part.text))


async def test_what_two_services_share_may_change_for_both_in_one_action(stage: Stage, yard: Yard) -> None:
    def sharing(network: dict[str, Any]) -> dict[str, Any]:
        return {"services": {name: {"networks": ["front"]} for name in ("api", "web")}, "networks": {"front": network}}

    yard.template = sharing({})
    await deploy(stage, Wish(), Wish(component="web"))
    yard.template = sharing({"internal": True})
    with pytest.raises(InvalidAction, match="the network front means one thing to"):
        await deploy(stage, Wish())
    for outcome in await deploy(stage, Wish(), Wish(component="web")):
        assert outcome.result is not Result.UNCHANGED


async def test_a_component_of_which_the_template_says_nothing_is_refused(stage: Stage, yard: Yard) -> None:
    with pytest.raises(InvalidAction, match="template says nothing"):
        await stage.one(await with_configuration(stage, template=None))


async def test_a_project_whose_files_cannot_be_read_is_unseen(stage: Stage, yard: Yard) -> None:
    await deploy(stage, Wish())
    services = yard.folder.path / "services"
    services.rename(services.with_name("elsewhere"))
    services.symlink_to(services)
    seen: Observation = await stage.observe()
    assert seen.unseen is not None
    services.unlink()
    services.with_name("elsewhere").rename(services)
    assert (await stage.observe()).unseen is None


async def test_what_is_recorded_is_for_its_owner_alone(stage: Stage, yard: Yard) -> None:
    await deploy(stage, Wish())
    assert stat.S_IMODE(yard.folder.path.stat().st_mode) == 0o700


async def test_two_targets_share_an_engine_and_a_root(bench: ComposeBench, yard: Yard) -> None:
    stage, driver = Stage(bench), ComposeDriver(bench.tools)
    await deploy(stage, Wish())
    seen = await driver.observe([])
    assert seen == {}
    other = replace(yard.target, id=f"{yard.target.id}-b")
    observed = await stage.observe(target=other)
    assert observed.standings == ()
    assert not {one.instance for one in observed.unmanaged} & set(ids(yard).values())
    await stage.aclose()
    await driver.aclose()


# -- what is lacking --------------------------------------------------------------------------------------------------


def told(found: tuple[Diagnosis, ...]) -> dict[str, Diagnosis]:
    return {one.about: one for one in found}


async def test_the_doctor_finds_nothing_wrong_where_a_project_can_be_held(bench: ComposeBench, yard: Yard) -> None:
    driver = ComposeDriver(bench.tools)
    found = told(await driver.examine(Look(target=yard.target)))
    await driver.aclose()
    assert {found[about].grade for about in ("engine", "program", "files")} == {Grade.OK}
    assert yard.program in found["program"].sentence
    assert not yard.root.exists()


async def test_the_doctor_names_a_program_that_is_missing_and_a_root_that_cannot_be_written(
    bench: ComposeBench, yard: Yard, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    yard.root, yard.program = tmp_path / "file" / "projects", "/no/such/compose"
    driver = ComposeDriver(bench.tools)
    found = told(await driver.examine(Look(target=yard.target)))
    await driver.aclose()
    assert {found[about].grade for about in ("program", "files")} == {Grade.MISSING}
    assert "/no/such/compose" in found["program"].sentence
