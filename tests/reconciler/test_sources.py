"""Several sources beside each other: one's fault is no other's, one environment has one owner, and nothing that a
source loses is taken away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from desired_state.sources.base import NOTHING, InForce, SourceUnavailable, Tree
from reconciler import loop
from reconciler.core.conditions import ConditionType, Status
from reconciler.events import SourceRefused, SourceStale
from reconciler.sources import Followed
from reconciler.store import sources
from reconciler.store.sources import SourceRow
from stickers.names import EnvironmentId
from tests.harness import virtual_time
from tests.reconciler.rig import PROD, Rig, Shelf, around, declared, rig

anyio_backend = virtual_time.backend()

STAGING = EnvironmentId("default/staging")


@asynccontextmanager
async def two(one: Shelf, other: Shelf) -> AsyncIterator[Rig]:
    """Two shelves that mean what each says."""

    async def load(tree: Tree) -> object:
        return await (one if tree.revision == one.resolved.revision else other).load(tree)

    followed = {"one": Followed(source=one, poll=5), "other": Followed(source=other, poll=5)}
    async with rig(sources=followed, load=load) as made:
        yield made


def shelf(version: str, environment: EnvironmentId, prefix: str) -> Shelf:
    made = Named(prefix)
    made.put(declared(version, environment=environment))
    return made


class Named(Shelf):
    """A shelf whose revisions are no other's."""

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self.prefix = prefix

    async def read(self, in_force: InForce = NOTHING) -> Tree:
        self.resolved = self.resolved.__class__(
            revision=f"{self.prefix}-{self._reads}",
            environments=self.resolved.environments,
            releases=self.resolved.releases,
            findings=self.resolved.findings,
            documents=self.resolved.documents,
        )
        return await super().read(in_force)


async def ready(made: Rig, environment: EnvironmentId) -> tuple[Status, str]:
    row = await made.row(environment)
    [found] = [one for one in row.conditions if one.type is ConditionType.SOURCE_READY]
    return found.status, found.reason


async def row(made: Rig, name: str) -> SourceRow:
    return await made.store.read(lambda c: sources.load(c, name))


async def test_each_source_brings_its_own_environments() -> None:
    async with two(shelf("1.0.0", PROD, "a"), shelf("1.0.0", STAGING, "b")) as made:
        await made.until(lambda: made.runs("1.0.0") == 6)
        assert (await made.row(PROD)).source == "one"
        assert (await made.row(STAGING)).source == "other"
        assert (await row(made, "one")).revision == "a-1"


async def test_one_source_that_is_lost_stops_no_other_and_takes_nothing_away() -> None:
    one, other = shelf("1.0.0", PROD, "a"), shelf("1.0.0", STAGING, "b")
    async with two(one, other) as made:
        await made.until(lambda: made.runs("1.0.0") == 6)
        one.broken = "the repository does not answer"
        other.put(declared("1.1.0", environment=STAGING))
        await made.until(lambda: made.runs("1.1.0") == 3)
        await made.until(lambda: made.reconciler.sources["one"].fault is not None)
        assert made.runs("1.0.0") == 3
        assert made.reconciler.sources["other"].fault is None
        assert (await row(made, "one")).fault == "SourceUnavailable"

        async def said() -> bool:
            return await ready(made, PROD) == (Status.FALSE, "SourceUnavailable")

        await made.until(said, within=120)
        assert await ready(made, STAGING) == (Status.TRUE, "Accepted")


async def test_an_environment_of_two_sources_stays_with_the_one_that_had_it() -> None:
    one, other = shelf("1.0.0", PROD, "a"), shelf("1.0.0", STAGING, "b")
    async with two(one, other) as made:
        await made.until(lambda: made.runs("1.0.0") == 6)
        other.put(declared("2.0.0", environment=STAGING), declared("2.0.0", environment=PROD))
        await made.until(lambda: made.reconciler.sources["other"].fault is not None)
        fault = made.reconciler.sources["other"].fault
        assert fault is not None
        assert fault.reason == "OwnedTwice"
        assert "default/prod is declared by other and by one" in fault.message
        assert made.runs("1.0.0") == 6
        one.put(declared("1.0.0", environment=EnvironmentId("default/dev"), targets=1))
        await made.until(lambda: made.runs("2.0.0") == 6)
        assert (await made.row(PROD)).source == "other"


async def test_an_environment_that_is_declared_no_more_says_so_and_stays() -> None:
    one = shelf("1.0.0", PROD, "a")
    async with two(one, shelf("1.0.0", STAGING, "b")) as made:
        await made.until(lambda: made.runs("1.0.0") == 6)
        one.put(declared("1.0.0", environment=EnvironmentId("default/dev"), targets=1))

        async def said() -> bool:
            return await ready(made, PROD) == (Status.FALSE, "Undeclared")

        await made.until(said, within=120)
        assert made.runs("1.0.0") == 7


async def test_a_source_that_cannot_be_taken_for_too_long_is_one_alarm() -> None:
    one = Named("a")
    one.put(declared("1.0.0"))
    followed = {"one": Followed(source=one, poll=5, stale=timedelta(minutes=2))}
    async with rig(sources=followed, load=one.load) as made:
        await made.until(lambda: made.runs("1.0.0") == 3)
        one.broken = "gone"
        await made.until(lambda: any(isinstance(event, SourceStale) for event in made.events), within=200)
        virtual_start = len(made.events)
        await made.until(lambda: made.reconciler.sources["one"].refusals > 12, within=600)
        assert not [event for event in made.events[virtual_start:] if isinstance(event, SourceStale)]


class Lined(Named):
    """One that is told what is in force, as git is."""

    def __init__(self, prefix: str) -> None:
        super().__init__(prefix)
        self.told: list[InForce] = []

    async def read(self, in_force: InForce = NOTHING) -> Tree:
        self.told.append(in_force)
        tree = await super().read(in_force)
        if (
            in_force.revision == f"{self.prefix}-2"
            and in_force.allowed != tree.revision
            and tree.revision.endswith("-1")
        ):
            raise SourceUnavailable("set back", reason="HistoryRewritten", revision=tree.revision)
        return tree


async def test_what_is_in_force_is_told_to_the_source_also_after_a_restart_and_may_be_let_go_of_once() -> None:
    one = Lined("a")
    one.put(declared("1.0.0"))
    async with rig(sources={"one": Followed(source=one)}, load=one.load) as made:
        await made.until(lambda: made.runs("1.0.0") == 3)
        one.put(declared("1.1.0"))
        await made.until(lambda: made.runs("1.1.0") == 3)
        one._reads = 1
        one.put(declared("0.9.0"))
        one._reads = 1
        made.reconciler.request(loop.read("one"))
        await made.until(lambda: made.reconciler.sources["one"].fault is not None)
        assert [event.reason for event in made.events if isinstance(event, SourceRefused)] == ["HistoryRewritten"]
        assert one.told[-1].revision == "a-2"
        assert (await row(made, "one")).fault_revision == "a-1"
        await made.store.write(lambda c: sources.allow(c, "one", "a-1"))
        await made.reconciler.read("one")
        await made.until(lambda: made.runs("0.9.0") == 3)
        assert (await row(made, "one")).allowed is None


async def test_a_process_that_has_not_read_a_source_says_what_the_reader_wrote_down() -> None:
    one = Named("a")
    one.put(declared("1.0.0"))
    async with rig(sources={"one": Followed(source=one)}, load=one.load) as made:
        await made.until(lambda: made.runs("1.0.0") == 3)
        one.broken = "gone"
        await made.reconciler.read("one")
        async with around(made.world, made.store, one, sources={"one": Followed(source=one)}, load=None) as other:

            async def told() -> bool:
                fault = other.reconciler.sources["one"].fault
                return fault is not None and fault.reason == "SourceUnavailable"

            await other.until(told)


async def test_what_was_accepted_keeps_its_time_when_a_source_comes_back() -> None:
    one = Named("a")
    one.put(declared("1.0.0"))
    async with rig(sources={"one": Followed(source=one)}, load=one.load) as made:
        await made.until(lambda: made.runs("1.0.0") == 3)
        accepted = (await row(made, "one")).accepted_at
        one.broken = "gone"
        await made.reconciler.read("one")
        one.broken = None
        await made.reconciler.read("one")
        after = await row(made, "one")
        assert (after.fault, after.accepted_at) == (None, accepted)
        assert after.read_at is not None
        assert accepted is not None
        assert after.read_at > accepted
