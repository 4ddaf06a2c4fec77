"""A reconciler of real parts on a fleet in memory and a store in memory: what the tests of the shell stand on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache
from random import Random
from typing import Any, Final

import anyio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from desired_state.health import Health, TcpCheck
from desired_state.model import (
    Configuration,
    DesiredState,
    Environment,
    Placement,
    Release,
    ReleaseComponent,
    Strategy,
    StrategyKind,
    Sync,
    Target,
)
from desired_state.resolve import Resolved
from desired_state.secrets import SecretRef
from desired_state.sources.base import NOTHING, InForce, SourceUnavailable, Tree
from drivers.contract import Tools
from drivers.memory import MemoryDriver, World
from reconciler.core.judge import Verdict
from reconciler.daemon import Parts, Reconciler
from reconciler.events import Event
from reconciler.sources import Followed
from reconciler.store import environments, history, jobs, tasks
from reconciler.store.records import Job, StandingInterval, Task
from reconciler.store.store import Store
from stickers import codec, digest
from stickers.names import (
    Artifact,
    ComponentName,
    EnvironmentId,
    InstallationId,
    JobId,
    PlacementId,
    ReleaseName,
    TargetId,
)
from stickers.signature import Envelope, Keyring, PublicKey, SignatureError, Signer, key_id
from stickers.sticker import Sticker
from tests.harness import virtual_time
from tests.reconciler.stores import fresh_store

HERE: Final = InstallationId("holdfast-sim")
PROD: Final = EnvironmentId("default/prod")
CHECK: Final = Health(
    check=TcpCheck(port=8080), interval=timedelta(seconds=1), successes=2, deadline=timedelta(seconds=10)
)


@cache
def signer() -> Signer:
    private = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public = private.public_key().public_bytes_raw()
    return Signer(private, PublicKey(id=key_id(public), public=public, subjects=("*",)))


@cache
def keyring() -> Keyring:
    return Keyring([signer().key])


def tools() -> Tools:
    async def secret(ref: SecretRef) -> str:
        raise AssertionError(f"nobody should ask for {ref.reference}")

    return Tools(installation=HERE, sign=signer().sign, read=_read, now=virtual_time.now, secret=secret)


def _read(envelope: Envelope) -> Sticker | None:
    try:
        return codec.verified(envelope, keyring())
    except (SignatureError, codec.Unreadable):
        return None


def artifact(component: str, version: str) -> Artifact:
    return Artifact(f"registry.example.com/shop/{component}", digest.of(f"{component}-{version}"))


def place(number: int, component: str = "api", environment: EnvironmentId = PROD) -> PlacementId:
    name = environment.partition("/")[2]
    return PlacementId(TargetId(f"default/{name}-{number}"), ComponentName(component))


def declared(
    version: str,
    *,
    targets: int = 3,
    components: tuple[str, ...] = ("api",),
    environment: EnvironmentId = PROD,
    driver: str = "memory",
    level: str = "info",
    **changes: Any,
) -> DesiredState:
    """So many targets with all of the components of one version of the shop; `changes` are of the environment."""
    release = ReleaseName(f"shop@{version}")
    parts = {ComponentName(name): ReleaseComponent(artifact=artifact(name, version)) for name in components}
    ids = [place(number, name, environment) for number in range(targets) for name in components]
    defaults: dict[str, Any] = {
        "sync": Sync(interval=timedelta(seconds=30)),
        "strategy": Strategy(kind=StrategyKind.ROLLING, wave=1, percent=False),
    }
    return DesiredState(
        environment=Environment(id=environment, release=release, **(defaults | changes)),
        release=Release(project="default", name=release, components=parts),
        targets=tuple(
            Target(id=id, environment=environment, driver=driver) for id in dict.fromkeys(each.target for each in ids)
        ),
        placements=tuple(
            Placement(
                id=id,
                environment=environment,
                release=release,
                artifact=parts[id.component].artifact,
                configuration=Configuration(environment=(("LOG_LEVEL", level),)),
                health=CHECK,
            )
            for id in ids
        ),
        revision=f"r-{version}-{level}",
    )


class Shelf:
    """A source whose documents are put there by the test; `broken` makes its reads fail."""

    def __init__(self, *states: DesiredState) -> None:
        self.broken: str | None = None
        self.resolved = Resolved(revision="none")
        self._changed = anyio.Event()
        self._reads = 0
        if states:
            self.put(*states)

    def put(self, *states: DesiredState) -> None:
        self._reads += 1
        self.say(
            Resolved(
                revision=f"commit-{self._reads}",
                environments={state.environment.id: state for state in states},
                releases=tuple({state.release.name: state.release for state in states}.values()),
                documents=len(states),
            )
        )

    def say(self, resolved: Resolved) -> None:
        """Whatever is read from now on."""
        self.resolved = resolved
        self._changed.set()
        self._changed = anyio.Event()

    async def read(self, in_force: InForce = NOTHING) -> Tree:
        await anyio.lowlevel.checkpoint()
        if self.broken is not None:
            raise SourceUnavailable(self.broken)
        return Tree(revision=self.resolved.revision)

    async def load(self, tree: Tree) -> Resolved:
        return replace(self.resolved, revision=tree.revision)

    async def changes(self) -> AsyncIterator[None]:
        while True:
            changed = self._changed
            yield
            await changed.wait()


@dataclass(kw_only=True, eq=False)
class Rig:
    """A reconciler at work, and everything around it."""

    world: World
    store: Store
    shelf: Shelf
    driver: MemoryDriver
    reconciler: Reconciler
    events: list[Event] = field(default_factory=list)

    async def job(self, environment: EnvironmentId = PROD) -> Job | None:
        """The newest job."""
        page = await self.store.read(lambda c: jobs.page(c, environment=environment, limit=1))
        return page.items[0] if page.items else None

    async def jobs(self, environment: EnvironmentId = PROD) -> list[Job]:
        """All jobs, oldest first."""
        page = await self.store.read(lambda c: jobs.page(c, environment=environment, limit=500))
        return list(reversed(page.items))

    async def tasks(self, job: Job) -> tuple[Task, ...]:
        return await self.store.read(lambda c: tasks.of(c, job))

    async def standings(self, environment: EnvironmentId = PROD) -> dict[PlacementId, StandingInterval]:
        found = await self.store.read(lambda c: history.standing_now(c, environment))
        return {each.id: each for each in found}

    async def row(self, environment: EnvironmentId = PROD) -> Any:
        return await self.store.read(lambda c: environments.load(c, environment))

    async def until(self, true: Callable[[], Any], *, within: float = 600.0) -> Any:
        """Wait until it is true; an awaitable is awaited. What it was then."""
        with anyio.fail_after(within):
            while True:
                answer = true()
                if hasattr(answer, "__await__"):
                    answer = await answer
                if answer:
                    return answer
                await anyio.sleep(0.25)

    async def rested(self, version: str, targets: int = 3, environment: EnvironmentId = PROD) -> Job:
        """That version runs everywhere, is known to, and nothing is under way; the job that was the last."""

        async def at_rest() -> bool:
            if self.runs(version) != targets:
                return False  # without a look into the store, since this is asked four times a second for minutes
            job = await self.job(environment)
            if job is None or job.ended_at is None:
                return False
            return all(one.verdict is Verdict.IN_SYNC for one in (await self.standings(environment)).values())

        await self.until(at_rest)
        job = await self.job(environment)
        assert job is not None
        return job

    async def ended(self, number: int) -> Job:
        """The job of that number, once it has ended."""

        id = JobId(f"{PROD}:{number}")

        async def over() -> Job | None:
            job = await self.store.read(lambda c: jobs.load(c, id))
            return job if job is not None and job.ended_at is not None else None

        found: Job = await self.until(over)
        return found

    def runs(self, version: str, component: str = "api", environment: EnvironmentId = PROD) -> int:
        """On how many targets that version answers."""
        wanted = artifact(component, version).digest
        ids = [id for host in self.world.hosts.values() for id in host.places if id.component == component]
        return sum(self.world.answering(id) == wanted for id in ids)


@asynccontextmanager
async def rig(*states: DesiredState, seed: int = 1, running: bool = True, **parts: Any) -> AsyncIterator[Rig]:
    """A rig around these desired states; it runs until the block ends."""
    world, store = World(now=virtual_time.now), fresh_store(virtual_time.now)
    async with around(world, store, Shelf(*states), seed=seed, running=running, **parts) as made:
        yield made
    await store.aclose()


@asynccontextmanager
async def around(
    world: World, store: Store, shelf: Shelf, *, seed: int = 1, running: bool = True, **parts: Any
) -> AsyncIterator[Rig]:
    """A reconciler beside a world and a store that outlive it."""
    said: list[Event] = []
    driver = MemoryDriver(tools(), world)
    given: dict[str, Any] = {
        "store": store,
        "drivers": {"memory": driver},
        "tools": tools(),
        "keyring": keyring(),
        "holder": "rig",
        "sources": {"documents": Followed(source=shelf)},
        "load": shelf.load,
        "sink": said.append,
        "random": Random(seed),
    }
    reconciler = Reconciler(Parts(**(given | parts)))
    made = Rig(world=world, store=store, shelf=shelf, driver=driver, reconciler=reconciler, events=said)
    async with anyio.create_task_group() as group:
        if running:
            await group.start(reconciler.run)
        try:
            yield made
        finally:
            group.cancel_scope.cancel()
