"""The line to another machine: the same requests, as JSON lines over its kept SSH connection, to the same file that
answers them here. One program a host for all targets, looks and actions.

Looking changes nothing, so a host that was only looked at keeps nothing of ours; who acts there leaves the file below
the target's own root, known by its digest, and from then on it need not be sent any more.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tarfile
import tempfile
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import anyio
import anyio.lowlevel
import anyio.to_thread

from drivers.errors import DriverError, OutcomeUnknown, Unreachable
from drivers.oci import artifacts, manifest
from drivers.oci.artifacts import Fetched
from drivers.oci.unpack import unpack
from drivers.process import host
from drivers.process.line import Raw, read
from drivers.ssh.errors import Cut, Silent
from drivers.ssh.pool import Kept
from drivers.ssh.transport import Running
from drivers.ssh.wire import Order, Wire, brought
from stickers.names import Artifact

if TYPE_CHECKING:
    from drivers.oci.registry import Access

CHANGED_WITHIN: Final = 300.0  # seconds for one change; the longest hashes and syncs a whole unpacked tree
CLOSED_WITHIN: Final = 10.0
PIECE: Final = 4 << 20  # bytes of a tree that are sent at once; whoever looks meanwhile waits for one of them
ROOTS: Final = 16  # places at which a host is asked for a kept file


class Station:
    """The program on one host."""

    def __init__(self, kept: Kept, python: str, source: bytes) -> None:
        self.kept, self._python, self._brought = kept, python, brought(source)
        self._roots: dict[str, None] = {}
        self.running = Running(kept, self._order)

    def knows(self, root: str) -> None:
        """A root in which the host may have kept the program."""
        if root not in self._roots and len(self._roots) < ROOTS:
            self._roots[root] = None

    def _order(self) -> Order:
        kept = tuple(f"{root}/.holdfast/{self._brought.file}" for root in self._roots)
        return Order(program=self._brought, python=self._python, arguments=("serve",), kept=kept)

    async def aclose(self) -> None:
        await self.running.aclose()


class FarLine:
    """Requests of one holder. What it holds, it holds for as long as the program runs that it began with: lost with
    the connection, every further request is `Cut`, and whoever continues looks and holds anew."""

    def __init__(self, station: Station) -> None:
        self.station = station
        self._name = uuid.uuid4().hex
        self._wire: Wire | None = None
        self._bench: Path | None = None  # where a tree is unpacked before it is sent

    @property
    def lost(self) -> bool:
        return self._wire is not None and self._wire.lost is not None

    async def __call__(self, do: str, where: Raw, **fields: Any) -> dict[str, Any]:
        return await self._change({"do": do, **where, **fields})

    async def see(self, do: str, where: Raw, **fields: Any) -> dict[str, Any]:
        try:
            return await self._send({"do": do, **where, **fields}, self.station.kept.ssh.answers_within)
        except Cut as error:
            if self._wire is not None:
                raise
            raise Unreachable(str(error)) from None

    async def wait(self, do: str, where: Raw, **fields: Any) -> dict[str, Any]:
        patience = float(fields.get("timeout") or fields.get("within") or 0.0)
        return await self._send({"do": do, **where, **fields}, patience + self.station.kept.ssh.answers_within)

    async def _change(self, request: Mapping[str, Any], body: bytes = b"") -> dict[str, Any]:
        await anyio.lowlevel.checkpoint_if_cancelled()
        with anyio.CancelScope(shield=True):
            if self._wire is None:
                self._wire = await self.station.running.wire()
                self._wire.hold()
            try:
                found = await self._send(request, CHANGED_WITHIN, body)
            except Silent as error:
                raise OutcomeUnknown(str(error)) from None
        await anyio.lowlevel.checkpoint()
        return found

    async def _send(self, request: Mapping[str, Any], within: float, body: bytes = b"") -> dict[str, Any]:
        with self.station.kept.used():
            wire = self._wire or await self.station.running.wire()
            return read(await wire.ask({**request, "of": self._name}, within=within, body=body))

    async def aclose(self) -> None:
        """Everything is let go when this returns, unless the host is lost, which lets go by itself."""
        if self._wire is not None:
            wire, self._wire = self._wire, None
            with suppress(DriverError):
                await wire.ask({"do": "close", "of": self._name}, within=CLOSED_WITHIN)
            wire.let_go()
        self._clear()

    def _clear(self) -> None:
        """What was unpacked here has been sent, or is not wanted any more."""
        if self._bench is not None:
            shutil.rmtree(self._bench, ignore_errors=True)
            self._bench = None

    # -- bringing a release ------------------------------------------------------------------------------------------

    async def fetch(self, artifact: Artifact, source: str, access: Access | None, staged: Raw) -> Fetched:
        wire = self._wire or await self.station.running.wire()
        self._clear()
        self._bench = Path(tempfile.mkdtemp(prefix="holdfast-"))
        layers = self._bench / "layers"
        layers.mkdir()
        return await artifacts.fetch(artifact, source, layers, access, manifest.machine_of(wire.machine))

    async def unpack(self, fetched: Fetched, where: Raw, staged: Raw) -> None:
        """Unpacked and judged here, sent as what came of it, compared with its digest there."""
        assert self._bench is not None
        archive, digest = await anyio.to_thread.run_sync(_packed, fetched, self._bench)
        staging = {**where, "staging": staged["staging"]}
        with archive:
            size = os.fstat(archive.fileno()).st_size
            for offset in range(0, size, PIECE):
                content = await asyncio.to_thread(os.pread, archive.fileno(), PIECE, offset)
                await self._change({"do": "bring", **staging, "offset": offset}, content)
        await self("unfold", staging, digest=digest)
        await anyio.to_thread.run_sync(self._clear)


def _packed(fetched: Fetched, bench: Path) -> tuple[BinaryIO, str]:
    """The tree as an open tar, and its digest."""
    unpack(fetched.layers, bench / "tree")
    path = bench / "tree.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(bench / "tree", arcname=".", filter=_nobody)
    shutil.rmtree(bench / "tree")
    return path.open("rb"), host.hash_file(str(path))


def _nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Who unpacked it is nobody's business."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
