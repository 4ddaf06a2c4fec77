"""Tasks through a channel, on the memory driver: carried out once, answered until somebody has heard it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from desired_state.secrets import SecretRef
from drivers import errors
from drivers.agent import protocol, sealing
from drivers.agent.duty.clock import Clock
from drivers.agent.duty.journal import Journal, Taken
from drivers.agent.protocol import Accepted, Acknowledge, Answer, Cancel, Code, Priority, Said, Verb, Welcome
from drivers.conformance.stage import Stage, Wish
from drivers.contract import Action, Deploy, Progress, Receipt, Result, Step
from drivers.memory import Fault, MemoryDriver, Trouble
from drivers.process import host as files
from stickers.sticker import Phase
from tests.drivers.agent.memory import failure, on, receipt, through_agent
from tests.drivers.agent.scene import MemoryChannel, Scene, action, running, signer
from tests.drivers.memory_bench import MemoryBench
from tests.harness import virtual_time

anyio_backend = virtual_time.backend()


def started(bench: MemoryBench) -> int:
    """How many things were ever made on the target."""
    return len({effect.instance for effect in bench.world.effects if effect.deed == "made"})


def slow(bench: MemoryBench, step: str = "prepare", seconds: float = 1.0) -> None:
    bench.host.faults.append(Fault(trouble=Trouble.SLOW, step=step, seconds=seconds))


# -- one task ----------------------------------------------------------------------------------------------------------


async def test_a_deploy_is_accepted_carried_out_and_answered(scene: Scene, stage: Stage) -> None:
    asked = action(scene.target, await stage.deploy(Wish()))
    task, body = scene.deploying(asked)
    result, answer = await scene.answer(task, body)
    assert (result.code, result.key, result.fence) == (Code.DONE, asked.key, 1)
    assert (receipt(answer).key, receipt(answer).outcomes[0].result) == (asked.key, Result.CHANGED)
    assert scene.channel.of(Accepted) == [Accepted(task=task.id)]
    assert [one.running for one in await stage.raw()] == [True]


async def test_its_sticker_is_signed_with_the_agents_own_key(scene: Scene, stage: Stage, bench: MemoryBench) -> None:
    await scene.answer(*scene.deploying(action(scene.target, await stage.deploy(Wish()))))
    envelope = await stage.envelope()
    assert envelope is not None
    sticker = scene.agent._reader(envelope)
    assert sticker is not None
    assert sticker.phase is Phase.PROVEN
    assert bench.tools.read(envelope) is None


async def test_its_steps_are_told_and_measured(scene: Scene, stage: Stage) -> None:
    task, body = scene.deploying(action(scene.target, await stage.deploy(Wish())))
    result, answer = await scene.answer(task, body)
    lines = [protocol.from_plain(Progress, line) for said in scene.channel.of(Said) for line in said.lines]
    steps = [line.step for line in lines]
    assert steps[0] is Step.LOOK
    assert steps[-1] is Step.STICKER
    assert Step.PROVE in steps
    assert result.metrics.pull is not None
    assert result.metrics.deploy is not None
    assert result.metrics.health is not None
    assert "write the sticker" in answer.log


async def test_what_a_driver_raises_is_raised_where_the_task_came_from(scene: Scene, stage: Stage) -> None:
    change = await stage.deploy(Wish())
    await scene.answer(*scene.deploying(action(scene.target, change)))
    result, answer = await scene.answer(
        *scene.deploying(action(scene.target, replace(await stage.deploy(Wish(colour="red")), replaces=None), key="b"))
    )
    assert result.code is Code.FAILED
    assert failure(answer).error == errors.Conflict.code


async def test_what_takes_too_long_may_or_may_not_have_happened(scene: Scene, stage: Stage, bench: MemoryBench) -> None:
    bench.host.faults.append(Fault(trouble=Trouble.HANG, step="start"))
    change = Deploy(placement=stage.placement(Wish()), replaces=None, stamp=await stage.stamp(stage.id()))
    bench.host.faults = [Fault(trouble=Trouble.HANG, step="start")]
    result, answer = await scene.answer(*scene.deploying(action(scene.target, change)))
    assert (result.code, failure(answer).error) == (Code.FAILED, errors.OutcomeUnknown.code)


async def test_a_failing_driver_takes_nothing_else_along(bench: MemoryBench, stage: Stage, tmp_path: Path) -> None:
    class Broken(MemoryDriver):
        async def apply(self, action: Action, *, report: Any) -> Receipt:
            raise ZeroDivisionError("a fault")

    async with running(
        tmp_path, through_agent(bench.target), make=lambda kind, tools: Broken(tools, bench.world)
    ) as scene:
        result, answer = await scene.answer(*scene.deploying(action(scene.target, await stage.deploy(Wish()))))
        assert (result.code, failure(answer).error) == (Code.FAILED, errors.OutcomeUnknown.code)
        assert not (await scene.look(await scene.order())).lacking


async def test_a_sticker_is_written_only_where_its_content_stands(scene: Scene, stage: Stage) -> None:
    change = await stage.deploy(Wish())
    result, answer = await scene.answer(*scene.deploying(action(scene.target, change), Verb.WRITE_STICKER))
    assert (result.code, failure(answer).error) == (Code.FAILED, errors.Conflict.code)
    assert await stage.raw() == ()
    await scene.answer(*scene.deploying(action(scene.target, change, key="b")))
    renamed = action(scene.target, await stage.deploy(Wish(release="kit@renamed")), key="c")
    _, answer = await scene.answer(*scene.deploying(renamed, Verb.WRITE_STICKER))
    assert receipt(answer).outcomes[0].result is Result.LABELLED


async def test_a_target_that_leads_to_another_host_is_not_worked_on(bench: MemoryBench, tmp_path: Path) -> None:
    far = {"via": "agent", "engine": "ssh://root@elsewhere", "key": {"secret": "env:K"}, "known_hosts": "/k"}
    target = replace(bench.target, driver="docker", connection=far)
    async with running(tmp_path, target) as scene:
        result, answer = await scene.answer(*scene.deploying(action(target)))
    assert (result.code, failure(answer).error) == (Code.FAILED, errors.InvalidAction.code)
    assert "leads to another" in result.detail


# -- again, and in another order ---------------------------------------------------------------------------------------


async def test_what_comes_three_times_is_done_once_and_answered_alike(
    scene: Scene, stage: Stage, bench: MemoryBench
) -> None:
    task, body = scene.deploying(action(scene.target, await stage.deploy(Wish())))
    scene.channel.say(*[scene.assign(task, body)] * 3)
    _, first = await scene.answered(task.id, acknowledge=False)
    scene.channel.say(*[scene.assign(task, body)] * 2)
    await scene.channel.until(lambda frame: len(scene.channel.of(Answer)) >= 3)
    assert {answer.envelope for answer in scene.channel.of(Answer)} == {first.envelope}
    assert started(bench) == 1


async def test_a_newer_authorisation_of_what_is_under_way_is_answered_with_it(
    scene: Scene, stage: Stage, bench: MemoryBench
) -> None:
    change = await stage.deploy(Wish())
    slow(bench)
    task, body = scene.deploying(action(scene.target, change))
    again, newer = scene.deploying(action(scene.target, change, fence=2))
    scene.channel.say(scene.assign(task, body), scene.assign(again, newer))
    first, one = await scene.answered(task.id)
    second, other = await scene.answered(again.id)
    assert (first.fence, second.fence, one.body) == (1, 2, other.body)
    assert started(bench) == 1


async def test_tasks_of_one_target_go_one_after_the_other(scene: Scene, stage: Stage, bench: MemoryBench) -> None:
    one, two = await stage.deploy(Wish(component="api")), await stage.deploy(Wish(component="web"))
    slow(bench)
    sent = [scene.deploying(action(scene.target, change, key=key)) for change, key in ((one, "a"), (two, "b"))]
    scene.channel.say(*[scene.assign(*each) for each in sent])
    for task, _ in sent:
        await scene.answered(task.id)
    lines = [protocol.from_plain(Progress, line) for said in scene.channel.of(Said) for line in said.lines]
    assert [line.id.component for line in lines] == sorted(line.id.component for line in lines)


async def test_the_urgent_one_is_begun_first(scene: Scene, stage: Stage, bench: MemoryBench) -> None:
    slow(bench)
    for key, component, priority in (
        ("a", "api", Priority.NORMAL),
        ("b", "low", Priority.LOW),
        ("c", "web", Priority.URGENT),
    ):
        asked = action(scene.target, await stage.deploy(Wish(component=component)), key=key)
        scene.channel.say(scene.assign(*scene.deploying(asked, priority=priority)))
    await scene.channel.until(lambda frame: len(scene.channel.of(Answer)) == 3)
    keys = [receipt(answer).key[0] for answer in scene.channel.of(Answer)]
    assert keys == ["a", "c", "b"]


async def test_what_is_swapped_on_the_way_is_refused_under_its_fence(scene: Scene, stage: Stage) -> None:
    change = await stage.deploy(Wish())
    late, body = scene.deploying(action(scene.target, change, key="a", fence=1))
    await scene.answer(*scene.deploying(action(scene.target, change, key="b", fence=2)))
    result, _ = await scene.answer(late, body)
    assert result.code is Code.STALE_FENCE


async def test_a_fence_is_remembered_by_the_next_run(bench: MemoryBench, stage: Stage, tmp_path: Path) -> None:
    change = await stage.deploy(Wish())
    async with on(bench, tmp_path) as scene:
        await scene.answer(*scene.deploying(action(scene.target, change, fence=5)))
    async with on(bench, tmp_path) as scene:
        result, _ = await scene.answer(*scene.deploying(action(scene.target, change, key="b", fence=4)))
    assert result.code is Code.STALE_FENCE


async def test_yesterdays_task_is_of_another_run(bench: MemoryBench, stage: Stage, tmp_path: Path) -> None:
    async with on(bench, tmp_path) as scene:
        old, body = scene.deploying(action(scene.target, await stage.deploy(Wish())))
    async with on(bench, tmp_path) as scene:
        result, _ = await scene.answer(old, body)
    assert result.code is Code.EPOCH
    assert await stage.raw() == ()


async def test_a_forged_task_is_refused_and_nothing_is_kept_of_it(scene: Scene, stage: Stage) -> None:
    task, body = scene.deploying(action(scene.target, await stage.deploy(Wish())))
    scene.signer = signer(9)
    scene.channel.say(scene.assign(task, body))
    result, _ = await scene.answered(task.id)
    assert result.code is Code.FORGED
    assert not scene.journal.unfinished
    assert scene.journal.fence(scene.target.id) == 0


async def test_what_waited_too_long_is_not_begun(scene: Scene, stage: Stage, bench: MemoryBench) -> None:
    slow(bench)
    first = scene.deploying(action(scene.target, await stage.deploy(Wish())))
    second = scene.deploying(
        action(scene.target, await stage.deploy(Wish(component="web")), key="b"), not_after=scene.clock.at() + 500
    )
    scene.channel.say(scene.assign(*first), scene.assign(*second))
    await scene.channel.until(lambda frame: frame == Accepted(task=second[0].id))
    await anyio.to_thread.run_sync(_wait, 0.6)
    result, _ = await scene.answered(second[0].id)
    assert result.code is Code.EXPIRED


def _wait(seconds: float) -> None:
    time.sleep(seconds)


async def test_what_is_cancelled_before_its_turn_is_not_begun(scene: Scene, stage: Stage, bench: MemoryBench) -> None:
    slow(bench)
    first = scene.deploying(action(scene.target, await stage.deploy(Wish())))
    second = scene.deploying(action(scene.target, await stage.deploy(Wish(component="web")), key="b"))
    scene.channel.say(scene.assign(*first), scene.assign(*second), Cancel(task=second[0].id), Cancel(task=first[0].id))
    assert (await scene.answered(second[0].id))[0].code is Code.CANCELLED
    assert (await scene.answered(first[0].id))[0].code is Code.DONE


async def test_an_answer_that_would_not_fit_into_a_frame_says_so(scene: Scene) -> None:
    task = scene.task(Verb.READ_LOG, "{}")
    for body in ('"' + "x" * protocol.LARGEST_BODY + '"', json.dumps('"' * (protocol.LARGEST_FRAME // 3))):
        kept = scene.agent.carrier.answered(task, Code.DONE, "", body, log="\n" * protocol.LARGEST_LOG)
        assert kept.code is Code.FAILED
        assert len(protocol.text(kept.answer)) <= protocol.LARGEST_FRAME
    kept = scene.agent.carrier.answered(task, Code.DONE, "", '"' + "x" * (protocol.LARGEST_BODY - 2) + '"')
    assert kept.code is Code.DONE
    assert len(protocol.text(kept.answer)) <= protocol.LARGEST_FRAME


# -- what is lost ------------------------------------------------------------------------------------------------------


async def test_an_answer_is_sent_until_it_is_acknowledged(scene: Scene, stage: Stage) -> None:
    task, body = scene.deploying(action(scene.target, await stage.deploy(Wish())))
    scene.channel.say(scene.assign(task, body))
    await scene.answered(task.id, acknowledge=False)
    await anyio.sleep(70)
    assert len(scene.channel.of(Answer)) == 3
    scene.channel.say(Acknowledge(task=task.id))
    await anyio.sleep(70)
    assert len(scene.channel.of(Answer)) == 3


async def test_an_answer_is_told_by_the_next_run(bench: MemoryBench, stage: Stage, tmp_path: Path) -> None:
    async with on(bench, tmp_path) as scene:
        task, body = scene.deploying(action(scene.target, await stage.deploy(Wish())))
        scene.channel.say(scene.assign(task, body))
        await scene.answered(task.id, acknowledge=False)
    async with on(bench, tmp_path) as scene:
        result, answer = await scene.answered(task.id)
    assert (result.code, receipt(answer).outcomes[0].result) == (Code.DONE, Result.CHANGED)


async def test_results_are_numbered_upwards_over_runs(bench: MemoryBench, stage: Stage, tmp_path: Path) -> None:
    numbers = []
    for key in "abc":
        async with on(bench, tmp_path) as scene:
            asked = action(scene.target, await stage.deploy(Wish(colour=f"c{key}")), key=key)
            numbers.append((await scene.answer(*scene.deploying(asked)))[0].sequence)
    assert numbers == sorted(set(numbers))


async def test_what_was_begun_is_carried_on_by_the_next_run(bench: MemoryBench, stage: Stage, tmp_path: Path) -> None:
    change = await stage.deploy(Wish())
    async with on(bench, tmp_path) as scene:
        bench.host.faults = [Fault(trouble=Trouble.HANG, step="workload")]
        task, body = scene.deploying(action(scene.target, change))
        scene.channel.say(scene.assign(task, body))
        await scene.channel.until(lambda frame: isinstance(frame, Said) and "prove" in str(frame.lines))
    async with on(bench, tmp_path) as scene:
        result, _ = await scene.answered(task.id)
    assert result.code is Code.DONE
    assert started(bench) == 1
    await stage.begin_again()
    assert [one.running for one in await stage.raw()] == [True]


async def test_what_was_accepted_and_not_begun_before_the_host_went_down_is_not_begun(
    bench: MemoryBench, stage: Stage, tmp_path: Path
) -> None:
    async with on(bench, tmp_path, clock=Clock(boot_id="one")) as scene:
        scene.agent.carrier._draining = True
        task, body = scene.deploying(action(scene.target, await stage.deploy(Wish())))
        scene.channel.say(scene.assign(task, body))
        await scene.channel.until(lambda frame: frame == Accepted(task=task.id))
    async with on(bench, tmp_path, clock=Clock(boot_id="two")) as scene:
        assert (await scene.answered(task.id))[0].code is Code.EXPIRED
    assert await stage.raw() == ()


async def test_an_agent_that_is_asked_to_end_finishes_what_runs_and_keeps_the_rest(
    bench: MemoryBench, stage: Stage, tmp_path: Path
) -> None:
    slow(bench)
    async with on(bench, tmp_path) as scene:
        first = scene.deploying(action(scene.target, await stage.deploy(Wish())))
        second = scene.deploying(action(scene.target, await stage.deploy(Wish(component="web")), key="b"))
        scene.channel.say(scene.assign(*first), scene.assign(*second))
        await scene.channel.until(lambda frame: frame == Accepted(task=second[0].id))
        await scene.agent.carrier.drain(30)
        assert (await scene.answered(first[0].id))[0].code is Code.DONE
        assert list(scene.journal.unfinished) == [second[0].id]
    async with on(bench, tmp_path) as scene:
        assert (await scene.answered(second[0].id))[0].code is Code.DONE


async def test_the_answer_goes_to_whoever_asked_and_to_all_when_that_one_is_gone(
    scene: Scene, stage: Stage, bench: MemoryBench
) -> None:
    other = MemoryChannel("https://two:8421")
    welcome = Welcome(protocol=1, targets=(scene.target.id,), kinds=("memory",))
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(scene.agent.met, other, welcome)
            await anyio.sleep(0.01)
            task, body = scene.deploying(action(scene.target, await stage.deploy(Wish())))
            await scene.answer(task, body)
            assert other.of(Answer) == []
            slow(bench)
            asked = action(scene.target, await stage.deploy(Wish(component="web")), key="b")
            task, body = scene.deploying(asked)
            scene.channel.say(scene.assign(task, body))
            await scene.channel.until(lambda frame: frame == Accepted(task=task.id))
            scene.channel.lose()
            await other.until(lambda frame: isinstance(frame, Answer) and frame.task == task.id)
            group.cancel_scope.cancel()
    finally:
        other.close()


# -- secrets -----------------------------------------------------------------------------------------------------------

CANARY = "tr0ub4dor-and-3"


async def test_a_secret_is_there_for_its_task_alone_and_nowhere_on_the_disk(
    bench: MemoryBench, stage: Stage, tmp_path: Path
) -> None:
    reference, told = SecretRef(reference="vault:kv/shop#password"), list[str]()

    class Tells(MemoryDriver):
        async def apply(self, action: Action, *, report: Any) -> Receipt:
            value = await self.tools.secret(reference)
            told.append(value)
            report(Progress(id=stage.id(), step=Step.LOOK, message=f"the password is {value}"))
            return await super().apply(action, report=report)

    async with running(
        tmp_path, through_agent(bench.target), make=lambda kind, tools: Tells(tools, bench.world)
    ) as scene:
        task, body = scene.deploying(action(scene.target, await stage.deploy(Wish())))
        secrets = {sealing.named(reference): CANARY}
        _, answer = await scene.answer(task, body, secrets=secrets)
        assert told == [CANARY]
        assert CANARY not in str(scene.channel.heard)
        assert "the password is ***" in answer.log
        later = action(scene.target, await stage.deploy(Wish(colour="red")), key="b")
        _, answer = await scene.answer(*scene.deploying(later))
        assert failure(answer).error == errors.Unreachable.code
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]


async def test_secrets_of_another_task_do_not_open(scene: Scene, stage: Stage) -> None:
    task, body = scene.deploying(action(scene.target, await stage.deploy(Wish())))
    stolen = scene.assign(replace(task, id="another"), body, {"one": CANARY}).sealed
    scene.channel.say(replace(scene.assign(task, body), sealed=stolen))
    result, answer = await scene.answered(task.id)
    assert (result.code, failure(answer).error) == (Code.FAILED, errors.Refused.code)
    assert await stage.raw() == ()


# -- no room -----------------------------------------------------------------------------------------------------------


async def test_a_full_disk_refuses_and_nothing_is_half_accepted(
    scene: Scene, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: str, content: bytes, mode: int, *, durable: bool = True) -> None:
        raise OSError(28, "No space left on device", path)

    task, body = scene.deploying(action(scene.target, await stage.deploy(Wish())))
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_file", full)
        result, answer = await scene.answer(task, body)
        assert (result.code, failure(answer).error) == (Code.FAILED, errors.Refused.code)
        assert "No space left" in result.detail
        assert not scene.journal.unfinished
        assert await stage.raw() == ()
    again, body = scene.deploying(action(scene.target, await stage.deploy(Wish())))
    assert (await scene.answer(again, body))[0].code is Code.DONE


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own with 256 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", str(place)]
    if subprocess.run(argv, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


async def test_a_disk_that_is_really_full_refuses_and_works_again_when_there_is_room(
    bench: MemoryBench, stage: Stage, small: Path
) -> None:
    async with on(bench, small) as scene:
        with (small / "fill").open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        result, answer = await scene.answer(*scene.deploying(action(scene.target, await stage.deploy(Wish()))))
        assert (result.code, failure(answer).error) == (Code.FAILED, errors.Refused.code)
        assert str(small) in result.detail
        assert await stage.raw() == ()
        (small / "fill").unlink()
        assert not [path for path in small.rglob(".*") if path.is_file()]
        again = action(scene.target, await stage.deploy(Wish()), key="b")
        assert (await scene.answer(*scene.deploying(again)))[0].code is Code.DONE


async def test_an_answer_for_which_there_is_no_room_is_told_all_the_same(
    scene: Scene, stage: Stage, bench: MemoryBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(bench)
    task, body = scene.deploying(action(scene.target, await stage.deploy(Wish())))
    scene.channel.say(scene.assign(task, body))
    await scene.channel.until(lambda frame: isinstance(frame, Said))

    def full(path: str, content: bytes, mode: int, *, durable: bool = True) -> None:
        raise OSError(28, "No space left on device", path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_file", full)
        assert (await scene.answered(task.id, acknowledge=False))[0].code is Code.DONE
        assert list(scene.journal.unfinished) == [task.id]
    await anyio.sleep(31)
    assert not scene.journal.unfinished
    assert scene.journal.unacknowledged() == (task.id,)


def test_a_state_directory_is_for_one_agent(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(Taken, match="is the agent that lives in"):
        Journal(tmp_path)
    journal.close()
    Journal(tmp_path).close()
