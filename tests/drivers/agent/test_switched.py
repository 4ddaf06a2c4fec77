"""What lies between the driver of agents and an agent: the kit's clauses through the real switchboard, and what can be
had there by somebody who has taken the server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import anyio
import pytest

from drivers.agent import protocol
from drivers.agent.protocol import Assign, Code, Errand, Task, Verb
from drivers.conformance import Bench, Clause, Version, checks
from drivers.conformance.stage import Stage, Wish
from drivers.contract import Action
from drivers.memory import MemoryDriver
from stickers.names import AgentName
from stickers.signature import Signer
from tests.drivers.agent.scene import SIGNER, signer
from tests.drivers.agent.switched import BESIDE_THE_AGENT, SAMPLE, SOME, between, check, paired
from tests.drivers.memory_bench import MemoryBench
from tests.harness import virtual_time

anyio_backend = virtual_time.backend()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Any]:
    made = between(MemoryBench())
    world = made.world
    async with paired(
        made.target, made.tools, tmp_path, lambda kind, tools: MemoryDriver(replace(tools, now=virtual_time.now), world)
    ) as made.pair:
        yield made


def test_what_is_left_out_and_what_is_tried_are_clauses() -> None:
    assert {one.name for one in checks()} >= set(BESIDE_THE_AGENT) | SOME


@pytest.mark.parametrize("clause", SAMPLE, ids=str)
async def test_memory_keeps(bench: Bench, clause: Clause) -> None:
    await check(bench, clause)


async def test_a_killed_agent_begins_again_with_its_journal(bench: Any) -> None:
    stage = Stage(bench)
    one = await stage.deployed(Wish())
    await bench.pair.kill()
    await anyio.sleep(1)
    await stage.must_stand(one)


# -- a server that somebody has taken: it has the link, and neither the signer's key nor its leave ---------------------


def honest(bench: Any, action: Action) -> Task:
    """As the driver of agents asks."""
    serving, body = bench.pair.board.serving(action.target.id), protocol.body(action)
    return Task(
        id=f"t-{action.key[:8]}",
        key=action.key,
        agent=serving.agent,
        generation=serving.generation,
        epoch=serving.epoch,
        target=action.target.id,
        environment=action.environment,
        verb=Verb.DEPLOY,
        content=protocol.content(body),
        fence=action.fence,
        not_after=serving.clock + 30_000,
        within=action.deadline,
    )


async def sent(bench: Any, task: Task, body: str, *, said: Task | None = None, by: Signer = SIGNER) -> Code:
    """What the agent answers to an envelope that says `said`, sent as `task`."""
    envelope = protocol.sealed(said or task, by.sign)
    result, _ = await bench.pair.board.carry(task, Assign(envelope=envelope, body=body), lambda lines: None)
    code: Code = result.code
    return code


SERVER: Final = signer(9)  # the server's own key, which no agent was told of

Forge = Callable[[Task], Task]
SAYS: Final[dict[Code, Forge]] = {
    Code.AUDIENCE: lambda task: replace(task, agent=AgentName("web-2")),
    Code.GENERATION: lambda task: replace(task, generation=9),
    Code.EPOCH: lambda task: replace(task, epoch="yesterday"),
    Code.EXPIRED: lambda task: replace(task, not_after=-1),
    Code.CONTENT: lambda task: replace(task, content=protocol.content("{}")),
    Code.MALFORMED: lambda task: replace(task, verb=Verb.HOLD),
}


@pytest.mark.parametrize("code", SAYS, ids=str)
async def test_an_envelope_for_something_else_is_refused_with_its_own_code(bench: Any, code: Code) -> None:
    stage = Stage(bench)
    action = stage.action(await stage.deploy(Wish()))
    before, task = list(bench.world.effects), honest(bench, action)
    said = SAYS[code](task)
    assert await sent(bench, replace(task, verb=said.verb), protocol.body(action), said=said) is code
    assert list(bench.world.effects) == before


async def test_what_the_server_has_signed_itself_is_forged(bench: Any) -> None:
    stage = Stage(bench)
    action = stage.action(await stage.deploy(Wish()))
    before = list(bench.world.effects)
    assert await sent(bench, honest(bench, action), protocol.body(action), by=SERVER) is Code.FORGED
    assert list(bench.world.effects) == before


async def test_a_body_that_was_swapped_on_the_way_is_refused(bench: Any) -> None:
    stage = Stage(bench)
    action = stage.action(await stage.deploy(Wish()))
    other = replace(action, changes=(await stage.deploy(Wish(version=Version.TWO)),))
    before = list(bench.world.effects)
    assert await sent(bench, honest(bench, action), protocol.body(other)) is Code.CONTENT
    assert list(bench.world.effects) == before


async def test_an_older_holder_is_fenced_off(bench: Any) -> None:
    stage = Stage(bench)
    await stage.one(await stage.deploy(Wish()), fence=5)
    stale = stage.action(await stage.deploy(Wish(version=Version.TWO)), fence=4)
    before = list(bench.world.effects)
    assert await sent(bench, honest(bench, stale), protocol.body(stale)) is Code.STALE_FENCE
    assert list(bench.world.effects) == before


async def test_yesterdays_task_is_worth_nothing_to_the_next_run(bench: Any) -> None:
    stage = Stage(bench)
    action = stage.action(await stage.deploy(Wish()))
    yesterday = honest(bench, action)
    await bench.pair.kill()
    assert await sent(bench, yesterday, protocol.body(action)) is Code.EPOCH
    assert await stage.raw() == ()


async def test_what_is_sent_three_times_is_done_once(bench: Any) -> None:
    stage = Stage(bench)
    action = stage.action(await stage.deploy(Wish()))
    task = honest(bench, action)
    assert [await sent(bench, task, protocol.body(action)) for _ in range(3)] == [Code.DONE] * 3
    assert len(await stage.raw()) == 1


async def test_a_used_authorisation_is_worth_nothing_for_something_else(bench: Any) -> None:
    stage = Stage(bench)
    action = stage.action(await stage.deploy(Wish()))
    task = honest(bench, action)
    await sent(bench, task, protocol.body(action))
    other = stage.action(await stage.deploy(Wish(version=Version.TWO)))
    again = replace(honest(bench, other), id=task.id)
    assert await sent(bench, again, protocol.body(other)) is Code.USED
    await stage.must_stand(stage.placement(Wish()))


async def test_a_runtime_that_was_not_granted_is_refused(bench: Any) -> None:
    stage = Stage(bench)
    action = stage.action(await stage.deploy(Wish()))
    action = replace(action, target=replace(action.target, driver="process"))
    assert await sent(bench, honest(bench, action), protocol.body(action)) is Code.NOT_GRANTED


async def test_a_command_that_the_host_does_not_name_is_refused(bench: Any) -> None:
    stage = Stage(bench)
    action = stage.action(await stage.deploy(Wish()))
    body = protocol.body(Errand(name="reboot"))
    task = replace(honest(bench, action), verb=Verb.EXECUTE_COMMAND, content=protocol.content(body))
    assert await sent(bench, task, body) is Code.NOT_ALLOWED
