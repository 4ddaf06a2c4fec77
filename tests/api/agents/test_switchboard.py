"""The switchboard carries tasks over lost connections, believes only what an agent signed of its own targets, and
acknowledges only what is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from api.agents import switchboard
from api.agents.roll import Presence, State
from drivers.agent.protocol import (
    Accepted,
    Acknowledge,
    Answer,
    Assign,
    Beat,
    Cancel,
    Changed,
    LookAt,
    Result,
    Said,
    Seen,
    Task,
    Turned,
    Verb,
    content,
)
from drivers.errors import Busy, OutcomeUnknown, Refused, Unreachable
from stickers.names import ActionKey, AgentName, Digest, TargetId
from stickers.signature import Envelope
from tests.api.agents.houses import T1, Agent, House, assign_of, hello_of, house, task_of

ORDER = Digest("sha256:" + "0" * 64)
T2 = TargetId("default/t2")
WEB_1 = AgentName("web-1")


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as found:
        yield found


def unheard(lines: Sequence[Mapping[str, Any]]) -> None: ...


def carried(home: House, task: Task) -> asyncio.Task[tuple[Result, Answer]]:
    return asyncio.ensure_future(home.switchboard.carry(task, assign_of(task), unheard))


async def settled(home: House, agent: Agent) -> None:
    """Whatever was said before has been heard: a beat comes back behind it."""
    await agent.say(Beat(at=99))
    await agent.hear(Beat)


async def lost(home: House) -> None:
    async with asyncio.timeout(5):
        while home.switchboard.session(WEB_1).way is not None:  # type: ignore[union-attr]  # noqa: ASYNC110
            await asyncio.sleep(0.01)


# -- who serves --------------------------------------------------------------------------------------------------------


async def test_who_serves_a_target_is_told_as_it_said_hello(home: House) -> None:
    papers = home.invited()
    async with home.agent(papers, hello_of(at=5_000, resolves=("env",))):
        home.clock.at += 2.5
        serving = home.switchboard.serving(T1)
    assert (serving.agent, serving.epoch, serving.clock) == (WEB_1, "e1", 7_500)
    assert (serving.kinds, serving.resolves) == (frozenset({"docker"}), frozenset({"env"}))


async def test_one_that_is_away_here_and_has_renewed_elsewhere_is_not_taken_for_a_copy(home: House) -> None:
    """Another replica renewed it while no channel led here; what it came with long ago is shown by nobody now."""
    papers = home.invited()
    async with home.agent(papers):
        pass
    await lost(home)
    home.roll.members[papers.serial] = replace(home.roll.members[papers.serial], state=State.SUPERSEDED)
    home.switchboard.revised()
    home.switchboard.sweep()
    await asyncio.sleep(0.05)
    assert home.roll.reported == []


async def test_nobody_serves_a_target_without_a_row(home: House) -> None:
    with pytest.raises(Refused, match="no agent was invited for target default/t1"):
        home.switchboard.serving(T1)


@pytest.mark.parametrize("state", [State.LOCKED, State.REMOVED])
async def test_a_locked_agent_serves_nothing(home: House, state: State) -> None:
    home.invited(state=state)
    with pytest.raises(Refused, match=f"is {state}"):
        await home.switchboard.look(T1, ORDER, None)


async def test_since_when_an_agent_is_away_is_said(home: House) -> None:
    papers = home.invited()
    with pytest.raises(Unreachable, match="not been heard of since this process began"):
        home.switchboard.serving(T1)
    async with home.agent(papers):
        pass
    await lost(home)
    home.clock.at += 12
    with pytest.raises(Unreachable, match="last heard 12 s ago"):
        home.switchboard.serving(T1)
    with pytest.raises(Unreachable, match="last heard 12 s ago"):
        await carried(home, task_of())


async def test_a_shared_target_is_served_by_whom_it_was_handed_to(home: House) -> None:
    first, second = home.invited("web-1"), home.invited("web-2")
    async with home.agent(second):
        with pytest.raises(Unreachable, match="agent web-1"):  # the other one is there, and holds nothing
            home.switchboard.serving(T1)
        home.roll.members = {serial: home.roll.members[serial] for serial in (second.serial, first.serial)}
        assert home.switchboard.serving(T1).agent == "web-2"


async def test_presence_is_the_age_of_the_last_frame(home: House) -> None:
    papers = home.invited()
    async with home.agent(papers) as agent:
        found = []
        for _ in range(4):
            found.append(home.switchboard.contacts()[WEB_1].presence)
            home.clock.at += 30
        assert found == [Presence.ONLINE, Presence.ONLINE, Presence.DEGRADED, Presence.OFFLINE]
        await settled(home, agent)
        assert home.switchboard.contacts()[WEB_1].presence is Presence.ONLINE
        home.clock.at += 91
        home.switchboard.sweep()
        assert (await agent.hear(Turned)).code == "SILENT"


async def test_last_contacts_are_kept_together(home: House, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(switchboard, "NOTED", 0.1)
    other = tmp_path / "other"
    other.mkdir()
    async with house(other) as quick:
        one, two = quick.invited("web-1"), quick.invited("web-2", T2)
        async with quick.agent(one, hello_of(waiting=3)), quick.agent(two), asyncio.timeout(5):
            while not quick.roll.kept or len(quick.roll.kept[-1]) < 2:  # noqa: ASYNC110 - a timer of the switchboard
                await asyncio.sleep(0.01)
            contact = quick.roll.kept[-1][WEB_1]
    assert (contact.version, contact.queue, contact.way, contact.peer) == ("1.0", 3, "websocket", "127.0.0.1")


async def test_who_has_come_is_kept_at_once(home: House, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(switchboard, "NOTED", 3600)
    monkeypatch.setattr(switchboard, "SWEEP", 0.01)
    other = tmp_path / "other"
    other.mkdir()
    async with house(other) as quick, quick.agent(quick.invited("web-1")), asyncio.timeout(5):
        while not quick.roll.kept:  # noqa: ASYNC110 - a timer of the switchboard
            await asyncio.sleep(0.01)
    assert set(quick.roll.kept[-1]) == {WEB_1}


# -- looks and events --------------------------------------------------------------------------------------------------


async def test_a_look_is_answered_by_its_own_answer(home: House) -> None:
    papers, other = home.invited(), home.invited("web-2", T2)
    async with home.agent(papers) as agent, home.agent(other) as neighbour:
        looks = [asyncio.ensure_future(home.switchboard.look(T1, ORDER, seen)) for seen in (None, ORDER)]
        first, second = await agent.hear(LookAt), await agent.hear(LookAt)
        assert (first.target, first.order, first.seen, second.seen) == (T1, ORDER, None, ORDER)
        await neighbour.say(Seen(id=first.id, observation="not its own"))
        await settled(home, neighbour)
        await agent.say(Seen(id=second.id, digest=ORDER))
        await agent.say(Seen(id=first.id, observation="new"))
        assert [(await look).observation for look in looks] == ["new", None]


async def test_a_look_ends_with_its_channel_or_its_time(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    papers = home.invited()
    async with home.agent(papers) as agent:
        monkeypatch.setattr(switchboard, "LOOK_WITHIN", 0.05)
        with pytest.raises(Unreachable, match="has not answered"):
            await home.switchboard.look(T1, ORDER, None)
        monkeypatch.setattr(switchboard, "LOOK_WITHIN", 10)
        look = asyncio.ensure_future(home.switchboard.look(T1, ORDER, None))
        await agent.hear(LookAt)
        await agent.hear(LookAt)
    with pytest.raises(Unreachable, match="was lost"):
        await look


async def test_changes_of_its_own_targets_are_told_and_their_loss_too(home: House) -> None:
    papers = home.invited()
    async with home.agent(papers) as agent:
        changes = home.switchboard.changes([T1])
        told = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        await agent.say(Changed(targets=(T2,)))  # not its own
        await agent.say(Changed(targets=(T1, T1)))
        assert await told == T1
        told = asyncio.ensure_future(anext(changes))
        await settled(home, agent)
        assert not told.done()
    with pytest.raises(Unreachable, match="was lost"):
        await told
    with pytest.raises(Unreachable):
        await anext(home.switchboard.changes([T1]))


async def test_all_are_told(home: House) -> None:
    papers = [home.invited(f"web-{number}", f"default/t{number}") for number in range(3)]
    async with home.agent(papers[0]) as one, home.agent(papers[1]) as two:
        assert await home.switchboard.tell_all(Acknowledge(task="all")) == 2
        for agent in (one, two):
            assert (await agent.hear(Acknowledge)).task == "all"


# -- tasks -------------------------------------------------------------------------------------------------------------


async def test_a_result_is_kept_before_it_is_acknowledged_and_handed_on(tmp_path: Path) -> None:
    kept = asyncio.Event()

    async def keep(result: Result, answer: Answer) -> None:
        await kept.wait()

    async with house(tmp_path, keep=keep) as home:
        papers, task = home.invited(), task_of()
        lines: list[Mapping[str, Any]] = []
        async with home.agent(papers) as agent:
            carry = asyncio.ensure_future(home.switchboard.carry(task, assign_of(task), lines.extend))
            assert await agent.hear(Assign) == assign_of(task)
            await agent.say(Accepted(task=task.id))
            await agent.say(Said(task=task.id, lines=({"message": "pulling"},)))
            answer = home.result("web-1", task)
            for _ in range(3):
                await agent.say(answer)
            await settled(home, agent)
            assert not carry.done()
            kept.set()
            assert (await agent.hear(Acknowledge)).task == task.id
            result, found = await carry
            assert (result.task, result.fence, found) == (task.id, 7, answer)
            assert lines == [{"message": "pulling"}]


async def test_a_task_is_sent_again_after_a_lost_channel_and_its_late_result_is_taken(home: House) -> None:
    papers, task = home.invited(), task_of()
    async with home.agent(papers) as agent:
        carry = carried(home, task)
        await agent.hear(Assign)
    await lost(home)
    async with home.agent(papers, hello_of(epoch="e2")) as agent:
        assert await agent.hear(Assign) == assign_of(task)
        await agent.say(home.result("web-1", task))
        assert (await agent.hear(Acknowledge)).task == task.id
    assert (await carry)[0].task == task.id
    assert len(home.kept) == 1


async def test_results_that_come_thrice_and_in_another_order_are_kept_once(home: House) -> None:
    papers = home.invited()
    tasks = [task_of(f"task-{number}", key=ActionKey(f"{number:064x}")) for number in range(3)]
    async with home.agent(papers) as agent:
        carries = [carried(home, task) for task in tasks]
        for _ in tasks:
            await agent.hear(Assign)
        for _ in range(3):
            for task in reversed(tasks):
                await agent.say(home.result("web-1", task))
        assert [(await carry)[0].task for carry in carries] == ["task-0", "task-1", "task-2"]
        await settled_after_acknowledgements(agent)
    assert sorted(result.task for result, _ in home.kept) == ["task-0", "task-1", "task-2"]


async def settled_after_acknowledgements(agent: Agent) -> None:
    await agent.say(Beat(at=98))
    while isinstance(frame := await agent.frame(), Acknowledge):
        pass
    assert isinstance(frame, Beat)


async def test_the_answer_to_an_earlier_task_of_the_same_action_answers_this_one(home: House) -> None:
    papers, earlier, task = home.invited(), task_of("task-0", fence=6), task_of()
    async with home.agent(papers) as agent:
        carry = carried(home, task)
        await agent.hear(Assign)
        await agent.say(replace(home.result("web-1", earlier), task=task.id))
        assert (await carry)[0].task == "task-0"


async def test_a_result_that_nobody_waits_for_is_kept_and_its_target_rung(home: House) -> None:
    papers, task = home.invited(), task_of()
    async with home.agent(papers) as agent:
        changes = home.switchboard.changes([T1])
        told = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        for _ in range(2):
            await agent.say(home.result("web-1", task))
            assert (await agent.hear(Acknowledge)).task == task.id
        assert await told == T1
        await changes.aclose()
    assert len(home.kept) == 1


FORGERIES: dict[str, Any] = {
    "signed by another agent": lambda home, task: home.result("web-2", task, agent=WEB_1),
    "of another agent": lambda home, task: home.result("web-2", task),
    "of a target that is not its own": lambda home, task: home.result("web-1", replace(task, target=T2)),
    "with another body": lambda home, task: replace(home.result("web-1", task), body="[]"),
    "of another action": lambda home, task: home.result("web-1", task, key=ActionKey("cd" * 32)),
    "of another verb": lambda home, task: home.result("web-1", task, verb=Verb.UPGRADE),
    "of a later fence": lambda home, task: home.result("web-1", task, fence=8),
    "no envelope": lambda home, task: replace(home.result("web-1", task), envelope=Envelope("{}")),
}


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_a_result_that_cannot_be_believed_is_neither_kept_nor_acknowledged(home: House, forgery: str) -> None:
    papers, task = home.invited(), task_of()
    home.invited("web-2", T2)
    async with home.agent(papers) as agent:
        carry = carried(home, task)
        await agent.hear(Assign)
        await agent.say(FORGERIES[forgery](home, task))
        with pytest.raises(OutcomeUnknown, match="cannot be believed"):
            await carry
        await settled(home, agent)
    assert home.kept == []


async def test_a_result_of_another_task_is_no_answer_that_nobody_waits_for(home: House) -> None:
    papers = home.invited()
    async with home.agent(papers) as agent:
        await agent.say(replace(home.result("web-1", task_of("task-0")), task="task-1"))
        await settled(home, agent)
    assert home.kept == []


async def test_a_result_that_could_not_be_kept_is_taken_when_it_comes_again(tmp_path: Path) -> None:
    kept: list[str] = []
    works = False

    async def keep(result: Result, answer: Answer) -> None:
        if not works:
            raise OSError("disk full")
        kept.append(result.task)

    async with house(tmp_path, keep=keep) as home:
        papers, task = home.invited(), task_of()
        async with home.agent(papers) as agent:
            carry = carried(home, task)
            await agent.hear(Assign)
            await agent.say(home.result("web-1", task))
            with pytest.raises(OutcomeUnknown, match="could not be kept"):
                await carry
            await settled(home, agent)
            works = True
            await agent.say(home.result("web-1", task))
            assert (await agent.hear(Acknowledge)).task == task.id
    assert kept == [task.id]


async def test_who_waits_no_more_takes_the_task_back(home: House) -> None:
    papers = home.invited()
    async with home.agent(papers) as agent:
        now, later = carried(home, task_of("now")), carried(home, task_of("later"))
        await agent.hear(Assign)
        await agent.hear(Assign)
        now.cancel()
        assert (await agent.hear(Cancel)).task == "now"
    await lost(home)
    later.cancel()
    await asyncio.wait([now, later])
    async with home.agent(papers) as agent:
        assert (await agent.hear(Cancel)).task == "later"
        await settled(home, agent)  # and nothing is sent again


async def test_a_drained_agent_is_given_nothing_new(home: House) -> None:
    papers = home.invited(state=State.DRAINING)
    async with home.agent(papers) as agent:
        with pytest.raises(Refused, match="is being drained"):
            await carried(home, task_of())
        look = asyncio.ensure_future(home.switchboard.look(T1, ORDER, None))
        await agent.say(Seen(id=(await agent.hear(LookAt)).id, observation="seen"))
        assert (await look).observation == "seen"


async def test_a_task_is_on_its_way_once(home: House) -> None:
    papers, task = home.invited(), task_of()
    async with home.agent(papers) as agent:
        first = carried(home, task)
        await agent.hear(Assign)
        with pytest.raises(Busy):
            await carried(home, task)
        await agent.say(home.result("web-1", task))
        assert (await first)[1].body == "{}"
        assert content("{}") == (await first)[0].content
