"""The only place that constructs: settings in, a house out."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
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
from reconciler.events import Event, Sink, to_all
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


@asynccontextmanager
async def built(settings: Settings) -> AsyncIterator[House]:
    """The house, its store open and locked; nothing runs in it yet."""
    redactor = Redactor()
    declared = sources.read(settings)
    logging.configure(settings, redactor)
    settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    signer, keyring = keys.load_signer(settings.keys), keys.load_keyring(settings.keys)
    place = Place(settings.state)
    try:
        store = await Store.open(settings.database_url, now=utc, patience=_patience(settings))
    except StoreError as error:
        place.release()
        raise Problem(error.code, str(error)) from None
    try:
        await _same_keys(store, keyring)
        proposed = InstallationId(secrets.token_hex(4))
        installation = await store.write(lambda c: installations.settle(c, proposed, utc()))
        resolver = Resolver(redactor)
        tools = Tools(
            installation=installation,
            sign=signer.sign,
            read=_reader(keyring),
            now=utc,
            secret=resolver,
            hook=Runner(redactor, resolver) if settings.hooks != "off" else None,
            hooks_at=frozenset(Where) if settings.hooks == "on" else frozenset({Where.TARGET}),
        )
        drivers = Drivers(tools)
        try:
            with _traced(settings) as traced:
                house = _house(
                    settings, declared, store, drivers, tools, keyring, redactor, traced, place, signer.key.id
                )
                if house.agents is not None:
                    await house.agents.roll.refresh()  # what agents signed is believed from the first look on
                yield house
        finally:
            await drivers.aclose()
            await resolver.aclose()
    finally:
        await store.aclose()
        place.release()


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


def _house(
    settings: Settings,
    declared: dict[str, Source],
    store: Store,
    drivers: Drivers,
    tools: Tools,
    keyring: Keyring,
    redactor: Redactor,
    traced: Traces | None,
    place: Place,
    key: KeyId,
) -> House:
    told, metrics, thrift = Bell(), Metrics(), Thrift()

    def rung(event: Event) -> None:
        told.ring()

    def again() -> Keyring:
        return merged(keys.load_keyring(settings.keys), agents.roll.keys)

    def overheard(word: str) -> None:
        if word in (agent_rows.WORD, bell.EVERYTHING):
            agents.roll.nudge()

    sink = to_all(logging.write, metrics, thrift, *([traced] if traced else []), rung)
    agents = _agents(settings, store, tools, keyring, sink, place.name)
    station = _station(settings, store, agents, sink)
    if station is not None:
        drivers.serve(station.driver)
        agents = replace(agents, hold=station.hold)

    parts = Parts(
        store=store,
        drivers=drivers,
        tools=tools,
        keyring=keyring,
        holder=f"{tools.installation}@{place.name}",
        sources=sources.followed(declared, settings, store, tools.secret),
        load=_load,
        sink=sink,
        limits=Limits(actions=settings.concurrency),
        ttl=timedelta(seconds=settings.lease_seconds),
        bell=_replicas(settings, store, logging.write),
        role=Role(settings.role),
        tell=act.told,
        version=version("holdfast"),
        key=key,
        keys_again=again,
        overheard=overheard,
        agents=station.at.url if station is not None else "",
    )
    reconciler = Reconciler(parts)

    def believes(_: Sequence[PublicKey]) -> None:
        keyring.keys = again().keys
        reconciler.believe(keyring)

    agents.roll.believes = believes
    agents.roll.elsewhere = lambda: [other.agents for other in reconciler.live if other.agents]
    return House(
        settings=settings,
        installation=tools.installation,
        store=store,
        reconciler=reconciler,
        drivers=drivers,
        keyring=keyring,
        sign=tools.sign,
        redactor=redactor,
        secret=tools.secret,
        sources=declared,
        now=utc,
        bell=told,
        metrics=metrics,
        thrift=thrift,
        tracing=traced,
        agents=agents,
        station=station,
    )


def _agents(settings: Settings, store: Store, tools: Tools, keyring: Keyring, sink: Sink, place: str) -> Agents:
    """Who is on the roll is read when the house is built, and again while it is open."""

    def installations_own() -> list[PublicKey]:
        others = {key.id for key in roll.keys}
        return [key for key in keyring.keys.values() if key.id not in others]

    roll = Enrolled(
        store,
        now=utc,
        sink=sink,
        place=place,
        url=settings.agents_url,
        base=installations_own,
    )
    return Agents(
        authority=Authority(settings.authority, tools.installation),
        roll=roll,
        signers=signers_in(settings.signer_public),
        url=settings.agents_url,
    )


def _station(settings: Settings, store: Store, agents: Agents, sink: Sink) -> Station | None:
    """Where agents are listened for, if they are."""
    if not settings.agents_listen:
        return None
    from api.agents import station  # with everything that speaks with agents, and only where somebody does

    at = station.where(settings)
    assert at is not None
    means = station.Means(
        store=store, authority=agents.authority, roll=agents.roll, signers=agents.signers, sink=sink, now=utc
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
