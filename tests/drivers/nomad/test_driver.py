"""What the nomad driver does with a job, beyond the contract that every driver keeps."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from desired_state.model import Placement, Target
from desired_state.secrets import SecretRef
from drivers.conformance import Version
from drivers.conformance.stage import Stage, Wish
from drivers.contract import Look, Outcome, Result, Step
from drivers.errors import Busy, Conflict, DriverError, OutcomeUnknown, Refused, Unreachable
from drivers.nomad import hands, look, render
from drivers.nomad.cluster import Cluster
from drivers.nomad.connection import Connection
from drivers.nomad.driver import NomadDriver
from stickers.names import EnvironmentId, target_id
from stickers.observation import HealthState, WorkloadState
from stickers.sticker import Phase
from tests.drivers.docker import certificates
from tests.drivers.nomad.bench import SOON, NomadBench, Site, artifact, template
from tests.drivers.nomad.server import Behaviour, Said, Server

TOKEN = SecretRef(reference="file:/run/token")


class KitBench(NomadBench):
    """The kit's bench, whose connection a test may change."""

    def __init__(self, server: Server, **update: Any) -> None:
        super().__init__(Site(address=server.address, update=SOON | update))
        server.agent.behaviours[artifact(Version.BAD).digest] = Behaviour.SILENT
        self.said: dict[str, Any] = {}
        self.secrets: dict[str, str] = {}
        self.tools = replace(self.tools, secret=self._secret)

    async def _secret(self, reference: SecretRef) -> str:
        return self.secrets[reference.reference]

    @property
    def target(self) -> Target:
        there = super().target
        return replace(there, connection={**there.connection, **self.said})


@pytest.fixture
async def stage(server: Server) -> AsyncIterator[Stage]:
    made = Stage(KitBench(server))
    yield made
    await made.aclose()


def bench(stage: Stage) -> KitBench:
    assert isinstance(stage.bench, KitBench)
    return stage.bench


def asked(server: Server, method: str, ending: str) -> int:
    return sum(one == method and path.endswith(ending) for one, path in server.agent.requests)


def strike(server: Server, method: str, ending: str, deed: Callable[[], None]) -> None:
    """Do it once, when such a request has come."""
    struck = []

    def before(one: str, path: str) -> None:
        if (one, path.endswith(ending)) == (method, True) and not struck:
            struck.append(path)
            deed()

    server.agent.before = before


# -- check and set ----------------------------------------------------------------------------------------------------


async def test_a_job_that_changed_since_it_was_read_is_a_conflict(stage: Stage, server: Server) -> None:
    one = await stage.deployed(Wish())
    change = await stage.deploy(Wish(version=Version.TWO), before=one)

    def meddle() -> None:
        with server.agent.lock:
            server.agent.put(json.loads(json.dumps(server.agent.job("kit"))) | {"Priority": 70})

    strike(server, "POST", "/jobs", meddle)
    with pytest.raises(Conflict, match="Enforcing job modify index"):
        await stage.one(change)
    assert server.agent.job("kit")["Priority"] == 70
    assert [raw.artifact for raw in await stage.raw() if raw.running] == [artifact(Version.ONE).digest]


async def test_a_sticker_that_changed_since_it_was_read_is_a_conflict(stage: Stage, server: Server) -> None:
    change = await stage.deploy(Wish())
    path = look.path(stage.bench.tools.installation, stage.id())

    def meddle() -> None:
        with server.agent.lock:
            server.agent.put_variable(path, {"Items": {"format": "hunter2"}}, None)

    strike(server, "PUT", path, meddle)
    with pytest.raises(Conflict) as conflict:
        await stage.one(change)
    assert server.agent.variables[path]["Items"] == {"format": "hunter2"}
    assert "hunter2" not in str(conflict.value)
    assert not server.agent.versions


async def test_a_strange_job_of_that_name_is_not_touched(stage: Stage, server: Server) -> None:
    with server.agent.lock:
        job = template("kit")
        job["TaskGroups"][0]["Tasks"][0]["Config"]["image"] = str(artifact(Version.ONE))
        server.agent.register({"Job": job})
    with pytest.raises(Conflict, match="it is not ours"):
        await stage.one(await stage.deploy(Wish()))
    seen = await stage.observe()
    assert not seen.standings
    assert "api/api" in {one.name for one in seen.unmanaged}


async def test_a_lost_answer_is_an_unknown_outcome_that_the_same_key_finishes(stage: Stage, server: Server) -> None:
    action = stage.action(await stage.deploy(Wish()))

    def lose(method: str, path: str) -> None:
        if path.endswith("/jobs"):
            raise ConnectionAbortedError

    server.agent.after = lose
    with pytest.raises(OutcomeUnknown):
        await stage.apply(action)
    server.agent.after = lambda method, path: None
    receipt = await stage.apply(action)
    assert receipt.outcomes[0].result is Result.CHANGED
    assert asked(server, "POST", "/jobs") == 1


async def test_what_is_not_understood_is_unknown(stage: Stage, server: Server) -> None:
    change = await stage.deploy(Wish())

    def broken() -> None:
        raise Said(500, "rpc error: something nobody has heard of")

    strike(server, "POST", "/jobs", broken)
    with pytest.raises(OutcomeUnknown, match="nobody has heard of"):
        await stage.one(change)


async def test_an_answer_that_is_no_job_is_unseen(stage: Stage, server: Server) -> None:
    await stage.deployed(Wish())

    def broken() -> None:
        raise Said(200, '{"ID": "kit", "JobModifyIndex": 1}')

    strike(server, "GET", "/job/kit", broken)
    seen = await stage.observe()
    assert seen.unseen is not None
    assert "not understood" in seen.unseen


# -- the way back -----------------------------------------------------------------------------------------------------


async def test_an_earlier_version_that_is_the_whole_job_is_reverted_to(stage: Stage, server: Server) -> None:
    one = await stage.deployed(Wish())
    outcome = await stage.one(await stage.deploy(Wish(version=Version.BAD), before=one))
    assert outcome.result is Result.REVERTED
    assert asked(server, "POST", "/revert") == 1
    await stage.must_stand(one)


async def test_another_component_that_changed_meanwhile_is_not_reverted(stage: Stage, server: Server) -> None:
    one = await stage.deployed(Wish())
    web = await stage.deployed(Wish(component="web"))
    action = stage.action(await stage.deploy(Wish(version=Version.BAD), before=one))
    with anyio.move_on_after(0.5):
        await stage.driver.apply(action, report=lambda progress: None)
    await stage.begin_again()
    newer = await stage.deployed(Wish(component="web", version=Version.TWO), before=web)
    outcome = (await stage.apply(action)).outcomes[0]
    assert outcome.result is Result.REVERTED
    assert asked(server, "POST", "/revert") == 0
    await stage.must_stand(one)
    await stage.must_stand(newer)


async def test_after_a_crash_what_nobody_proved_is_put_back_all_the_same(stage: Stage) -> None:
    """What stood before is written down with the sticker in transit, so that whoever resumes knows it."""
    one = await stage.deployed(Wish())
    action = stage.action(await stage.deploy(Wish(version=Version.BAD), before=None))
    assert await stage.crash(action, Step.PROVE)
    outcome = (await stage.apply(action)).outcomes[0]
    assert outcome.result is Result.UNPROVEN, outcome.detail
    assert [raw.artifact for raw in await stage.raw() if raw.running] == [one.artifact.digest]


async def test_after_a_crash_what_stood_before_is_kept(stage: Stage) -> None:
    one = await stage.deployed(Wish())
    action = stage.action(await stage.deploy(Wish(version=Version.TWO), before=None))
    assert await stage.crash(action, Step.PROVE)
    await stage.apply(action)
    seen = await stage.standing()
    assert seen is not None
    assert seen.kept == (one.content,)


async def test_what_nomad_reverted_itself_is_proven_and_labelled(server: Server) -> None:
    stage = Stage(KitBench(server, AutoRevert=True))
    server.agent.behaviours[artifact(Version.BAD).digest] = Behaviour.UNWELL
    one = await stage.deployed(Wish())
    patient = replace(stage.placement(Wish(version=Version.BAD)).health, deadline=timedelta(seconds=5))  # type: ignore[type-var]
    change = await stage.deploy(Wish(version=Version.BAD), before=one)
    outcome = await stage.one(replace(change, placement=replace(change.placement, health=patient)))
    assert outcome.result is Result.REVERTED, outcome.detail
    assert asked(server, "POST", "/revert") == 0
    assert asked(server, "POST", "/jobs") == 2
    await stage.must_stand(one)
    await stage.aclose()


async def test_what_nomad_reverts_after_an_action_is_seen_as_it_is(server: Server) -> None:
    stage = Stage(KitBench(server, AutoRevert=True))
    one = await stage.deployed(Wish())
    two = await stage.deployed(Wish(version=Version.TWO), before=one)
    with server.agent.lock:
        server.agent._revert("kit", 0)
    seen = await stage.until(
        lambda seen: seen is not None and seen.workload is not None and seen.workload.artifact != two.artifact.digest,
        "the earlier version",
        asked=two,
    )
    assert seen is not None
    assert seen.workload is not None
    assert (seen.workload.artifact, seen.workload.configuration) == one.content
    await stage.aclose()


async def test_what_crashes_again_and_again_is_put_back(stage: Stage, server: Server) -> None:
    server.agent.behaviours[artifact(Version.BAD).digest] = Behaviour.CRASHES
    one = await stage.deployed(Wish())
    outcome = await stage.one(await stage.deploy(Wish(version=Version.BAD), before=one))
    assert outcome.result is Result.REVERTED, outcome.detail
    await stage.must_stand(one)


async def test_what_is_proven_is_not_failed_by_an_old_one_that_does_not_end(
    stage: Stage, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hands, "ENDING", 0.2)
    one = await stage.deployed(Wish())
    server.agent.stuck = {one.id for one in server.agent.allocations}
    outcome = await stage.one(await stage.deploy(Wish(version=Version.TWO), before=one))
    assert outcome.result is Result.CHANGED, outcome.detail
    assert any("has not ended in 0.2 s" in one.message for one in stage.said)


async def test_a_removal_is_not_done_while_something_of_it_runs(
    stage: Stage, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hands, "ENDING", 0.2)
    one = await stage.deployed(Wish())
    action = stage.action(await stage.removal(one))
    server.agent.stuck = {one.id for one in server.agent.allocations}
    for _ in range(2):
        with pytest.raises(Busy, match="has not ended"):
            await stage.apply(action)
    server.agent.stuck = set()
    receipt = await stage.apply(action)
    assert receipt.outcomes[0].result is Result.CHANGED
    assert not await stage.raw()


async def test_a_version_that_nomad_calls_unhealthy_is_said_to_be(stage: Stage, server: Server) -> None:
    server.agent.behaviours[artifact(Version.BAD).digest] = Behaviour.UNWELL
    outcome = await stage.one(await stage.deploy(Wish(version=Version.BAD)))
    assert outcome.result is Result.REVERTED
    assert "Nomad's deployment failed: Failed due to unhealthy allocations" in outcome.detail


async def test_what_cannot_be_placed_is_said_in_nomads_words(stage: Stage, server: Server) -> None:
    server.agent.nodes = 0
    outcome = await stage.one(await stage.deploy(Wish()))
    assert outcome.result is Result.REVERTED
    assert "Nomad has not placed it: group api: 1 nodes were considered, 1 exhausted memory" in outcome.detail


# -- canaries ---------------------------------------------------------------------------------------------------------


async def test_canaries_are_promoted_once_they_are_proven(server: Server) -> None:
    stage = Stage(KitBench(server, Canary=1))
    one = await stage.deployed(Wish())
    await stage.deployed(Wish(version=Version.TWO), before=one)
    promoted = [path for method, path in server.agent.requests if "promote" in path]
    assert len(promoted) == 1
    assert server.agent.deployments[0]["Status"] == "successful"
    await stage.aclose()


async def test_canaries_that_prove_nothing_are_never_promoted(server: Server) -> None:
    stage = Stage(KitBench(server, Canary=1))
    one = await stage.deployed(Wish())
    await stage.one(await stage.deploy(Wish(version=Version.BAD), before=one))
    assert not any("promote" in path for _, path in server.agent.requests)
    await stage.aclose()


async def test_canaries_that_wait_are_seen_to_wait(server: Server) -> None:
    stage = Stage(KitBench(server, Canary=1))
    one = await stage.deployed(Wish())
    await stage.crash(stage.action(await stage.deploy(Wish(version=Version.TWO), before=one)), Step.SWITCH)
    seen = await stage.standing(asked=one)
    assert seen is not None
    assert seen.workload is not None
    assert seen.workload.state is WorkloadState.STARTING
    assert seen.workload.health.detail == "Nomad's deployment waits for its canaries to be promoted"
    await stage.aclose()


# -- several at once --------------------------------------------------------------------------------------------------


async def test_all_that_an_action_deploys_is_registered_once(stage: Stage, server: Server) -> None:
    changes = [await stage.deploy(Wish(component=name)) for name in ("api", "web")]
    receipt = await stage.apply(stage.action(*changes))
    assert [one.result for one in receipt.outcomes] == [Result.CHANGED, Result.CHANGED]
    assert asked(server, "POST", "/jobs") == 1


async def test_tasks_of_one_group_come_together_and_change_alone(stage: Stage, server: Server) -> None:
    shared = template("kit")
    shared["TaskGroups"] = shared["TaskGroups"][:1]
    shared["TaskGroups"][0]["Tasks"].append({"Name": "web", "Driver": "docker"})
    bench(stage).said = {"template": shared, "tasks": {"api/api": "api", "api/web": "web"}}
    changes = [await stage.deploy(Wish(component=name)) for name in ("api", "web")]
    receipt = await stage.apply(stage.action(*changes))
    assert receipt.as_wanted
    web, before = (
        stage.placement(Wish(component="web")),
        render.parts(server.agent.job("kit"), stage.bench.tools.installation, stage.bench.target.id),
    )
    await stage.deployed(Wish(version=Version.TWO), before=stage.placement(Wish()))
    after = render.parts(server.agent.job("kit"), stage.bench.tools.installation, stage.bench.target.id)
    gone = await stage.one(await stage.removal(stage.placement(Wish(version=Version.TWO))))
    assert gone.result is Result.CHANGED
    assert after[web.id.component].task == before[web.id.component].task
    seen = await stage.standing(web.id)
    assert seen is not None
    assert seen.workload is not None
    assert (seen.workload.artifact, seen.workload.configuration) == web.content


async def test_every_sticker_is_marked_before_the_job_is_changed(stage: Stage, server: Server) -> None:
    changes = [await stage.deploy(Wish(component=name)) for name in ("api", "web")]
    phases: list[object] = []

    def look_now() -> None:
        phases.extend(one["Items"][look.PHASE] for one in server.agent.variables.values())

    strike(server, "POST", "/jobs", look_now)
    await stage.apply(stage.action(*changes))
    assert phases == [Phase.IN_TRANSIT, Phase.IN_TRANSIT]


async def test_a_job_that_somebody_stopped_comes_back_for_what_is_deployed_alone(stage: Stage, server: Server) -> None:
    one, web = await stage.deployed(Wish()), await stage.deployed(Wish(component="web"))
    with server.agent.lock:
        server.agent.deregister("kit", purge=False)
    seen = await stage.until(
        lambda seen: seen is not None and seen.workload is not None and seen.workload.state is WorkloadState.STOPPED,
        "a stopped job",
        asked=web,
    )
    assert seen is not None
    await stage.deployed(Wish(version=Version.TWO), before=one)
    other = await stage.standing(web.id)
    assert other is not None
    assert other.workload is not None
    assert other.workload.state is WorkloadState.STOPPED
    assert other.workload.configuration == web.configuration_digest


# -- what is seen -----------------------------------------------------------------------------------------------------


async def test_what_a_hand_changed_is_said_in_nomads_words(stage: Stage, server: Server) -> None:
    one = await stage.deployed(Wish())
    with server.agent.lock:
        job = json.loads(json.dumps(server.agent.job("kit")))
        job["TaskGroups"][0]["Tasks"][0]["Env"]["KIT_COLOUR"] = "hunter2"
        job["TaskGroups"][0]["Tasks"][0]["Env"]["MORE"] = "hunter3"
        server.agent.put(job)
    seen = await stage.standing(asked=one)
    assert seen is not None
    assert seen.workload is not None
    assert seen.workload.configuration is None
    assert seen.workload.differences == (
        "api.api.Env[KIT_COLOUR]: is another value, and would be set",
        "api.api.Env[MORE]: is there, and would be taken away",
    )
    assert asked(server, "POST", "/plan") == 2  # one when it was deployed, and one for the words


async def test_a_plan_for_the_words_is_asked_once(stage: Stage, server: Server) -> None:
    one = await stage.deployed(Wish())
    with server.agent.lock:
        server.agent.put(json.loads(json.dumps(server.agent.job("kit"))) | {"Datacenters": ["dc2"]})
    for _ in range(3):
        await stage.standing(asked=one)
    assert asked(server, "POST", "/plan") == 2


async def test_a_check_of_a_port_that_is_given_to_no_host_is_unknown(stage: Stage) -> None:
    one = await stage.deployed(Wish())
    assert one.health is not None
    other = replace(one, health=replace(one.health, check=replace(one.health.check, port=9999)))  # type: ignore[arg-type]
    seen = await stage.standing(asked=other)
    assert seen is not None
    assert seen.workload is not None
    assert seen.workload.health.state is HealthState.UNKNOWN
    assert "port 9999" in seen.workload.health.detail


async def test_nomads_own_checks_come_before_the_declared_one(stage: Stage, server: Server) -> None:
    checked = template("kit")
    service = {"Name": "api", "Provider": "nomad", "Checks": [{"Name": "ready", "Type": "http"}]}
    checked["TaskGroups"][0]["Services"] = [service]
    bench(stage).said = {"template": checked}
    one = await stage.deployed(Wish())
    outcome = await stage.one(await stage.deploy(Wish(version=Version.BAD), before=one))
    assert outcome.result is Result.REVERTED
    assert "Nomad's own check 'ready' fails" in outcome.detail
    await stage.must_stand(one)


async def test_events_that_end_are_unreachable(stage: Stage, server: Server) -> None:
    driver = stage.driver
    assert isinstance(driver, NomadDriver)

    async def watch() -> None:
        async for _ in driver.watch([stage.bench.target]):
            pass

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:

            async def end() -> None:
                await anyio.sleep(0.3)
                server.agent.stopping = True

            group.start_soon(end)
            with pytest.raises(Unreachable):
                await watch()


async def test_a_look_costs_few_questions(stage: Stage, server: Server) -> None:
    one = await stage.deployed(Wish())
    await stage.observe(one)
    before = len(server.agent.requests)
    await stage.observe(one)
    found = [path for _, path in server.agent.requests[before:]]
    assert len(found) == 2 + 3, found  # the job, its allocations, and a sticker for each of three tasks


# -- templates --------------------------------------------------------------------------------------------------------


HCL = """
# as somebody would write it
job "kit" {
  datacenters = ["dc1"]
  update { canary = 0 }
  group "api" {
    count = 2
    network {
      mode = "bridge"
      port "http" { to = 8080 }
    }
    task "api" {
      driver = "docker"
      config { ports = ["http"] }
    }
  }
}
"""


async def test_hcl_is_parsed_by_the_server(stage: Stage, server: Server, tmp_path: Path) -> None:
    file = tmp_path / "kit.hcl"
    file.write_text(HCL.replace("  update { canary = 0 }\n", ""))
    bench(stage).said = {"template": None, "file": str(file), "tasks": {"api/api": "api"}}
    server.agent.behaviours.clear()
    outcome = await _quick(stage, server)
    assert outcome.result is Result.CHANGED, outcome.detail
    running = [raw for raw in server.agent.allocations if raw.client == "running"]
    assert len(running) == 2


async def _quick(stage: Stage, server: Server) -> Outcome:
    """A deploy under Nomad's own defaults, which wait for ten seconds, waited for less long."""
    from tests.drivers.nomad import server as module

    minimum, module.NANO = module.NANO, module.NANO / 1000
    try:
        return await stage.one(await stage.deploy(Wish()))
    finally:
        module.NANO = minimum


@pytest.mark.parametrize(
    ("content", "because"), [("{", "is not JSON"), ("[]", "holds no job"), (None, "cannot be read")]
)
async def test_a_file_without_a_job_is_refused(stage: Stage, tmp_path: Path, content: str | None, because: str) -> None:
    file = tmp_path / "kit.json"
    if content is not None:
        file.write_text(content)
    bench(stage).said = {"template": None, "file": str(file)}
    with pytest.raises(Refused, match=because):
        await stage.one(await stage.deploy(Wish()))


async def test_a_job_that_nomad_would_not_take_touches_nothing(stage: Stage, server: Server) -> None:
    change = await stage.deploy(Wish())

    def invalid() -> None:
        raise Said(500, "1 error occurred: Task group api validation failed")

    strike(server, "POST", "/plan", invalid)
    with pytest.raises(Refused, match="Task group api validation failed"):
        await stage.one(change)
    assert not server.agent.variables


# -- secrets ----------------------------------------------------------------------------------------------------------


async def _with_secret(stage: Stage, version: str, wish: Wish, before: Placement | None = None) -> Placement:
    change = await stage.deploy(wish, before=before)
    secret = SecretRef(reference="file:/run/password", version=version)
    configuration = replace(change.placement.configuration, environment=(("PASSWORD", secret),))
    placed = replace(change.placement, configuration=configuration)
    outcome = await stage.one(replace(change, placement=placed))
    assert outcome.result is Result.CHANGED, outcome.detail
    return placed


async def test_a_secret_is_written_where_its_task_alone_may_read_it(stage: Stage, server: Server) -> None:
    bench(stage).secrets["file:/run/password"] = "hunter2"
    await _with_secret(stage, "1", Wish())
    assert list(server.agent.variables["nomad/jobs/kit/api/api"]["Items"].values()) == ["hunter2"]
    assert "hunter2" not in json.dumps(server.agent.versions)


async def test_a_secret_that_no_kept_version_reads_is_taken_away(stage: Stage, server: Server) -> None:
    bench(stage).secrets["file:/run/password"] = "hunter2"
    before: Placement | None = None
    for version in "12345678":
        before = await _with_secret(stage, version, Wish(), before)
    items = server.agent.variables["nomad/jobs/kit/api/api"]["Items"]
    assert len(items) == len(server.agent.versions["kit"])


# -- access -----------------------------------------------------------------------------------------------------------


ALL = frozenset({"read-job", "submit-job", "parse-job", "read-logs", "alloc-lifecycle", "variables"})


@pytest.mark.parametrize(
    ("lacks", "said"),
    [
        ("submit-job", "must allow submit-job in namespace 'default'"),
        ("read-job", "must allow read-job in namespace 'default'"),
        ("variables", "must allow variables { path 'holdfast/"),
    ],
)
async def test_what_a_policy_lacks_is_named(stage: Stage, server: Server, lacks: str, said: str) -> None:
    bench(stage).said = {"token": {"secret": TOKEN.reference}}
    bench(stage).secrets[TOKEN.reference] = "t1"
    change = await stage.deploy(Wish())
    server.agent.tokens = {"t1": ALL - {lacks}}
    with pytest.raises(Refused) as refused:
        await stage.one(change)
    assert said in str(refused.value)


@pytest.mark.parametrize("lacks", ["read-job", "variables"])
async def test_a_look_that_is_denied_is_unseen(stage: Stage, server: Server, lacks: str) -> None:
    """A sticker that may not be read is not a sticker that is not there."""
    await stage.deployed(Wish())
    server.agent.tokens = {"": ALL - {lacks}}
    seen = await stage.observe()
    assert seen.unseen is not None
    assert f"must allow {lacks}" in seen.unseen
    assert not seen.standings


async def test_a_token_that_was_replaced_is_asked_for_again(stage: Stage, server: Server) -> None:
    bench(stage).said = {"token": {"secret": TOKEN.reference}}
    bench(stage).secrets[TOKEN.reference] = "t1"
    server.agent.tokens = {"t1": ALL}
    await stage.deployed(Wish())
    server.agent.tokens, bench(stage).secrets[TOKEN.reference] = {"t2": ALL}, "t2"
    assert (await stage.observe()).unseen is not None
    assert (await stage.observe()).unseen is None


async def test_the_environment_of_the_daemon_is_not_read(
    stage: Stage, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOMAD_TOKEN", "t1")
    monkeypatch.setenv("NOMAD_NAMESPACE", "other")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    server.agent.tokens = {"t1": ALL}
    assert "must allow" in str((await stage.observe()).unseen)
    server.agent.tokens = None
    await stage.deployed(Wish())


async def test_a_token_does_not_follow_a_redirect(stage: Stage, server: Server) -> None:
    change = await stage.deploy(Wish())
    path = look.path(stage.bench.tools.installation, stage.id())

    def elsewhere() -> None:
        raise Said(307, "", f"{server.address}/v1/elsewhere")

    strike(server, "PUT", path, elsewhere)
    with pytest.raises(DriverError):
        await stage.one(change)
    assert not any("elsewhere" in path for _, path in server.agent.requests)


async def test_a_job_whose_name_has_a_slash_is_one_job(stage: Stage, server: Server) -> None:
    bench(stage).site = replace(bench(stage).site, job="team/web")
    outcome = await stage.one(await stage.deploy(Wish()))
    assert outcome.result is Result.CHANGED, outcome.detail
    failed = await stage.one(await stage.deploy(Wish(version=Version.BAD), before=stage.placement(Wish())))
    assert failed.result is Result.REVERTED, failed.detail
    assert list(server.agent.versions) == ["team/web"]
    assert asked(server, "POST", "/job/team%2Fweb/revert") == 1


async def test_a_namespace_is_named_in_every_request(stage: Stage, server: Server) -> None:
    """The SDK leaves it out for Variables, evaluations and events."""
    server.agent.namespace = "prod"
    bench(stage).said = {"namespace": "prod"}
    outcome = await stage.one(await stage.deploy(Wish()))
    assert outcome.result is Result.CHANGED, outcome.detail


async def test_a_certificate_of_another_authority_is_not_talked_to(tmp_path: Path) -> None:
    for name in ("trusted", "other"):
        (tmp_path / name).mkdir()
        certificates.write(tmp_path / name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "trusted" / "engine.pem", tmp_path / "trusted" / "engine-key.pem")
    with Server() as server:
        server.behind(context)
        for authority in ("trusted", "other"):
            kit = KitBench(server)
            kit.said = {"tls": {"ca": str(tmp_path / authority / "ca.pem")}}
            driver = kit.driver()
            seen = (await driver.observe([Look(target=kit.target)]))[kit.target.id]
            assert (seen.unseen is None) is (authority == "trusted"), seen.unseen
            await driver.aclose()


async def test_one_cluster_that_does_not_answer_holds_up_no_other(stage: Stage) -> None:
    far = Target(
        id=target_id("default", "far"),
        environment=EnvironmentId("default/kit"),
        driver="nomad",
        connection={**stage.bench.target.connection, "address": "http://127.0.0.1:9"},
    )
    seen = await stage.driver.observe([Look(target=far), Look(target=stage.bench.target)])
    assert seen[far.id].unseen is not None
    assert seen[stage.bench.target.id].unseen is None


def test_targets_of_one_cluster_share_one_client(server: Server) -> None:
    there = NomadBench(Site(address=server.address))
    driver = NomadDriver(there.tools)
    one = Connection.model_validate(dict(there.target.connection))
    other = one.model_copy(update={"job": "other"})
    assert isinstance(driver._eyes_at(one).cluster, Cluster)
    assert driver._eyes_at(one) is driver._eyes_at(other)
