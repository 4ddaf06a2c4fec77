"""`holdfast run` and `holdfast serve`: the daemon, the doors it opens, and the signals that end it."""

from __future__ import annotations

import signal
import ssl
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import structlog

from api import sources, thrift
from api.commands.agents import settle_authority
from api.house import House
from api.http import address, routers
from api.http.app import AtTheSocket, application, gated
from api.http.caps import Caps
from api.http.serving import Server, on_port, on_socket
from api.notices import declared as notices
from api.notices.watch import Watch
from api.people.first import first_admin
from api.problem import OK, Problem
from api.reread import Reread, Rereading
from api.settings import Settings
from api.wiring import built
from reconciler.store import retention
from reconciler.store.errors import StoreError

ARCHIVE_SECONDS: Final = 24 * 3600
ARCHIVE_ASKS: Final = 60  # seconds until a replica asks again whether it is the one that archives
FAREWELL: Final = 5.0  # seconds for the servers to end
SWITCH: Final = 0.001  # seconds after which a thread that computes lets the event loop go on


def run(settings: Settings, given: Namespace) -> int:
    anyio.run(_run, settings, None, backend_options={"use_uvloop": True})
    return OK


def serve(settings: Settings, given: Namespace) -> int:
    if not settings.listen and settings.role != "loop":
        raise Problem("BAD_SETTING", "where to listen is not said; give --listen HOST:PORT or HOLDFAST_LISTEN")
    where = address.of(settings) if settings.role != "loop" else None
    anyio.run(_run, settings, where, backend_options={"use_uvloop": True})
    return OK


async def _run(settings: Settings, where: address.Address | None) -> None:
    from api.statuses import Statuses  # with what speaks HTTP to a forge

    log = structlog.get_logger()
    thrift.begin()
    sys.setswitchinterval(SWITCH)
    async with built(settings) as house, AsyncExitStack() as doors:
        sources.tell_of_lacking(house.sources)
        watch = _watch(house)
        servers = [on_socket(gated(application(house, AtTheSocket()), Caps(), house.tracing), settings.socket)]
        if where is not None:
            await _tell_of_first_admin(house)
            servers.append(_over_tcp(house, where, doors))
        rereading = Rereading(*_reread(house, where, servers))
        stopped = anyio.Event()
        async with anyio.create_task_group() as group:
            for server in servers:
                port = await group.start(server.run_until_stopped)
            if where is not None:
                log.info("listening", url=address.with_port(where, port).url)
            group.start_soon(_until_signalled, stopped.set, rereading.ask)
            group.start_soon(rereading.run)
            group.start_soon(_archive_daily, house)
            group.start_soon(house.thrift.run)
            if watch is not None:
                group.start_soon(watch.run)
            group.start_soon(Statuses(house).run)
            if house.agents is not None:
                group.start_soon(house.agents.roll.run)
            if house.station is not None and house.agents is not None:
                await settle_authority(house, house.agents, "holdfast")
                port = await group.start(house.station.run)
                log.info("listening_for_agents", url=house.station.at.url, port=port)
            log.info(
                "holding",
                documents=str(settings.sources or settings.documents),
                state=str(settings.state),
                role=settings.role,
            )
            await _held(house, stopped)
            if house.station is not None:
                await house.station.aclose()
            house.bell.close()  # streams say farewell, so that the servers need not cut them off
            for server in servers:
                server.should_exit = True
            group.cancel_scope.deadline = anyio.current_time() + FAREWELL
            log.info("drained")


async def _tell_of_first_admin(house: House) -> None:
    """To the terminal, past the log, which is kept by others."""
    if (told := await first_admin(house)) is not None:
        print(told, file=sys.stderr, flush=True)


def _over_tcp(house: House, where: address.Address, doors: AsyncExitStack) -> Server:
    keeper = routers.doorkeeper(house)
    doors.push_async_callback(keeper.aclose)
    app = application(house, keeper, more=routers.MORE)
    caps = address.caps(house.settings, where)
    try:
        return on_port(
            gated(app, caps, house.tracing), where.host, where.port, certificate=where.certificate, key=where.key
        )
    except (OSError, ssl.SSLError) as error:
        raise Problem("LISTEN_FAILED", f"{where.url} cannot be listened at: {error}") from None


def _watch(house: House) -> Watch | None:
    """Whoever tells people elsewhere; a process of the role `api` leaves that to others."""
    if not house.settings.notices or house.settings.role == "api":
        return None
    declared, link = notices.read(Path(house.settings.notices)), house.settings.public_url
    return Watch(declared, house.store, house.secret, house.now, public_url=link)


async def _held(house: House, stopped: anyio.Event) -> None:
    """Until a signal comes and what runs has drained. A process of the role `api` holds no environment."""
    async with anyio.create_task_group() as group:
        group.start_soon(_stop_when, stopped, house.reconciler.stop)
        await house.reconciler.run()
        group.cancel_scope.cancel()


async def _stop_when(stopped: anyio.Event, stop: Callable[[], None]) -> None:
    await stopped.wait()
    stop()


async def _archive_daily(house: House) -> None:
    """Move what is older than the history is kept for from the store into the archive, at once and then every day."""
    log = structlog.get_logger()
    while True:
        if house.settings.is_shared and not house.reconciler.single:
            await anyio.sleep(ARCHIVE_ASKS)
            continue  # another replica does
        try:
            done = await retention.run(
                house.store, house.settings.archive, now=house.now(), days=house.settings.history_days
            )
        except (StoreError, OSError) as error:
            log.warning("archive_failed", error=str(error))
        else:
            if done.file:
                log.info("archived", file=str(done.file), rows=sum(done.rows.values()))
        await anyio.sleep(ARCHIVE_SECONDS)


def _reread(house: House, where: address.Address | None, servers: Sequence[Server]) -> Iterator[Reread]:
    """The files that are read again when they change, and on SIGHUP."""
    if house.settings.sources is not None:

        def told(problem: str | None) -> None:
            house.reconciler.misdeclared = problem

        yield Reread(name="sources", files=[house.settings.sources], take=partial(sources.take_again, house), told=told)
    if where is not None and where.certificate is not None:
        files = [each for each in (where.certificate, where.key) if each is not None]
        yield Reread(name="certificate", files=files, take=partial(_take_certificates, servers))


async def _take_certificates(servers: Sequence[Server]) -> None:
    for server in servers:
        server.take_certificate()


async def _until_signalled(stop: Callable[[], None], reread: Callable[[], None]) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            if number != signal.SIGHUP:
                stop()
                return
            reread()
