"""`holdfast run`: the daemon, its command socket, and the signals that end it."""

from __future__ import annotations

import signal
from argparse import Namespace
from collections.abc import Callable
from typing import Final

import anyio
import structlog

from api.house import House
from api.http.server import CommandServer
from api.problem import OK
from api.settings import Settings
from api.wiring import built
from reconciler.store import retention
from reconciler.store.errors import StoreError

ARCHIVE_SECONDS: Final = 24 * 3600
ARCHIVE_ASKS: Final = 60  # seconds until a replica asks again whether it is the one that archives


def run(settings: Settings, given: Namespace) -> int:
    anyio.run(_run, settings, backend_options={"use_uvloop": True})
    return OK


async def _run(settings: Settings) -> None:
    async with built(settings) as house:
        log, server = structlog.get_logger(), CommandServer(house, settings.socket)
        async with anyio.create_task_group() as group:
            await group.start(server.run_until_stopped)
            group.start_soon(_until_signalled, house.reconciler.stop)
            group.start_soon(_archive_daily, house)
            log.info("holding", documents=str(settings.documents), state=str(settings.state))
            await house.reconciler.run()
            server.should_exit = True
            group.cancel_scope.deadline = anyio.current_time() + 5
            log.info("drained")


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


async def _until_signalled(stop: Callable[[], None]) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            stop()
            return
