"""The door of the agent: what `holdfast-agent` does.

holdfast-agent join URL --token-file FILE    become an agent of that server
holdfast-agent run                           until SIGTERM; what runs then is finished within the grace
holdfast-agent status                        what the one that runs says of itself
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from drivers.agent.duty.settings import FILE, BadSettings, Settings, read

if TYPE_CHECKING:
    import ssl

    from drivers.agent.duty.agent import Agent
    from drivers.agent.duty.identity import Identity
    from drivers.agent.duty.upgrade import Trial

GRACE: Final = 30.0  # seconds that what runs has, after SIGTERM
RENEWAL: Final = 60.0  # seconds between two looks at whether the certificate is to be renewed
SAID: Final = 64 * 1024  # bytes of what the one that runs says of itself
WITHIN: Final = 5.0  # seconds until it has

_log: Final = logging.getLogger("holdfast.agent")


def version() -> str:
    try:
        return version_of("holdfast")
    except PackageNotFoundError:  # run from a tree that nobody has installed
        return "0"


EXITS: Final = """\
examples:
  holdfast-agent join https://holdfast.example.com:8444 --token-file -
  holdfast-agent run
  holdfast-agent status

exit codes:
  0   done; ended by SIGTERM
  1   status: no agent runs
  2   the settings, the token or the identity are not what they should be, or another agent has the state
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Ends the process as `EXITS` tells."""
    asked = parsed(arguments)
    try:
        settings = read(Path(asked.settings))
        asked.do(asked, settings)
    except BadSettings as error:
        _refuse(str(error))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    return _parser().parse_args(arguments)


def _refuse(why: str) -> NoReturn:
    print(f"holdfast-agent: {why}", file=sys.stderr)
    sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="holdfast-agent",
        description="Carries out authorised tasks on this host.",
        epilog=EXITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"holdfast-agent {version()}")
    verbs = parser.add_subparsers(required=True, metavar="join|run|status")
    join = verbs.add_parser("join", help="become an agent of a server")
    join.add_argument("url", help="https://host:port, as `holdfast agent invite` says it")
    join.add_argument("--token-file", dest="file", required=True, help="holds the join token; - for standard input")
    join.set_defaults(do=_join)
    run = verbs.add_parser("run", help="serve until SIGTERM")
    run.add_argument("--grace", type=float, default=GRACE, help="seconds that what runs has after SIGTERM")
    run.set_defaults(do=_run)
    status = verbs.add_parser("status", help="what the agent that runs here says of itself")
    status.set_defaults(do=_status)
    for each in (join, run, status):
        each.add_argument("--settings", default=str(FILE), help=f"the host's file, {FILE} by itself")
    return parser


# -- join and status ---------------------------------------------------------------------------------------------------


def identity_of(settings: Settings) -> Path:
    return settings.folder / "identity"


def _join(asked: argparse.Namespace, settings: Settings) -> None:
    from drivers.agent.duty import identity

    try:
        token = sys.stdin.read() if asked.file == "-" else Path(asked.file).read_text()
        found = identity.join(asked.url, token, identity_of(settings), version=version(), proxy=settings.proxy)
    except OSError as error:
        _refuse(f"{error.filename}: {error.strerror}")
    except identity.IdentityError as error:
        _refuse(f"{error} [{error.code}]")
    print(f"agent {found.name} of {found.installation} serves {', '.join(found.targets)}")


def _status(asked: argparse.Namespace, settings: Settings) -> None:
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(WITHIN)
        try:
            line.connect(str(settings.folder / "socket"))
            said = b"".join(iter(lambda: line.recv(SAID), b""))
        except OSError:
            sys.exit(_at_rest(settings))
    print(said.decode(), end="")


def _at_rest(settings: Settings) -> str:
    """What the journal of an agent that does not run tells."""
    counts = {name: len(list((settings.folder / name).glob("*.json"))) for name in ("tasks", "results")}
    return (
        f"holdfast-agent: no agent runs in {settings.folder}; {counts['tasks']} tasks are unfinished, "
        f"{counts['results']} answers not acknowledged"
    )


# -- run ---------------------------------------------------------------------------------------------------------------


def _run(asked: argparse.Namespace, settings: Settings) -> None:
    import anyio

    from drivers.agent.duty.identity import IdentityError
    from drivers.agent.duty.journal import Full, Taken

    _logging()
    lighten()
    try:
        trial = anyio.run(_Run(settings, asked.grace).serve)
    except (IdentityError, Taken, Full) as error:
        _refuse(str(error))
    if trial is not None and settings.upgrade is not None:
        from drivers.agent.duty import upgrade

        os.environ.pop(upgrade.VARIABLE, None)
        program = upgrade.watched(settings.upgrade, trial, sys.argv[1:])
        os.execv(program[0], program)  # noqa: S606 - this process becomes the program, without a shell


def lighten() -> None:
    """Leave out what Docker's client loads to guess how answers are encoded: an engine says so, and it takes 2 MiB."""
    import warnings

    warnings.filterwarnings("ignore", message="Unable to find acceptable character detection dependency")
    sys.modules.setdefault("charset_normalizer", None)  # type: ignore[arg-type]  # so an import of it fails


def _logging() -> None:
    """Lines to standard error; whoever runs the agent keeps them."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("websockets").setLevel(logging.WARNING)


class _Run:
    """One run of the agent, from its start to its end."""

    def __init__(self, settings: Settings, grace: float) -> None:
        from drivers.agent.duty.identity import Identity

        self._settings, self._grace = settings, grace
        self._identity: Identity = Identity.load(identity_of(settings))
        self._tls: tuple[str, ssl.SSLContext] | None = None
        self._trial: Trial | None = None

    async def serve(self) -> Trial | None:
        """Until somebody asks it to end, or to make room for another version: that one's trial is the answer."""
        import anyio

        from drivers.agent.channels.channel import connected
        from drivers.agent.duty.agent import Agent
        from drivers.agent.duty.journal import Journal

        self._leaving, self._welcomed = anyio.Event(), anyio.Event()
        journal = Journal(self._settings.folder)
        try:
            self._agent = agent = Agent(self._parts(journal))
            async with anyio.create_task_group() as group:
                await group.start(self._signals)
                group.start_soon(agent.run)
                group.start_soon(self._answer)
                group.start_soon(self._renew)
                group.start_soon(self._keep, connected)
                _tell_ready()
                await self._leaving.wait()
                await agent.carrier.drain(self._grace)
                group.cancel_scope.cancel()
        finally:
            journal.close()
        return self._trial

    def _parts(self, journal: Any) -> Any:
        from drivers.agent.duty.agent import Parts
        from drivers.agent.duty.clock import Clock
        from drivers.agent.duty.own import Own

        found = self._identity
        own = Own(
            agent=found.name,
            installation=found.installation,
            signing=found.signing,
            sealing=found.sealing,
            signers=found.signers,
        )
        return Parts(
            own=own,
            settings=self._settings,
            journal=journal,
            clock=Clock(),
            targets=found.targets,
            generation=lambda: self._identity.generation,
            version=version(),
            upgrade=self._upgrade(),
        )

    def _upgrade(self) -> Callable[[Any], Awaitable[Any]] | None:
        if self._settings.upgrade is None:
            return None
        from drivers.agent.duty.upgrade import Upgrades

        return Upgrades(self._settings.upgrade, self._make_room, lambda: self._welcomed.wait()).upgrade

    def _make_room(self, trial: Trial) -> None:
        self._trial = trial
        self._leaving.set()

    async def _signals(self, *, task_status: Any) -> None:
        import anyio

        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as told:
            task_status.started()
            async for number in told:
                _log.info("%s: what runs is finished within %g s", signal.Signals(number).name, self._grace)
                self._leaving.set()

    async def _keep(self, connected: Callable[..., Awaitable[None]]) -> None:
        """Channels to every server that is known."""
        from drivers.agent.channels.channel import Proxy, Way

        servers = tuple(dict.fromkeys((*self._identity.servers, *self._settings.servers)))
        proxy = Proxy(url=self._settings.proxy) if self._settings.proxy else None
        way = Way(self._settings.way)
        await connected(servers, self._context, self._agent.hello, self._met, way=way, proxy=proxy)

    async def _met(self, channel: Any, welcome: Any) -> None:
        self._welcomed.set()
        await self._agent.met(channel, welcome)

    def _context(self) -> ssl.SSLContext:
        """The same as long as the certificate is the same."""
        if self._tls is None or self._tls[0] != self._identity.certificate:
            self._tls = self._identity.certificate, self._identity.tls()
        return self._tls[1]

    async def _renew(self) -> None:
        """A new certificate with a new key in time, or when a server asks for it."""
        import anyio
        import anyio.to_thread

        from drivers.agent.duty import identity

        while True:
            await anyio.sleep(RENEWAL)
            if not self._is_due():
                continue
            try:
                renew = lambda: identity.renew(self._identity, proxy=self._settings.proxy)  # noqa: E731
                self._identity = await anyio.to_thread.run_sync(renew)
                _log.info("renewed: generation %d", self._identity.generation)
            except identity.IdentityError as error:
                _log.error("the certificate cannot be renewed: %s: %s", error.code, error)

    def _is_due(self) -> bool:
        from datetime import UTC, datetime

        return self._agent.asked_to_renew or datetime.now(UTC) >= self._identity.renews_at()

    async def _answer(self) -> None:
        """Whoever may read the state directory may ask how it stands."""
        import anyio

        path = self._settings.folder / "socket"
        path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            listener = await anyio.create_unix_listener(path)
        except OSError as error:  # such as a path that is too long for one
            _log.error("nobody can ask how this agent stands: %s: %s", path, error.strerror or error)
            return
        finally:
            os.umask(before)

        async def say(stream: Any) -> None:
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                async with stream:
                    await stream.send(json.dumps(self._said(), indent=1).encode() + b"\n")

        async with listener:
            await listener.serve(say)

    def _said(self) -> dict[str, Any]:
        agent: Agent = self._agent
        return {
            "agent": self._identity.name,
            "version": version(),
            "generation": self._identity.generation,
            "targets": list(self._identity.targets),
            "connected": list(agent.connected),
            "queue": agent.carrier.queue,
            "pid": os.getpid(),
        } | agent.status()


def _tell_ready() -> None:
    """To systemd, where it started us and waits for that."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line, suppress(OSError):
            line.connect("\0" + address[1:] if address.startswith("@") else address)
            line.send(b"READY=1")


if __name__ == "__main__":
    main()
