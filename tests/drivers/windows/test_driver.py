"""What the windows driver does beyond the contract: what a service is given, what is refused, what happens when the
host is lost in the middle, and what the doctor says."""

from __future__ import annotations

import base64
import gzip
import os
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from desired_state.health import CommandCheck, Health, HttpCheck, TcpCheck
from desired_state.model import Placement, RestartPolicy, Target, Volume
from desired_state.secrets import SecretRef
from drivers import registry
from drivers.blocking import Threads
from drivers.conformance import Version
from drivers.conformance.stage import ENVIRONMENT, Stage, Wish
from drivers.contract import Against, Diagnosis, Grade, Look, Result, Step
from drivers.errors import InvalidAction, OutcomeUnknown
from drivers.windows import program, render, wire
from drivers.windows.driver import WindowsDriver
from drivers.winrm.connection import WinRm
from drivers.winrm.errors import Silent
from stickers.names import target_id
from stickers.observation import HealthState
from tests.drivers.windows import world as worlds
from tests.drivers.windows.test_conformance import ROOT, WindowsBench, connection
from tests.drivers.windows.world import Helper, World
from tests.harness import wsman

pytestmark = pytest.mark.anyio


class Yard(Stage):
    """A stage whose bench is the Windows in memory."""

    bench: WindowsBench

    @property
    def world(self) -> World:
        return self.bench.world

    async def wear(self, wish: Wish, **declared: Any) -> Any:
        """A deploy of the wish with these declared otherwise."""
        change = await self.deploy(wish)
        wanted = replace(change.placement, configuration=replace(change.placement.configuration, **declared))
        return await self.one(replace(change, placement=wanted))

    def service(self) -> worlds.Service:
        return self.world.services[self.bench.serving(self.id())]

    async def doctor(self, *placements: Placement, target: Target | None = None) -> dict[str, Diagnosis]:
        assert isinstance(self.driver, WindowsDriver)
        found = await self.driver.examine(Look(target=target or self.bench.target, placements=placements))
        return {one.about: one for one in found}


@pytest.fixture(scope="module")
def listening() -> Iterator[tuple[list[World], wsman.Server]]:
    """One listener for all; each test has a Windows of its own behind it."""
    behind = [World()]
    with wsman.running(lambda line: Helper(behind[0], line)) as server:
        yield behind, server


@pytest.fixture
async def yard(listening: tuple[list[World], wsman.Server], tmp_path: Path) -> AsyncIterator[Yard]:
    behind, server = listening
    behind[0] = World()
    stage = Yard(WindowsBench(behind[0], server, tmp_path))
    yield stage
    behind[0].hangs.clear()
    await stage.aclose()
    assert not server.shells


# -- what a service is given -------------------------------------------------------------------------------------------


async def test_a_service_has_its_words_its_account_and_its_environment(yard: Yard) -> None:
    await yard.deployed(Wish())
    service = yard.service()
    tree, _, words = service.command.partition("\\bin\\app.exe ")
    assert re.fullmatch(re.escape(ROOT) + r"\\api\\releases\\[0-9a-f]{16}\\tree", tree)
    assert words == '--name "a \\"b\\" \\\\"'
    assert (service.account, service.start_mode, service.restarts) == (r"NT AUTHORITY\LocalService", "Auto", True)
    said = dict(line.split("=", 1) for line in service.environment)
    assert (said["KIT_COLOUR"], said["HOLDFAST_COMPONENT"]) == ("grey", "api")
    assert said["HOLDFAST_DIRECTORY"] == f"{ROOT}\\api"


async def test_what_is_never_restarted_is_not_started_at_boot_either(yard: Yard) -> None:
    assert (await yard.wear(Wish(), restart=RestartPolicy.NEVER, user="LocalSystem")).as_wanted
    service = yard.service()
    assert (service.restarts, service.start_mode, service.account) == (False, "Manual", "LocalSystem")


async def test_a_kept_predecessor_does_not_start_at_boot(yard: Yard) -> None:
    one = await yard.deployed(Wish())
    await yard.deployed(Wish(version=Version.TWO), before=one)
    modes = {service.state: service.start_mode for service in yard.bench.services(yard.id()).values()}
    assert modes == {"Running": "Auto", "Stopped": "Manual"}


async def test_a_secret_is_in_the_environment_and_in_no_file(yard: Yard) -> None:
    told = (("PORT", "8000"), ("TOKEN", SecretRef(reference="env:PASSWORD")))
    assert (await yard.wear(Wish(), environment=told)).as_wanted
    assert f"TOKEN={wsman.PASSWORD}" in yard.service().environment
    place = yard.bench.place(yard.id())
    kept = [*place.files.values(), *(str(release) for release in place.releases.values())]
    assert not [text for text in kept if wsman.PASSWORD in text]


async def test_a_service_that_was_changed_by_hand_is_drift_that_names_no_value(yard: Yard) -> None:
    one = await yard.deployed(Wish())
    yard.service().environment = ["PORT=8000", "TOKEN=hunter2"]
    standing = await yard.standing(asked=one)
    assert standing is not None
    assert standing.workload is not None
    assert standing.workload.differences == ("environment: found another",)
    assert standing.workload.configuration is None
    await yard.deployed(Wish(), before=one)
    await yard.must_stand(one)


async def test_a_tree_that_was_changed_by_hand_is_brought_again(yard: Yard) -> None:
    one = await yard.deployed(Wish())
    two = await yard.deployed(Wish(version=Version.TWO), before=one)
    place = yard.bench.place(yard.id())
    for release in place.releases.values():
        if b"one" in release["tree"]["version"]:
            release["tree"]["version"] = b"other good\n"
    yard.world.asked.clear()
    await yard.deployed(Wish(), before=two)
    assert "unfold" in yard.world.asked
    await yard.must_stand(one)


async def test_a_service_that_windows_does_not_start_is_put_back(yard: Yard) -> None:
    one = await yard.deployed(Wish())
    yard.world.broken.add("two")
    outcome = await yard.one(await yard.deploy(Wish(version=Version.TWO), before=one))
    assert outcome.result is Result.REVERTED
    assert "Windows does not start it: Cannot start service" in outcome.detail
    await yard.must_stand(one)


async def test_a_health_command_runs_in_the_tree(yard: Yard) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def checks(world: World, directory: str, command: Any) -> tuple[int | None, str]:
        asked.append((directory, command))
        return (0 if len(asked) == 1 else 3), ""

    change = await yard.deploy(Wish())
    health = Health(check=CommandCheck(argv=("C:\\check.exe", "a b")), successes=1, deadline=timedelta(seconds=5))
    wanted = replace(change.placement, health=health)
    yard.world.programs["C:\\check.exe"] = checks
    assert (await yard.one(replace(change, placement=wanted))).as_wanted
    assert asked[0][0].endswith("\\tree")
    assert asked[0][1]["arguments"] == '"a b"'
    standing = await yard.standing(asked=wanted)
    assert standing is not None
    assert standing.workload is not None
    assert standing.workload.health.state is HealthState.UNHEALTHY


@pytest.mark.parametrize(
    ("check", "state"),
    [
        (TcpCheck(port=8000), HealthState.HEALTHY),
        (HttpCheck(port=8000, path="/", body="shop one"), HealthState.HEALTHY),
        (HttpCheck(port=8000, path="/", body="shop two"), HealthState.UNHEALTHY),
        (TcpCheck(port=9), HealthState.UNHEALTHY),
    ],
)
async def test_health_over_a_port_is_asked_by_the_host_itself(
    yard: Yard, check: TcpCheck | HttpCheck, state: HealthState
) -> None:
    one = await yard.deployed(Wish())
    seen = await yard.standing(asked=replace(one, health=Health(check=check)))
    assert seen is not None
    assert seen.workload is not None
    assert seen.workload.health.state is state


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "sentence"),
    [
        ({"memory": 1 << 30}, "memory and cpus are not limited"),
        ({"user": "bob"}, "expected LocalService, NetworkService, LocalSystem"),
        ({"volumes": (Volume(source="data", destination="/data"),)}, "volumes are not of a plain host"),
        ({"environment": (("A", "1"), ("a", "2"))}, "names differ by case alone"),
        ({"environment": (("A", "1\n2"),)}, "more than one line"),
        ({"command": ("run.cmd",)}, "is a batch file"),
        ({"command": ("..\\evil.exe",)}, "is not the path of a program"),
    ],
)
async def test_what_windows_cannot_give_is_refused_before_anything_is_touched(
    yard: Yard, declared: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InvalidAction, match=re.escape(sentence)):
        await yard.wear(Wish(), **declared)
    assert not yard.world.services


async def test_a_component_named_like_a_device_is_refused(yard: Yard) -> None:
    with pytest.raises(InvalidAction, match="Windows keeps that name for a device"):
        await yard.one(await yard.deploy(Wish(component="com1")))


async def test_a_root_of_somebody_else_is_left_alone(yard: Yard) -> None:
    await yard.deployed(Wish())
    other = Target(
        id=target_id("default", "other"),
        environment=yard.bench.target.environment,
        driver="windows",
        connection=yard.bench.target.connection,
    )
    seen = await yard.observe(target=other)
    assert "belongs to target default/kit" in str(seen.unseen)
    assert (await yard.doctor(target=other))["root"].grade is Grade.MISSING


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["a.exe"], "a.exe"),
        (["a b.exe", ""], '"a b.exe" ""'),
        (["a", 'say "hi"'], r'a "say \"hi\""'),
        (["a", "back\\"], r"a back\ ".strip()),
        (["a", "back slash\\"], r'a "back slash\\"'),
        (["a", 'x\\" & calc'], r'a "x\\\" & calc"'),
        (["a", "%PATH%", "^&|"], "a %PATH% ^&|"),
    ],
)
def test_words_are_quoted_as_programs_take_them_apart(words: list[str], line: str) -> None:
    assert render.quoted(words) == line
    assert taken_apart(line) == words


def taken_apart(line: str) -> list[str]:
    """As CommandLineToArgvW does, from its description."""
    words: list[str] = []
    at = 0
    while at < len(line):
        while at < len(line) and line[at] == " ":
            at += 1
        word, quoted = "", False
        while at < len(line) and (quoted or line[at] != " "):
            slashes = len(line[at:]) - len(line[at:].lstrip("\\"))
            at += slashes
            if at < len(line) and line[at] == '"':
                word += "\\" * (slashes // 2)
                if slashes % 2:
                    word += '"'
                else:
                    quoted = not quoted
                at += 1
            else:
                word += "\\" * slashes
                if at < len(line) and (quoted or line[at] != " "):
                    word += line[at]
                    at += 1
        words.append(word)
    return words


# -- what is lost on the way -------------------------------------------------------------------------------------------


async def test_an_action_goes_on_when_its_shell_is_lost(yard: Yard) -> None:
    one = await yard.deployed(Wish())
    action = yard.action(await yard.deploy(Wish(version=Version.TWO), before=one))
    lost: list[Step] = []

    def report(said: Any) -> None:
        if said.step is Step.START and not lost:
            lost.append(said.step)
            yard.bench.server.lose_shells()

    receipt = await yard.driver.apply(action, report=report)
    assert lost
    assert receipt.outcomes[0].as_wanted
    await yard.must_stand(yard.placement(Wish(version=Version.TWO)))


async def test_a_look_after_the_connection_was_reset_is_as_good_as_any(yard: Yard) -> None:
    one = await yard.deployed(Wish())
    yard.bench.server.cut()
    yard.bench.server.lose_shells()
    standing = await yard.standing(asked=one)
    assert standing is not None
    assert standing.workload is not None
    assert standing.workload.health.state is HealthState.HEALTHY


async def test_a_host_that_hangs_holds_up_no_other_and_is_asked_again_later(yard: Yard) -> None:
    slow = connection(yard.bench.server, command_timeout="1s", port=yard.bench.server.port, host="127.0.0.1")
    target = replace(yard.bench.target, connection=slow)
    yard.world.hangs.set()
    with anyio.fail_after(30):
        seen = (await yard.driver.observe([Look(target=target)]))[target.id]
    assert "did not answer in time" in str(seen.unseen)
    yard.world.hangs.clear()
    assert (await yard.driver.observe([Look(target=target)]))[target.id].unseen is None


async def test_a_look_that_is_cancelled_does_not_wait_for_the_host(yard: Yard) -> None:
    yard.world.hangs.set()
    began = anyio.current_time()
    with anyio.move_on_after(0.3) as scope:
        await yard.observe()
    assert scope.cancelled_caught
    assert anyio.current_time() - began < 3


async def test_a_change_that_is_not_answered_in_time_is_of_unknown_outcome(yard: Yard) -> None:
    slow = connection(yard.bench.server, command_timeout="1s", artifacts=f"oci:{yard.bench.images}")
    change = await yard.deploy(Wish())
    action = replace(yard.action(change), target=replace(yard.bench.target, connection=slow))

    def report(said: Any) -> None:
        if said.step is Step.LOOK:
            yard.world.hangs.set()

    with anyio.fail_after(30), pytest.raises(OutcomeUnknown):
        await yard.driver.apply(replace(action, deadline=timedelta(seconds=2)), report=report)


async def test_one_shell_serves_many_looks_and_many_targets(yard: Yard) -> None:
    await yard.deployed(Wish())
    yard.bench.server.seen.clear()
    other = replace(
        yard.bench.target,
        id=target_id("default", "b"),
        connection=connection(yard.bench.server, root="C:\\holdfast\\b"),
    )
    for _ in range(5):
        found = await yard.driver.observe([Look(target=yard.bench.target), Look(target=other)])
        assert all(seen.unseen is None for seen in found.values())
    assert "Create" not in yard.bench.server.seen
    assert yard.bench.server.seen.count("Send") == 5


async def test_an_unused_shell_is_closed(yard: Yard) -> None:
    target = replace(yard.bench.target, connection=connection(yard.bench.server, idle="1s"))
    assert (await yard.driver.observe([Look(target=target)]))[target.id].unseen is None
    with anyio.fail_after(30):
        while yard.bench.server.shells:  # noqa: ASYNC110 - nobody tells when
            await anyio.sleep(0.05)


# -- the helper --------------------------------------------------------------------------------------------------------


def test_the_script_answers_the_verbs_that_the_server_of_its_protocol_does() -> None:
    text = program.source().decode()
    verbs = re.findall(r"^        '([a-z]+)' \{ ", text, re.MULTILINE)
    assert sorted(verbs) == sorted(worlds.VERBS)
    for verb in set(verbs) - {"beat"}:  # which is answered with nothing
        assert re.search(rf"^function Invoke-{verb.capitalize()}[ (]", text, re.MULTILINE), verb


def test_the_driver_asks_nothing_else_of_it() -> None:
    folders = (Path(program.__file__).parent, Path(program.__file__).parents[1] / "script")
    files = [*folders[0].glob("*.py"), folders[1] / "windows.py"]
    text = "".join(file.read_text() for file in files)
    asked = re.findall(r'(?:grip|_grip|gaze\.(?:see|wait)|_gaze\.wait)\(\s*"([a-z]+)"', text)
    assert set(asked) - set(worlds.VERBS) == set()
    assert {"hold", "look", "install", "run", "drop", "unfold", "exchange", "order"} <= set(asked)


def test_the_names_that_the_server_takes_are_those_of_the_script() -> None:
    text = program.source().decode()
    for pattern in worlds.NAMES.values():
        assert f"'{pattern}'" in text


def test_a_command_line_of_the_host_is_one_line_that_fits_and_bears_no_value() -> None:
    for script in (program.LOADER, program.RUNNER):
        line = program.line(script)
        assert len(line) < 8000  # cmd takes 8191
        assert re.fullmatch(r"[A-Za-z0-9 .+/=-]+", line)
    assert program.line() == program.line()


def test_the_script_is_ascii_and_builds_no_script_of_its_own() -> None:
    text = program.source().decode("ascii")
    assert "Invoke-Expression" not in text
    assert "iex " not in text
    assert "scriptblock" not in text.lower()


async def test_a_script_that_is_not_the_one_that_was_named_is_not_run(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, _, _ = program.opening().partition(b"\n")
    other = base64.b64encode(gzip.compress(b"Stop-Computer"))
    monkeypatch.setattr(program, "opening", lambda: said + b"\n" + other + b"\n")
    seen = await yard.observe()
    assert "exit code 3: the script that came is not the one that was named" in str(seen.unseen)
    assert not yard.world.asked


def test_the_script_and_its_loaders_are_powershell_by_its_grammar() -> None:
    grammar = pytest.importorskip("tree_sitter_powershell", reason="no grammar of PowerShell (tree-sitter-powershell)")
    import tree_sitter

    parser = tree_sitter.Parser(tree_sitter.Language(grammar.language()))
    for text in (program.source(), program.LOADER.encode(), program.RUNNER.encode()):
        assert not parser.parse(text).root_node.has_error


def test_the_list_of_drivers_says_that_no_windows_was_there() -> None:
    found = registry.verified(registry.load("windows"))
    assert found is not None
    assert found.against is Against.CONTRACT
    assert "not run on Windows" in found.by


async def test_a_shell_that_does_not_come_to_stand_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Kerberos does where no KDC answers: its library waits for 25 s, whatever it is told."""
    ended = threading.Event()
    monkeypatch.setattr("drivers.winrm.shell.Shell.open", lambda *_: ended.wait(10))
    monkeypatch.setattr(wire, "OPENS_BEYOND", 0.1)

    async def resolve(reference: SecretRef) -> str:
        return "secret"

    winrm = WinRm(host="127.0.0.1", auth="kerberos", command_timeout="1s")
    channel = wire.WinRmChannel(winrm, resolve, Threads("test"))
    began = time.monotonic()
    with pytest.raises(Silent, match="no shell stands after 1 s"):
        await channel.open()
    assert time.monotonic() - began < 5
    ended.set()
    await channel.aclose()


# -- the doctor --------------------------------------------------------------------------------------------------------


async def test_the_doctor_finds_a_host_in_order(yard: Yard) -> None:
    found = await yard.doctor(yard.placement(Wish()))
    assert {about: one.grade for about, one in found.items()} == dict.fromkeys(
        ("powershell", "account", "root", "disk", "clock"), Grade.OK
    )


async def test_the_doctor_says_what_lacks_and_what_helps(yard: Yard) -> None:
    yard.world.administrator, yard.world.powershell, yard.world.skew_ms = False, "4.0", 90_000
    wanted = yard.placement(Wish())
    limited = replace(wanted, configuration=replace(wanted.configuration, memory=1 << 20))
    found = await yard.doctor(limited)
    assert found["account"].grade is Grade.MISSING
    assert found["powershell"].remedy == "install Windows Management Framework 5.1 there"
    assert found["clock"].grade is Grade.WARNING
    assert "memory and cpus" in found["declared"].sentence


@pytest.mark.parametrize(
    ("said", "grade", "remedy"),
    [
        ({"password": {"secret": "env:WRONG"}}, Grade.MISSING, "look at user, password and auth"),
        ({"host": "localhost"}, Grade.MISSING, "name the file of its authority in `ca`"),
        ({"port": 1}, Grade.UNKNOWN, "look whether its winrm listens"),
    ],
)
async def test_the_doctor_says_why_a_host_is_not_reached(
    yard: Yard, said: dict[str, Any], grade: Grade, remedy: str
) -> None:
    target = replace(yard.bench.target, connection=connection(yard.bench.server, **said))
    found = (await yard.doctor(target=target))["host"]
    assert found.grade is grade
    assert str(found.remedy).startswith(remedy)


# -- a real host -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not {"WINRM_HOST", "WINRM_USER", "WINRM_PASSWORD"} <= os.environ.keys(),
    reason="no Windows to run the helper on: set WINRM_HOST, WINRM_USER, WINRM_PASSWORD, and WINRM_CA for its own",
)
async def test_the_helper_answers_on_a_real_windows() -> None:
    from drivers.conformance import proper_tools

    async def secret(reference: SecretRef) -> str:
        return os.environ[reference.reference.removeprefix("env:")]

    said: dict[str, Any] = {"host": os.environ["WINRM_HOST"], "user": os.environ["WINRM_USER"]}
    said |= {"password": {"secret": "env:WINRM_PASSWORD"}, "root": "C:\\holdfast-test\\doctor"}
    said |= {"ca": os.environ["WINRM_CA"]} if "WINRM_CA" in os.environ else {}
    driver = WindowsDriver(replace(proper_tools(), secret=secret))
    target = Target(id=target_id("default", "real"), environment=ENVIRONMENT, driver="windows", connection=said)
    try:
        look = Look(target=target)
        found = {one.about: one for one in await driver.examine(look)}
        assert found["powershell"].grade is Grade.OK, found
        assert (await driver.observe([look]))[target.id].unseen is None
    finally:
        await driver.aclose()
