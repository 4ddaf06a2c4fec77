"""Programs of the user's own beside a deployment, run on this host: argv and declared environment only, a process group
that does not outlive its deadline, and bubblewrap around it where that works.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final

import anyio
from anyio.abc import ByteReceiveStream, Process

from desired_state.hooks import Hook
from desired_state.secrets import SecretRef
from drivers.contract import Ended, Errand, Run
from drivers.process import host
from stickers.redaction import Redactor

SHOWN: Final = 400  # characters of its output that a failure shows, the last ones
READ: Final = 64 * 1024  # bytes of its output that are kept at all
GRACE: Final = 2.0  # seconds between asking its processes to end and ending them
PAUSE: Final = 0.02

Secret = Callable[[SecretRef], Awaitable[str]]


class Runner:
    """What `Tools.hook` is where hooks are allowed. Answers None, or a sentence that says how it failed."""

    def __init__(self, redactor: Redactor, secret: Secret) -> None:
        self._redactor, self._secret = redactor, secret

    async def __call__(self, hook: Hook, about: Mapping[str, str], there: Run | None = None, /) -> str | None:
        """Errors of `drivers.errors` where a secret cannot be had; `about` is told as variables HOLDFAST_*."""
        declared = {name: await self._value(value) for name, value in hook.environment}
        told = {f"HOLDFAST_{name.upper()}": value for name, value in about.items()}
        errand = Errand(argv=hook.argv, environment={"PATH": host.PATH} | declared | told, within=hook.deadline)
        ended = await (there or _here)(errand)
        if ended.exit_code == 0:
            return None
        said = self._redactor.clean(ended.said).strip()
        words = f"{hook} on the target" if there else str(hook)
        return f"{words}: {ended.why}" + (f": …{said[-SHOWN:]}" if len(said) > SHOWN else f": {said}" if said else "")

    async def _value(self, value: str | SecretRef) -> str:
        return value if isinstance(value, str) else await self._secret(value)


async def _here(errand: Errand) -> Ended:
    try:
        code, output = await _run(errand)
    except OSError as error:
        return Ended(exit_code=127, why=f"cannot be run: {error.strerror}", said="")
    why = f"did not end within {errand.within.total_seconds():g} s" if code is None else f"exit code {code}"
    return Ended(exit_code=code, why=why, said=output.decode(errors="replace"))


async def _run(errand: Errand) -> tuple[int | None, bytes]:
    """Its exit code, None when it was ended at its deadline, and the end of what it printed."""
    if not await anyio.to_thread.run_sync(host.sandboxed):
        return await ran(errand)
    for _ in range(host.TRIES):
        code, output, begun = await _ran_in_sandbox(errand)
        if begun or code is None or b"bwrap: execvp" in output:
            break
        await anyio.sleep(PAUSE)
    return code, output


async def _ran_in_sandbox(errand: Errand) -> tuple[int | None, bytes, bool]:
    """Whether it was begun, too: bubblewrap tells an exit code where it has carried the program out, and only there."""
    told, tell = os.pipe()
    try:
        try:
            code, output = await ran(errand, (*host.SANDBOX, "--json-status-fd", str(tell), "--"), tell)
        finally:
            os.close(tell)
        return code, output, b"exit-code" in os.read(told, READ)
    finally:
        os.close(told)


async def ran(errand: Errand, around: tuple[str, ...] = (), *fds: int) -> tuple[int | None, bytes]:
    """Whatever it left in its process group has ended."""
    process = await anyio.open_process(
        [*around, *errand.argv],
        pass_fds=fds,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=errand.environment,
        cwd="/",
        start_new_session=True,
    )
    assert process.stdout is not None
    kept = bytearray()
    code: int | None = None
    try:
        async with anyio.create_task_group() as reading:
            reading.start_soon(_keep, process.stdout, kept)
            with anyio.move_on_after(errand.within.total_seconds()):
                code = await process.wait()
            await _end_group(process)
            reading.cancel_scope.deadline = anyio.current_time() + GRACE  # who has left the group may hold it open
    finally:
        with anyio.CancelScope(shield=True):
            await _end_group(process)
            await process.aclose()
    return code, bytes(kept)


async def _keep(stream: ByteReceiveStream, kept: bytearray) -> None:
    async for piece in stream:
        kept += piece
        del kept[:-READ]


async def _end_group(process: Process) -> None:
    """Its process group: those who hold its output open, too."""
    for word in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, word)
        except ProcessLookupError:
            return
        for _ in range(int(GRACE / PAUSE)):
            if not _left(process.pid):
                return
            await anyio.sleep(PAUSE)


def _left(group: int) -> bool:
    with suppress(ProcessLookupError):
        os.killpg(group, 0)
        return True
    return False
