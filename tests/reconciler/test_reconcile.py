"""A turn of an environment: what it decides, what it records, and when it looks again."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest
from sqlalchemy import Connection

from desired_state.model import Policy, Strategy, StrategyKind, Suspension, Sync
from drivers.memory import Deed, scripts
from reconciler.core.intent import JobKind
from reconciler.core.judge import Verdict
from reconciler.core.known import Trust
from reconciler.core.machine import JobState
from reconciler.events import StickerDistrusted, VerdictChanged
from reconciler.loop import reconcile as key
from reconciler.store import environments, history, jobs, leases, memories
from reconciler.store.records import DecisionInterval, HandSuspension, Refusal
from stickers.names import JobId
from tests.harness import virtual_time
from tests.reconciler.rig import PROD, Rig, artifact, declared, place, rig

anyio_backend = virtual_time.backend()

ALL = Strategy(kind=StrategyKind.ALL_AT_ONCE)


async def decided(made: Rig) -> DecisionInterval:
    found = await made.store.read(lambda c: history.last_decision(c, PROD))
    assert found is not None
    return found


async def verdict(made: Rig, number: int) -> Verdict | None:
    standing = (await made.standings()).get(place(number))
    return standing.verdict if standing else None


# -- what is recorded -------------------------------------------------------------------------------------------------


async def test_a_turn_that_finds_nothing_new_extends_the_last_decision_and_writes_nothing_else() -> None:
    async with rig(declared("1.0.0")) as made:
        await made.rested("1.0.0")
        await anyio.sleep(31)
        before, standings = await decided(made), await made.standings()
        await anyio.sleep(300)
        after = await decided(made)
        assert after.number == before.number
        assert after.count > before.count + 8
        assert after.until > before.until
        assert await made.standings() == standings
        assert after.rule == "everything is as wanted: nothing is done"


async def test_the_interval_is_kept_give_or_take_a_tenth() -> None:
    async with rig(declared("1.0.0")) as made:
        await made.rested("1.0.0")
        await anyio.sleep(60)
        before = await decided(made)
        await anyio.sleep(3000)
        turns = (await decided(made)).count - before.count
        assert 3000 / 33 - 1 <= turns <= 3000 / 27 + 1


async def test_a_decision_names_what_drifts_what_blocks_it_and_how_to_go_on() -> None:
    sync = Sync(interval=timedelta(seconds=30), heal=Policy.REPORT)
    async with rig(declared("1.0.0", sync=sync)) as made:
        await made.rested("1.0.0")
        made.world.host(place(0).target).remove(place(0))
        await made.until(lambda: _is(made, 0, Verdict.MISSING))
        content = (await decided(made)).content
        assert content["drifted"] == [["default/prod-0/api", "missing", "nothing runs there"]]
        [blocked] = content["blocked"]
        assert (blocked["placement"], blocked["code"]) == ("default/prod-0/api", "POLICY_REPORT")
        assert "holdfast sync prod" in blocked["remedy"]


async def _is(made: Rig, number: int, wanted: Verdict) -> bool:
    return await verdict(made, number) is wanted


async def test_every_change_of_a_verdict_is_told_once() -> None:
    async with rig(declared("1.0.0", targets=1)) as made:
        await made.rested("1.0.0", 1)
        made.events.clear()
        made.world.host(place(0).target).cut()
        await anyio.sleep(200)
        told = [event for event in made.events if isinstance(event, VerdictChanged)]
        assert [(event.before, event.after) for event in told] == [(Verdict.IN_SYNC, Verdict.UNKNOWN)]


async def test_a_forged_sticker_is_an_alarm_and_is_labelled_anew_without_a_restart() -> None:
    async with rig(declared("1.0.0", targets=1)) as made:
        await made.rested("1.0.0", 1)
        started = [effect for effect in made.world.effects if effect.deed is Deed.STARTED]
        made.world.host(place(0).target).forge(place(0))
        await made.until(lambda: any(isinstance(event, StickerDistrusted) for event in made.events))
        [alarm] = [event for event in made.events if isinstance(event, StickerDistrusted)]
        assert (alarm.trust, alarm.reason) == (Trust.FORGED, "the signature does not fit the content")
        await made.until(lambda: _in_sync(made))
        assert [effect for effect in made.world.effects if effect.deed is Deed.STARTED] == started


async def _in_sync(made: Rig) -> bool:
    standing = (await made.standings())[place(0)]
    return standing.verdict is Verdict.IN_SYNC and standing.trust is Trust.VALID


async def test_a_replayed_sticker_is_an_alarm() -> None:
    async with rig(declared("1.0.0", targets=1)) as made:
        await made.rested("1.0.0", 1)
        made.shelf.put(declared("1.1.0", targets=1))
        await made.rested("1.1.0", 1)
        made.world.host(place(0).target).replay(place(0), 2)
        await made.until(lambda: any(isinstance(event, StickerDistrusted) for event in made.events))
        [alarm] = [event for event in made.events if isinstance(event, StickerDistrusted)]
        assert alarm.trust is Trust.REPLAYED
        assert "has been seen already" in alarm.reason


async def test_what_is_held_to_nothing_is_still_asked_how_it_is() -> None:
    shop = declared("1.0.0", targets=2)
    asked, other = shop.placements
    async with rig(shop) as made:
        await made.rested("1.0.0", 2)

        def given_up(c: Connection) -> None:
            lease = leases.load(c, PROD)
            assert lease is not None
            ill = Refusal(placement=other, reason="ill", job=JobId(f"{PROD}:1"))
            memories.refuse(c, ill, lease, virtual_time.now())
            memories.step_back(c, PROD, [asked.id], lease, virtual_time.now())

        await made.store.write(given_up)
        before = await decided(made)
        await made.until(lambda: _decided_after(made, before.number))
        assert await verdict(made, 0) is Verdict.IN_SYNC


async def _decided_after(made: Rig, number: int) -> bool:
    return (await decided(made)).number > number


async def test_the_applied_release_is_the_one_that_stands_everywhere() -> None:
    async with rig(declared("1.0.0")) as made:
        await made.rested("1.0.0")
        row = await made.row()
        assert (row.last_attempted, row.last_applied) == ("shop@1.0.0", "shop@1.0.0")
        made.world.scripts[artifact("api", "2.0.0").digest] = scripts.NEVER
        made.shelf.put(declared("2.0.0"))
        await anyio.sleep(120)
        row = await made.row()
        assert (row.last_attempted, row.last_applied) == ("shop@2.0.0", "shop@1.0.0")


async def test_what_an_earlier_process_recorded_and_is_gone_is_closed() -> None:
    async with rig(declared("1.0.0", targets=1)) as made:
        await made.rested("1.0.0", 1)
        host = made.world.host(place(0).target)
        host.intrude("theirs", artifact("api", "other"))
        await made.until(lambda: _known(made, 2))
        host.stop(host.foreign["theirs"], _hand(), "hand")
        del host.foreign["theirs"]
        host.changed(Deed.MEDDLED, _hand())
        await made.until(lambda: _known(made, 1))


def _hand():  # type: ignore[no-untyped-def]
    from drivers.memory.world import BY_HAND

    return BY_HAND


async def _known(made: Rig, count: int) -> bool:
    return len(await made.standings()) == count


# -- what is healed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deed", ["remove", "kill", "swap", "configure"])
async def test_a_hand_change_is_seen_at_once_and_healed(deed: str) -> None:
    async with rig(declared("1.0.0", sync=Sync(interval=timedelta(hours=1)))) as made:
        await made.rested("1.0.0")
        host = made.world.host(place(1).target)
        began = anyio.current_time()
        match deed:
            case "remove":
                host.remove(place(1))
            case "kill":
                host.kill(place(1))
            case "swap":
                host.swap(place(1), artifact("api", "by-hand"))
            case "configure":
                host.configure(place(1), None)
        await made.until(lambda: _healed(made), within=30)
        assert anyio.current_time() - began < 5
        job = await made.job()
        assert job is not None
        assert job.kind is JobKind.HEAL


async def _healed(made: Rig) -> bool:
    standings = await made.standings()
    jobs = await made.jobs()
    return len(jobs) == 2 and jobs[1].ended_at is not None and all(
        one.verdict is Verdict.IN_SYNC for one in standings.values()
    )  # fmt: skip


async def test_what_falls_ill_again_and_again_is_healed_ever_more_slowly_and_then_given_up() -> None:
    async with rig(declared("1.0.0", targets=1)) as made:
        await made.rested("1.0.0", 1)
        made.world.host(place(0).target).behave(place(0), scripts.Dying(3))
        await anyio.sleep(3600)
        heals = [job for job in await made.jobs() if job.kind is JobKind.HEAL]
        assert 5 <= len(heals) <= 7
        content = (await decided(made)).content
        assert [one["code"] for one in content["blocked"]] == ["GAVE_UP"]


async def test_what_vanishes_again_soon_after_each_heal_is_healed_ever_more_slowly_and_that_is_said() -> None:
    async with rig(declared("1.0.0", targets=1)) as made:
        await made.rested("1.0.0", 1)
        began, said = anyio.current_time(), set[str]()
        while anyio.current_time() - began < 3600:
            if made.runs("1.0.0") and not await made.store.read(lambda c: jobs.active(c, PROD)):
                made.world.host(place(0).target).remove(place(0))
            await anyio.sleep(5)
            said |= {f"{one['code']} {one['reason']}" for one in (await decided(made)).content["blocked"]}
        heals = [job for job in await made.jobs() if job.kind is JobKind.HEAL]
        assert all(job.state is JobState.COMPLETED for job in heals if job.ended_at)
        assert 6 <= len(heals) <= 40
        assert "BACKOFF healed 3 times and it did not hold" in said


async def test_the_first_heals_are_not_held_up() -> None:
    async with rig(declared("1.0.0", targets=1)) as made:
        await made.rested("1.0.0", 1)
        for number in (2, 3):
            made.world.host(place(0).target).remove(place(0))
            began = anyio.current_time()
            await made.ended(number)
            assert anyio.current_time() - began < 5


async def test_something_newer_is_not_held_up_by_the_heals_of_what_was_before() -> None:
    async with rig(declared("1.0.0", targets=1)) as made:
        await made.rested("1.0.0", 1)
        for number in (2, 3, 4):
            made.world.host(place(0).target).remove(place(0))
            await made.ended(number)
        assert await _attempts(made, 3)
        made.shelf.put(declared("1.1.0", targets=1))
        await made.rested("1.1.0", 1)
        assert await _attempts(made, 0)


@pytest.mark.parametrize("deed", ["kill", "remove"])
async def test_heals_that_held_are_forgotten(deed: str) -> None:
    async with rig(declared("1.0.0", targets=1)) as made:
        await made.rested("1.0.0", 1)
        getattr(made.world.host(place(0).target), deed)(place(0))
        await made.until(lambda: _attempts(made, 1))
        await made.until(lambda: _attempts(made, 0), within=1200)


async def _attempts(made: Rig, count: int) -> bool:
    known = await made.store.read(lambda c: memories.known(c, PROD, virtual_time.now()))
    return known.memories[place(0)].attempts == count


# -- what is left alone -----------------------------------------------------------------------------------------------


async def test_an_unseen_target_is_unknown_nothing_happens_to_it_and_the_others_go_on() -> None:
    async with rig(declared("1.0.0")) as made:
        await made.rested("1.0.0")
        made.world.host(place(0).target).cut()
        made.world.host(place(1).target).remove(place(1))
        await made.until(lambda: _is(made, 0, Verdict.UNKNOWN))
        await made.until(lambda: made.runs("1.0.0") == 3)
        await anyio.sleep(600)
        assert len(await made.jobs()) == 2
        made.world.host(place(0).target).mend()
        await made.until(lambda: _is(made, 0, Verdict.IN_SYNC))
        assert len(await made.jobs()) == 2


async def test_a_target_whose_driver_is_not_here_is_unknown_with_the_reason() -> None:
    state = declared("1.0.0", targets=1, driver="mainframe")
    async with rig(state) as made:
        await made.until(lambda: _is_known(made))
        standing = (await made.standings())[place(0)]
        assert standing.verdict is Verdict.UNKNOWN
        assert standing.reason == "no driver of kind 'mainframe' is known here"
        assert await made.jobs() == []


async def _is_known(made: Rig) -> bool:
    return place(0) in await made.standings()


@pytest.mark.parametrize("by", ["document", "hand"])
async def test_a_suspended_environment_is_looked_at_and_not_touched(by: str) -> None:
    async with rig(declared("1.0.0")) as made:
        await made.rested("1.0.0")
        if by == "document":
            made.shelf.put(declared("1.0.0", suspend=Suspension(reason="audit")))
        else:
            held = HandSuspension(reason="audit", actor="ada", since=virtual_time.now())
            await made.store.write(lambda c: environments.suspend(c, PROD, held))
        await anyio.sleep(1)
        made.world.host(place(0).target).remove(place(0))
        await made.until(lambda: _is(made, 0, Verdict.MISSING))
        await anyio.sleep(300)
        assert made.runs("1.0.0") == 2
        assert [one["code"] for one in (await decided(made)).content["blocked"]] == ["SUSPENDED"]


async def test_a_suspension_with_an_end_ends_by_itself_and_on_time() -> None:
    sync = Sync(interval=timedelta(hours=1))
    async with rig(declared("1.0.0", sync=sync)) as made:
        await made.rested("1.0.0")
        until = virtual_time.now() + timedelta(seconds=100)
        held = HandSuspension(reason="audit", actor="ada", since=virtual_time.now(), until=until)
        await made.store.write(lambda c: environments.suspend(c, PROD, held))
        made.world.host(place(0).target).remove(place(0))
        await made.until(lambda: made.runs("1.0.0") == 3, within=130)
        assert virtual_time.now() >= until


async def test_a_large_removal_waits_for_a_person() -> None:
    sync = Sync(interval=timedelta(seconds=30), prune=True, removal_limit=30)
    async with rig(declared("1.0.0", targets=4, sync=sync)) as made:
        await made.rested("1.0.0", 4)
        made.shelf.put(declared("1.0.0", targets=2, sync=sync))
        await anyio.sleep(300)
        assert made.runs("1.0.0") == 4
        blocked = (await decided(made)).content["blocked"]
        assert [one["code"] for one in blocked] == ["REMOVAL_LIMIT", "REMOVAL_LIMIT"]


async def test_a_small_removal_is_carried_out_and_the_target_looked_at_until_then() -> None:
    sync = Sync(interval=timedelta(seconds=30), prune=True, removal_limit=30)
    async with rig(declared("1.0.0", targets=4, sync=sync)) as made:
        await made.rested("1.0.0", 4)
        made.shelf.put(declared("1.0.0", targets=3, sync=sync))
        await made.until(lambda: made.runs("1.0.0") == 3)
        job = await made.job()
        assert job is not None
        assert job.kind is JobKind.REMOVE
        await made.until(lambda: _gone(made))


async def _gone(made: Rig) -> bool:
    return place(3) not in await made.standings()


# -- between a look and what follows ----------------------------------------------------------------------------------


async def test_a_plan_from_a_look_that_an_action_overtook_becomes_no_job() -> None:
    async with rig(declared("1.0.0", targets=1)) as made:
        await made.rested("1.0.0", 1)
        means = made.reconciler._means
        from reconciler import reconcile

        made.world.host(place(0).target).remove(place(0))
        view = await reconcile.load(means, PROD)
        assert view is not None
        surveyed = await reconcile.survey(means, view)
        plan = reconcile.planned(means, surveyed)
        assert not plan.empty
        means.note(PROD).acted += 1
        async with means.leases.under(PROD) as lease:
            with pytest.raises(reconcile.WorldMoved):
                await reconcile.make(means, surveyed, plan, lease, reconcile.Asked(by="ada", reason="test"))


async def test_requests_while_a_job_is_at_work_make_no_second_one() -> None:
    async with rig(declared("1.0.0")) as made:
        await made.until(lambda: made.job())
        for _ in range(20):
            made.reconciler.request(key(PROD))
            await anyio.sleep(0.1)
        await made.rested("1.0.0")
        assert len(await made.jobs()) == 1
