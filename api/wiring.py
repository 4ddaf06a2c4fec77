"""The only place that constructs: settings in, a house out."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from random import Random
from typing import TYPE_CHECKING, Final

from anyio import to_thread

from api import keys, logging, sources
from api.agents.authority import Authority
from api.agents.enrolled import Enrolled
from api.agents.parts import Agents, signers_in
from api.bell import Bell
from api.commands import act
from api.house import House, signs_nothing
from api.place import Place
from api.problem import Problem
from api.runtimes import ConnectionModels, Drivers
from api.settings import Settings
from api.telemetry.metrics import Metrics
from api.thrift import Thrift
from desired_state.hooks import Where
from desired_state.load import load
from desired_state.resolve import Resolved
from desired_state.sources.base import Tree
from desired_state.sources.declared import Source
from drivers.contract import Tools
from drivers.hooks import Runner
from drivers.secrets.resolver import Resolver
from reconciler import bell
from reconciler.daemon import Parts, Reconciler
from reconciler.events import Sink, to_all
from reconciler.means import Limits
from reconciler.store import agents as agent_rows
from reconciler.store import installations, listening, replicas
from reconciler.store.errors import StoreError
from reconciler.store.records import Role
from reconciler.store.store import Store
from stickers import codec
from stickers.names import InstallationId, KeyId
from stickers.redaction import Redactor
from stickers.signature import Envelope, Keyring, PublicKey, SignatureError
from stickers.sticker import Sticker

if TYPE_CHECKING:
    from api.agents.station import Station
    from api.telemetry.traces import Traces

NOBODY: Final = InstallationId("unknown")  # stands for an installation that has no store yet


def utc() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ground:
    """What the rest of a house stands on; open for as long as the house is."""

    settings: Settings
    place: Place
    store: Store
    key: KeyId
    keyring: Keyring
    tools: Tools
    drivers: Drivers
    redactor: Redactor
    traced: Traces | None


@asynccontextmanager
async def built(settings: Settings) -> AsyncIterator[House]:
    """The house, its store open and locked; nothing runs in it yet."""
    declared = sources.read(settings)
    async with _ground(settings) as ground:
        house = _house(ground, declared)
        if house.agents is not None:
            await house.agents.roll.refresh()  # what agents signed is believed from the first look on
        yield house


@asynccontextmanager
async def _ground(settings: Settings) -> AsyncIterator[_Ground]:
    redactor = Redactor()
    logging.configure(settings, redactor)
    settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    signer, keyring = keys.load_signer(settings.keys), keys.load_keyring(settings.keys)
    async with AsyncExitStack() as stack:
        place = Place(settings.state)
        stack.callback(place.release)
        try:
            store = await Store.open(settings.database_url, now=utc, patience=_patience(settings))
        except StoreError as error:
            raise Problem(error.code, str(error)) from None
        stack.push_async_callback(store.aclose)
        await _same_keys(store, keyring)
        proposed = InstallationId(secrets.token_hex(4))
        resolver = Resolver(redactor)
        stack.push_async_callback(resolver.aclose)
        tools = Tools(
            installation=await store.write(lambda c: installations.settle(c, proposed, utc())),
            sign=signer.sign,
            read=_reader(keyring),
            now=utc,
            secret=resolver,
            hook=Runner(redactor, resolver) if settings.hooks != "off" else None,
            hooks_at=frozenset(Where) if settings.hooks == "on" else frozenset({Where.TARGET}),
        )
        drivers = Drivers(tools)
        stack.push_async_callback(drivers.aclose)
        yield _Ground(
            settings=settings,
            place=place,
            store=store,
            key=signer.key.id,
            keyring=keyring,
            tools=tools,
            drivers=drivers,
            redactor=redactor,
            traced=stack.enter_context(_traced(settings)),
        )


def _patience(settings: Settings) -> float:
    """A transaction that takes longer than a lease may be used is of no use any more; a busy machine takes its time."""
    return max(5.0, settings.lease_seconds * 2 / 3)


async def _same_keys(store: Store, keyring: Keyring) -> None:
    """What other replicas sign must be believed here, or their stickers were taken for forgeries."""
    for other in await store.read(lambda c: replicas.live(c, utc())):
        if other.key and KeyId(other.key) not in keyring.keys:
            raise Problem(
                "KEYS_DIFFER",
                f"replica {other.place} signs with key {other.key}, which is not in the keyring here: "
                "give every replica the same HOLDFAST_KEY_DIRECTORY",
            )


@contextmanager
def _traced(settings: Settings) -> Iterator[Traces | None]:
    """Where a collector is named, who sends it traces."""
    if not settings.otlp:
        yield None
        return
    from api.telemetry import traces  # the SDK, and only where it is used

    with traces.sending(settings.otlp) as traced:
        yield traced


@asynccontextmanager
async def examining(settings: Settings) -> AsyncIterator[tuple[Drivers, Tools, Redactor]]:
    """Drivers for whoever only looks: without keys and without a store of their own, so beside a daemon too."""
    redactor = Redactor()
    resolver = Resolver(redactor)
    installation = await to_thread.run_sync(installations.known, settings.database_url) or NOBODY
    tools = Tools(installation=installation, sign=signs_nothing, read=lambda envelope: None, now=utc, secret=resolver)
    drivers = Drivers(tools)
    try:
        yield drivers, tools, redactor
    finally:
        await drivers.aclose()
        await resolver.aclose()


def _replicas(settings: Settings, store: Store, sink: Sink) -> bell.Bell | None:
    """Other replicas are woken over a connection of its own; an embedded store has none."""
    if not settings.is_shared:
        return None
    address = settings.database_direct or settings.database_url
    return bell.Bell(store, lambda: listening.heard(address), sink=sink, random=Random())  # noqa: S311  # pauses


def _house(ground: _Ground, declared: dict[str, Source]) -> House:
    settings, store, tools = ground.settings, ground.store, ground.tools
    told, metrics, thrift = Bell(), Metrics(), Thrift()
    sink = to_all(
        logging.write, metrics, thrift, *([ground.traced] if ground.traced else []), lambda event: told.ring()
    )
    agents = _agents(ground, sink)
    station = _station(ground, agents, sink)
    if station is not None:
        ground.drivers.serve(station.driver)
        agents = replace(agents, hold=station.hold)
    trust = _Trust(ground, agents.roll)
    reconciler = Reconciler(
        Parts(
            store=store,
            drivers=ground.drivers,
            tools=tools,
            keyring=ground.keyring,
            holder=f"{tools.installation}@{ground.place.name}",
            sources=sources.followed(declared, settings, store, tools.secret),
            load=_load,
            sink=sink,
            limits=Limits(actions=settings.concurrency),
            ttl=timedelta(seconds=settings.lease_seconds),
            bell=_replicas(settings, store, logging.write),
            role=Role(settings.role),
            tell=act.told,
            version=version("holdfast"),
            key=ground.key,
            keys_again=trust.again,
            overheard=trust.overheard,
            agents=station.at.url if station is not None else "",
        )
    )
    trust.kept_by(reconciler)
    return House(
        settings=settings,
        installation=tools.installation,
        store=store,
        reconciler=reconciler,
        drivers=ground.drivers,
        keyring=ground.keyring,
        sign=tools.sign,
        redactor=ground.redactor,
        secret=tools.secret,
        sources=declared,
        now=utc,
        bell=told,
        metrics=metrics,
        thrift=thrift,
        tracing=ground.traced,
        agents=agents,
        station=station,
    )


class _Trust:
    """Whose signatures are believed: the installation's own keys, and those of the agents on its roll."""

    def __init__(self, ground: _Ground, roll: Enrolled) -> None:
        self._directory, self._keyring, self._roll = ground.settings.keys, ground.keyring, roll

    def again(self) -> Keyring:
        return merged(keys.load_keyring(self._directory), self._roll.keys)

    def overheard(self, word: str) -> None:
        if word in (agent_rows.WORD, bell.EVERYTHING):
            self._roll.nudge()

    def kept_by(self, reconciler: Reconciler) -> None:
        """From here on a change of the roll reaches whoever verifies."""

        def believes(_: Sequence[PublicKey]) -> None:
            self._keyring.keys = self.again().keys
            reconciler.believe(self._keyring)

        self._roll.believes = believes
        self._roll.elsewhere = lambda: [other.agents for other in reconciler.live if other.agents]


def _agents(ground: _Ground, sink: Sink) -> Agents:
    """Who is on the roll is read when the house is built, and again while it is open."""

    def installations_own() -> list[PublicKey]:
        others = {key.id for key in roll.keys}
        return [key for key in ground.keyring.keys.values() if key.id not in others]

    settings = ground.settings
    roll = Enrolled(
        ground.store,
        now=utc,
        sink=sink,
        place=ground.place.name,
        url=settings.agents_url,
        base=installations_own,
    )
    return Agents(
        authority=Authority(settings.authority, ground.tools.installation),
        roll=roll,
        signers=signers_in(settings.signer_public),
        url=settings.agents_url,
    )


def _station(ground: _Ground, agents: Agents, sink: Sink) -> Station | None:
    """Where agents are listened for, if they are."""
    if not ground.settings.agents_listen:
        return None
    from api.agents import station  # with everything that speaks with agents, and only where somebody does

    at = station.where(ground.settings)
    assert at is not None
    means = station.Means(
        store=ground.store, authority=agents.authority, roll=agents.roll, signers=agents.signers, sink=sink, now=utc
    )
    return station.Station(at, means)


def merged(keyring: Keyring, agents: Sequence[PublicKey]) -> Keyring:
    """The keys of the installation, and those of agents that are none of them."""
    return Keyring((*(key for key in agents if key.id not in keyring.keys), *keyring.keys.values()))


async def _load(tree: Tree) -> Resolved:
    return await to_thread.run_sync(load, tree, ConnectionModels())


def _reader(keyring: Keyring) -> Callable[[Envelope], Sticker | None]:
    def read(envelope: Envelope) -> Sticker | None:
        try:
            return codec.verified(envelope, keyring)
        except (SignatureError, codec.Unreadable):
            return None

    return read
