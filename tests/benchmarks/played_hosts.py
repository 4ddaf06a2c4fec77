"""Many hosts, played by one process: real SSH on an address each, and a real look at a root of its own.
What a thousand machines would need is no figure of ours, and a thousand sshd's do not fit beside us.

    python -m tests.benchmarks.played_hosts PUBLIC_KEY HOSTS PORT     says its host key, plays until its input ends
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from typing import Any, Final

import anyio
import asyncssh

from drivers.process import host

GREETING: Final = b'{"holdfast": 1, "send": false, "machine": "x86_64", "version": [3, 11, 0]}\n'


def address(number: int) -> str:
    return f"127.2.{number // 250}.{number % 250 + 1}"


class Stage(asyncssh.SSHServer):
    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn

    def session_requested(self) -> Any:
        return self._connection.create_server_channel(encoding=None), Part()

    def begin_auth(self, username: str) -> bool:
        return True


class Part(asyncssh.SSHServerSession[bytes]):
    """The loader and the program behind it. A look is answered as the first one to the same question was."""

    answers: Final[dict[str, str]] = {}

    def __init__(self) -> None:
        self._heard, self._loaded = b"", False
        self._channel: Any = None

    def connection_made(self, chan: Any) -> None:
        self._channel = chan

    def exec_requested(self, command: str) -> bool:
        return True

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._heard += data
        if not self._loaded:
            self._load()
        while self._loaded and b"\n" in self._heard:
            line, _, self._heard = self._heard.partition(b"\n")
            self._answer(json.loads(line))

    def _load(self) -> None:
        """As long as the loader says it is, and its order in the line after it."""
        _, _, rest = self._heard.partition(b"\n")
        size, _, rest = rest.partition(b"\n")
        if size.isdigit() and b"\n" in rest[int(size) :]:
            self._heard = rest[int(size) :].partition(b"\n")[2]
            self._loaded = True
            self._channel.write(GREETING)

    def _answer(self, ask: dict[str, Any]) -> None:
        number = ask.pop("id", None)
        if number is None:
            return
        ask.pop("of", None)
        question = json.dumps(ask)
        if question not in self.answers:
            self.answers[question] = json.dumps(host.Session().answer(ask))[1:]
        self._channel.write(f'{{"id": {number}, {self.answers[question]}\n'.encode())


async def play(public: str, many: int, port: int) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    listener = await asyncssh.create_server(
        Stage,
        [address(number) for number in range(many)],  # type: ignore[arg-type]
        port,
        server_host_keys=[key],
        authorized_client_keys=asyncssh.import_authorized_keys(public),
        encryption_algs=["aes128-gcm@openssh.com"],
        login_timeout=120,
        backlog=1000,
    )
    print(key.export_public_key().decode().strip(), flush=True)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    listener.close()


if __name__ == "__main__":
    gc.set_threshold(10_000, 10, 10)  # what it collects is no host's
    anyio.run(play, sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), backend_options={"use_uvloop": True})
