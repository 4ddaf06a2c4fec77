"""`holdfast run`: the daemon, its command socket, and the signals that end it."""

from __future__ import annotations

import signal
from argparse import Namespace
from collections.abc import Callable

import anyio
import structlog

from api.http.server import CommandServer
from api.problem import OK
from api.settings import Settings
from api.wiring import built


def run(settings: Settings, given: Namespace) -> int:
    anyio.run(_run, settings, backend_options={"use_uvloop": True})
    return OK


async def _run(settings: Settings) -> None:
    async with built(settings) as house:
        log, server = structlog.get_logger(), CommandServer(house, settings.socket)
        async with anyio.create_task_group() as group:
            await group.start(server.run_until_stopped)
            group.start_soon(_until_signalled, house.reconciler.stop)
            log.info("holding", documents=str(settings.documents), state=str(settings.state))
            await house.reconciler.run()
            server.should_exit = True
            group.cancel_scope.deadline = anyio.current_time() + 5
            log.info("drained")


async def _until_signalled(stop: Callable[[], None]) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            stop()
            return
