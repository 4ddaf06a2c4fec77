"""Environments are spread over the replicas that live, and follow them when they come and go."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest

from drivers.memory import Fault, Trouble
from reconciler.events import LeaseTaken, ReplicaDoubted, ReplicaGone, ReplicaSeen
from reconciler.store import replicas
from reconciler.store.records import Role
from tests.reconciler import rig
from tests.replicas.crew import TTL, Crew, declared, environment, shares, until, utc

MANY = 7


def crew(address: str, many: int = MANY) -> Crew:
    return Crew.of(address, *(declared("1.0.0", targets=1, environment=environment(n)) for n in range(many)))


async def test_environments_are_spread_evenly_and_taken_over_within_a_second_of_a_lease_s_end(postgresql: str) -> None:
    made = crew(postgresql)
    async with made.replica("a") as a:
        await until("all of them", lambda: shares([a]) == [7])
        async with made.replica("b") as b, made.replica("c") as c:
            await until("a fair share", lambda: sorted(shares([a, b, c])) == [2, 2, 3])
            held = [one.reconciler.held for one in (a, b, c)]
            assert sorted(each for some in held for each in some) == [environment(n) for n in range(MANY)]
        took = await until("all of them again", lambda: shares([a]) == [7])
        assert took < TTL.total_seconds() + 1 + 1  # and a second for a loaded machine
        assert [type(event) for event in a.events if isinstance(event, ReplicaSeen | ReplicaGone)] == [
            ReplicaSeen,
            ReplicaSeen,
            ReplicaGone,
            ReplicaGone,
        ]


async def test_a_replica_that_is_stopped_gives_everything_to_the_others_at_once(postgresql: str) -> None:
    made = Crew.of(postgresql, *(declared("1.0.0", targets=1, environment=environment(n)) for n in range(4)))
    made.ttl = timedelta(seconds=60)  # nothing ends by itself here
    async with made.replica("a") as a, made.replica("b") as b:
        await until("a fair share", lambda: shares([a, b]) == [2, 2])
        b.reconciler.stop()
        await until("all of them", lambda: shares([a]) == [4], within=40)


async def test_one_that_starts_again_in_the_same_place_need_not_wait(postgresql: str) -> None:
    made = crew(postgresql, 2)
    made.ttl = timedelta(seconds=600)
    async with made.replica("a") as first:
        await until("all of them", lambda: shares([first]) == [2])
    async with made.replica("a") as again:
        await until("its own", lambda: shares([again]) == [2])
        taken = [event.token for event in again.events if isinstance(event, LeaseTaken)]
        assert min(taken) > 1


async def test_a_replica_of_role_api_holds_nothing_and_is_counted_in_no_share(postgresql: str) -> None:
    made = crew(postgresql, 4)
    async with made.replica("a") as a, made.replica("api", role=Role.API) as api:
        await until("all of them", lambda: shares([a, api]) == [4, 0])
        await until("the deployment", lambda: a.runs("1.0.0") == 4)
        assert not api.reconciler.single
        assert not [event for event in api.events if isinstance(event, LeaseTaken)]
        live = await api.store.read(lambda c: replicas.live(c, utc()))
        assert {(each.place, each.role, each.environments) for each in live} >= {("api", Role.API, 0)}


async def test_a_slow_environment_delays_no_other(postgresql: str) -> None:
    slow = declared("1.0.0", targets=1, environment=environment(0))
    made = Crew.of(postgresql, slow, declared("1.0.0", targets=1, environment=environment(1)))
    host = made.world.host(slow.targets[0].id)
    host.faults.extend(Fault(trouble=Trouble.SLOW, step=step, seconds=30) for step in ("observe", "prepare"))
    async with made.replica("a") as a:
        await until("the quick one", lambda: a.runs("1.0.0") == 1, within=25)
        for version in ("1.1.0", "1.2.0", "1.3.0"):
            made.shelf.put(slow, declared(version, targets=1, environment=environment(1)))
            await until(version, lambda version=version: a.runs(version) == 1, within=25)


async def test_only_one_replica_reads_the_documents_and_all_say_what_is_wrong_with_them(postgresql: str) -> None:
    made = crew(postgresql, 2)
    async with made.replica("a") as a, made.replica("b") as b:
        await until("a fair share", lambda: shares([a, b]) == [1, 1])
        assert [a.reconciler.single, b.reconciler.single].count(True) == 1
        made.shelf.broken = "the repository is away"
        made.shelf.say(made.shelf.resolved)
        for one in (a, b):
            await until("the reason", lambda one=one: one.reconciler.source_problem == "the repository is away")
        made.shelf.broken = None
        made.shelf.put(*(declared("1.1.0", targets=1, environment=environment(n)) for n in range(2)))
        await until("the next release", lambda: a.runs("1.1.0") == 2)
        for one in (a, b):
            await until("no reason", lambda one=one: one.reconciler.source_problem is None)


async def test_a_replica_that_signs_with_an_unknown_key_is_told_of_once(postgresql: str) -> None:
    made = crew(postgresql, 1)
    known = rig.signer().key.id
    async with made.replica("a", key=known) as a, made.replica("b", key="another"):
        await until("the doubt", lambda: [event for event in a.events if isinstance(event, ReplicaDoubted)])
        await anyio.sleep(2.5)
        assert [event for event in a.events if isinstance(event, ReplicaDoubted)] == [
            ReplicaDoubted(replica="b", key="another")
        ]


@pytest.mark.parametrize("heard", ["told", "deaf"])
async def test_a_new_environment_is_taken_whether_or_not_anybody_hears_of_it(postgresql: str, heard: str) -> None:
    async def deaf():  # type: ignore[no-untyped-def]
        await anyio.sleep_forever()
        yield ()

    made = crew(postgresql, 1)
    parts = {"bell": deaf} if heard == "deaf" else {}
    async with made.replica("a", **parts) as a, made.replica("b", **parts) as b:
        await until("a share", lambda: sum(shares([a, b])) == 1)
        made.shelf.put(*(declared("1.0.0", targets=1, environment=environment(n)) for n in range(2)))
        await until("both", lambda: shares([a, b]) == [1, 1])
        await until("its deployment", lambda: a.runs("1.0.0") == 2)
