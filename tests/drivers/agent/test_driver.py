"""Any runtime through an agent: the server's side of it keeps the contract, whatever the agent answers."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

import anyio
import pytest
from pydantic import ValidationError

from desired_state.model import Target
from desired_state.secrets import SecretRef
from drivers.agent.driver import AgentDriver, over_agents, references
from drivers.agent.protocol import Code, Verb
from drivers.conformance import Version
from drivers.conformance.stage import Stage, Wish
from drivers.contract import Action, Deploy, Driver, Examiner, Look, Narrator, Rendering, Restart, Result, Watcher
from drivers.errors import (
    Busy,
    Conflict,
    DriverError,
    OutcomeUnknown,
    Refused,
    Retryable,
    StaleFence,
    Unreachable,
)
from drivers.memory import Fault, MemoryDriver, Trouble
from drivers.registry import connection_model, load
from stickers import names
from stickers.signature import Keyring
from tests.drivers.agent.fake_agent import FakeAgent, FakeSigner
from tests.drivers.memory_bench import MemoryBench
from tests.harness import virtual_time

anyio_backend = virtual_time.backend()


class AgentBench(MemoryBench):
    """The memory driver's bench, with an agent between."""

    def __init__(self) -> None:
        super().__init__()
        self.signer = FakeSigner()
        self.agent = FakeAgent(MemoryDriver(self.tools, self.world), Keyring([self.signer.signer.key]))

    @property
    def target(self) -> Target:
        return replace(super().target, connection={"via": "agent"})

    def driver(self) -> Driver:
        made: Driver = over_agents(load("memory"))(self.tools, self.agent, self.signer)
        return made


@pytest.fixture
def bench() -> AgentBench:
    return AgentBench()


@pytest.fixture
def stage(bench: AgentBench) -> Stage:
    return Stage(bench)


def silent(progress: object) -> None:
    pass


# -- what it is --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["compose", "docker", "memory", "process", "script", "systemd"])
def test_it_has_the_powers_of_the_runtime_and_events(kind: str, bench: AgentBench) -> None:
    inner = load(kind)
    driver = over_agents(inner)(bench.tools, bench.agent, bench.signer)
    assert driver.kind == kind
    assert driver.capabilities == replace(inner.capabilities, events=True)
    assert isinstance(driver, Watcher)
    assert isinstance(driver, Rendering)
    assert isinstance(driver, Examiner)
    assert isinstance(driver, Narrator) == inner.capabilities.logs
    assert driver.deploys == frozenset()  # no file that the server has kept is deployed


async def test_files_are_rendered_as_the_runtime_renders_them_where_it_is(bench: AgentBench, stage: Stage) -> None:
    process = load("process")
    driver = over_agents(process)(bench.tools, bench.agent, bench.signer)
    target = replace(bench.target, driver="process", connection={"via": "agent", "root": "/srv/web"})
    here = replace(target, connection={"root": "/srv/web"})
    placed = (stage.placement(Wish()),)
    inner = process(bench.tools)
    assert isinstance(inner, Rendering)
    assert driver.rendered(target, placed, ()) == inner.rendered(here, placed, ()) != ()


# -- looking -----------------------------------------------------------------------------------------------------------


async def test_an_order_is_authorised_once(bench: AgentBench, stage: Stage) -> None:
    one = await stage.deployed(Wish())
    before = len(bench.signer.asked)
    for _ in range(5):
        await stage.observe(one)
    assert [task.verb for task in bench.signer.asked[before:]] == [Verb.INSPECT]


async def test_another_health_check_is_authorised_anew(bench: AgentBench, stage: Stage) -> None:
    one = stage.placement(Wish())
    await stage.observe(one)
    assert one.health is not None
    await stage.observe(replace(one, health=replace(one.health, successes=9)))
    assert len(bench.signer.asked) == 2


async def test_an_agent_that_lost_the_order_is_given_it_again(bench: AgentBench, stage: Stage) -> None:
    await stage.observe()
    bench.agent.orders.clear()
    assert (await stage.observe()).unseen is None


async def test_what_is_unchanged_is_not_sent_again(bench: AgentBench, stage: Stage) -> None:
    one = await stage.deployed(Wish())
    first = await stage.observe(one)
    sent = bench.agent.bodies_sent
    second = await stage.observe(one)
    assert bench.agent.bodies_sent == sent
    assert second.standings is first.standings


async def test_a_look_is_dated_by_our_clock_when_it_began(bench: AgentBench) -> None:
    bench.agent.inner = MemoryDriver(replace(bench.tools, now=lambda: datetime(1999, 1, 1, tzinfo=UTC)), bench.world)
    stage = Stage(bench)
    await stage.observe()
    await anyio.sleep(7)
    began = bench.tools.now()
    assert (await stage.observe()).at == began


async def test_a_silent_agent_leaves_its_target_unseen_with_its_sentence(bench: AgentBench, stage: Stage) -> None:
    bench.agent.away.add(bench.target.id)
    assert (await stage.observe()).unseen == "agent a1 was last heard of 2 min ago"


async def test_an_agent_that_comes_back_just_after_our_start_is_waited_for(bench: AgentBench, stage: Stage) -> None:
    bench.agent.away.add(bench.target.id)
    async with anyio.create_task_group() as group:

        async def comes_back() -> None:
            await anyio.sleep(2)
            bench.agent.away.clear()

        group.start_soon(comes_back)
        assert (await stage.observe()).unseen is None


async def test_later_nobody_waits_for_an_agent_that_is_gone(bench: AgentBench, stage: Stage) -> None:
    await stage.observe()
    await anyio.sleep(6)
    bench.agent.away.add(bench.target.id)
    before = anyio.current_time()
    assert (await stage.observe()).unseen is not None
    assert anyio.current_time() - before < 0.1


async def test_an_order_the_signer_refuses_leaves_the_target_unseen(bench: AgentBench, stage: Stage) -> None:
    bench.signer.refuses = "signer: no rule lets default/m1 be inspected"
    assert (await stage.observe()).unseen == bench.signer.refuses


async def test_an_agent_that_hangs_holds_up_nobody(bench: AgentBench, stage: Stage) -> None:
    other = replace(bench.target, id=names.target_id("default", "stuck"))
    bench.agent.lost.add(other.id)
    found = await stage.driver.observe([Look(target=other), Look(target=bench.target)])
    assert found[bench.target.id].unseen is None
    assert "did not answer within" in (found[other.id].unseen or "")


async def test_an_agent_speaks_of_its_own_target_only(bench: AgentBench, stage: Stage) -> None:
    class Liar(MemoryDriver):
        async def observe(self, looks):  # type: ignore[no-untyped-def]
            found = await super().observe(looks)
            return {id: replace(one, target=names.target_id("default", "other")) for id, one in found.items()}

    bench.agent.inner = Liar(bench.tools, bench.world)
    assert "default/other" in ((await stage.observe()).unseen or "")


async def test_a_runtime_the_agent_was_not_granted_is_refused(bench: AgentBench) -> None:
    driver = over_agents(load("docker"))(bench.tools, bench.agent, bench.signer)
    look = Look(target=replace(bench.target, driver="docker"))
    assert "is not granted docker" in ((await driver.observe([look]))[bench.target.id].unseen or "")


# -- acting ------------------------------------------------------------------------------------------------------------


async def test_an_action_is_bound_to_the_run_of_the_agent(bench: AgentBench, stage: Stage) -> None:
    action = stage.action(await stage.deploy(Wish()), fence=7, deadline=timedelta(seconds=60))
    await stage.apply(action)
    task = bench.signer.asked[-1]
    assert (task.agent, task.generation, task.epoch, task.target) == ("a1", 1, "run-1", bench.target.id)
    assert (task.key, task.fence, task.verb) == (action.key, 7, Verb.DEPLOY)
    assert (task.not_after, task.within) == (1_060_000, timedelta(seconds=60))


async def test_progress_is_told_as_it_comes(stage: Stage) -> None:
    await stage.deployed(Wish())
    assert [one.step for one in stage.said][:2] == ["look", "prepare"]


async def test_what_only_labels_says_so(bench: AgentBench, stage: Stage) -> None:
    one = await stage.deployed(Wish())
    await bench.wear(one.id, None)
    outcome = await stage.one(await stage.deploy(Wish()))
    assert (outcome.result, bench.signer.asked[-1].verb) == (Result.LABELLED, Verb.WRITE_STICKER)


async def test_the_way_back_says_so(bench: AgentBench, stage: Stage) -> None:
    await stage.apply(replace(stage.action(await stage.deploy(Wish())), back=True))
    assert bench.signer.asked[-1].verb is Verb.ROLLBACK


async def test_a_restart_is_a_deploy(bench: AgentBench, stage: Stage) -> None:
    one = await stage.deployed(Wish())
    change = await stage.restart(one)
    assert isinstance(change, Restart)
    await stage.one(change)
    assert bench.signer.asked[-1].verb is Verb.DEPLOY


@pytest.mark.parametrize("code", [Code.EPOCH, Code.EXPIRED, Code.GENERATION])
async def test_what_came_too_late_is_authorised_again(bench: AgentBench, stage: Stage, code: Code) -> None:
    action = stage.action(await stage.deploy(Wish()))
    bench.agent.codes = [code, code]
    assert (await stage.apply(action)).as_wanted
    tried = [task for task in bench.signer.asked if task.key == action.key]
    assert len(tried) == len({task.id for task in tried}) == 3


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (Code.EPOCH, Unreachable),
        (Code.EXPIRED, Unreachable),
        (Code.GENERATION, Unreachable),
        (Code.STALE_FENCE, StaleFence),
        (Code.CANCELLED, Retryable),
        (Code.MALFORMED, Refused),
        (Code.FORGED, Refused),
        (Code.AUDIENCE, Refused),
        (Code.CONTENT, Refused),
        (Code.USED, Refused),
        (Code.NOT_GRANTED, Refused),
        (Code.NOT_ALLOWED, Refused),
    ],
)
async def test_a_refusal_is_an_error_that_names_its_code(
    bench: AgentBench, stage: Stage, code: Code, error: type[DriverError]
) -> None:
    action = stage.action(await stage.deploy(Wish()))
    bench.agent.codes = [code] * 9
    with pytest.raises(error, match=f"agent a1 refused with {code}: as it was told to") as raised:
        await stage.apply(action)
    assert type(raised.value) is error


@pytest.mark.parametrize(
    ("trouble", "error"), [(Trouble.BUSY, Busy), (Trouble.REFUSED, Refused), (Trouble.UNREACHABLE, Unreachable)]
)
async def test_what_the_runtime_there_raises_is_raised_here(
    bench: AgentBench, stage: Stage, trouble: Trouble, error: type[DriverError]
) -> None:
    action = stage.action(await stage.deploy(Wish()))
    bench.host.faults.append(Fault(trouble=trouble, step="prepare"))
    with pytest.raises(error) as raised:
        await stage.apply(action)
    assert type(raised.value) is error
    assert str(raised.value)


async def test_a_conflict_there_is_a_conflict_here(bench: AgentBench, stage: Stage) -> None:
    await stage.deployed(Wish())
    change = await stage.deploy(Wish(version=Version.TWO))
    await stage.deployed(Wish(version=Version.THREE))
    with pytest.raises(Conflict):
        await stage.one(change)


async def test_an_agent_that_never_answers_leaves_the_outcome_unknown(bench: AgentBench, stage: Stage) -> None:
    action = stage.action(await stage.deploy(Wish()), deadline=timedelta(seconds=9))
    bench.agent.lost.add(bench.target.id)
    before = anyio.current_time()
    with pytest.raises(OutcomeUnknown, match="agent a1 did not answer within 14 s"):
        await stage.apply(action)
    assert anyio.current_time() - before == pytest.approx(14)


async def test_a_signer_that_refuses_has_nothing_done(bench: AgentBench, stage: Stage) -> None:
    action = stage.action(await stage.deploy(Wish()))
    tasks, bench.signer.refuses = len(bench.agent.tasks), "signer: default/m1 does not declare it"
    with pytest.raises(Refused, match="does not declare it"):
        await stage.apply(action)
    assert len(bench.agent.tasks) == tasks


async def test_a_receipt_for_something_else_is_not_taken(bench: AgentBench, stage: Stage) -> None:
    class Liar(MemoryDriver):
        async def apply(self, action, *, report):  # type: ignore[no-untyped-def]
            return replace(await super().apply(action, report=report), target=names.target_id("default", "other"))

    bench.agent.inner = Liar(bench.tools, bench.world)
    with pytest.raises(OutcomeUnknown, match="a receipt for something else"):
        await stage.one(await stage.deploy(Wish()))


# -- secrets -----------------------------------------------------------------------------------------------------------


def with_secrets(action: Action, *references: str) -> Action:
    change = action.changes[0]
    assert isinstance(change, Deploy)
    placement = change.placement
    environment = tuple((f"S{i}", SecretRef(reference=text)) for i, text in enumerate(references))
    configuration = replace(placement.configuration, environment=environment)
    return replace(action, changes=(replace(change, placement=replace(placement, configuration=configuration)),))


async def resolving(ref: SecretRef) -> str:
    if ref.path == "GONE":
        raise Refused(f"secret {ref.reference}: not there")
    return f"value of {ref.reference}"


async def test_exactly_the_secrets_of_the_action_are_sealed_for_its_task(bench: AgentBench) -> None:
    bench.tools = replace(bench.tools, secret=resolving)
    bench.agent.resolves = frozenset({"vault"})
    stage = Stage(bench)
    action = with_secrets(stage.action(await stage.deploy(Wish())), "env:ONE", "vault:kv/x#y")
    await stage.apply(action)
    assert list(bench.agent.secrets.values()) == ["value of env:ONE"]


async def test_a_secret_that_cannot_be_had_stops_the_action_before_it_is_sent(bench: AgentBench) -> None:
    bench.tools = replace(bench.tools, secret=resolving)
    stage = Stage(bench)
    action = with_secrets(stage.action(await stage.deploy(Wish())), "env:GONE")
    tasks = len(bench.agent.tasks)
    with pytest.raises(Refused, match="env:GONE: not there"):
        await stage.apply(action)
    assert len(bench.agent.tasks) == tasks


async def test_a_lost_secret_of_the_predecessor_keeps_nothing_from_being_deployed(bench: AgentBench) -> None:
    bench.tools = replace(bench.tools, secret=resolving)
    stage = Stage(bench)
    before = with_secrets(stage.action(await stage.deploy(Wish())), "env:GONE").changes[0].placement  # type: ignore[union-attr]
    assert (await stage.one(await stage.deploy(Wish(), before=before))).as_wanted


def test_references_are_found_wherever_they_stand(stage: Stage) -> None:
    ref = SecretRef(reference="env:A")
    placement = stage.placement(Wish())
    configured = replace(placement.configuration, registry_credentials=ref, environment=(("X", ref),))
    assert list(references(replace(placement, configuration=configured))) == [ref, ref]


# -- logs and examinations ---------------------------------------------------------------------------------------------


async def test_a_followed_log_tells_each_line_once(bench: AgentBench) -> None:
    printed = ["line 0", "line 1"]

    class Printing(MemoryDriver):
        async def logs(self, target, id, *, tail, follow):  # type: ignore[no-untyped-def]
            for line in printed[-tail:]:
                yield line

    bench.agent.inner = Printing(bench.tools, bench.world)
    driver = bench.driver()
    assert isinstance(driver, Narrator)
    got: list[str] = []

    async def read() -> None:
        async for line in driver.logs(bench.target, Stage(bench).id(), tail=1, follow=True):
            got.append(line)

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        for number in range(2, 5):
            await anyio.sleep(5)
            printed.append(f"line {number}")
        await anyio.sleep(5)
        group.cancel_scope.cancel()
    assert got == ["line 1", "line 2", "line 3", "line 4"]


async def test_an_examination_says_when_the_agent_is_away(bench: AgentBench) -> None:
    driver = AgentBench.driver(bench)
    assert isinstance(driver, AgentDriver)
    bench.agent.away.add(bench.target.id)
    found = await driver.examine(Look(target=bench.target))
    assert [(one.about, one.grade) for one in found] == [("agent", "unknown")]


# -- how a document says it --------------------------------------------------------------------------------------------

CONNECTIONS: Final[dict[str, dict[str, object]]] = {
    "compose": {"root": "/srv/web", "template": {"services": {"api": {"image": "api"}}}},
    "docker": {"engine": "unix:///run/other.sock"},
    "memory": {},
    "process": {"root": "/srv/web", "artifacts": "oci:/srv/artifacts"},
    "script": {"root": "/srv/web", "version": ["/bin/v"], "deploy": ["/bin/d"], "remove": ["/bin/r"]},
    "systemd": {"root": "/srv/web"},
}


@pytest.mark.parametrize("kind", CONNECTIONS)
def test_a_document_says_so_beside_what_it_says_of_a_host_here(kind: str) -> None:
    model = connection_model(kind)
    here, there = (model.model_validate({**CONNECTIONS[kind], **via}) for via in ({}, {"via": "agent"}))
    said = there.model_dump(mode="json", exclude_defaults=True)
    assert said == {**here.model_dump(mode="json", exclude_defaults=True), "via": "agent"}


@pytest.mark.parametrize("kind", sorted({"compose", "docker", "process", "script", "systemd"}))
def test_what_is_for_ssh_is_not_for_an_agent(kind: str) -> None:
    with pytest.raises(ValidationError, match="host is"):
        connection_model(kind).model_validate({**CONNECTIONS[kind], "via": "agent", "host": "web-1"})


def test_windows_has_no_agent() -> None:
    with pytest.raises(ValidationError, match="agents are for hosts that run Linux"):
        connection_model("windows").model_validate({"via": "agent", "root": "C:\\srv\\web"})


@pytest.mark.parametrize("kind", ["ecs", "nomad"])
def test_what_is_reached_by_an_api_has_no_agent(kind: str) -> None:
    with pytest.raises(ValidationError) as found:
        connection_model(kind).model_validate({"via": "agent"})
    assert ("via",) in [each["loc"] for each in found.value.errors()]
