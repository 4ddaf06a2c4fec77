"""A client inside a container's network: resolves names and asks over HTTP, one command a line, one answer a line.

    ask NAME PORT PATH            who answers; an address once resolved is kept for as long as the name has it
    load NAME PORT PATH CLIENTS   clients that ask without pause, each resolving anew
    stop                          what the clients saw

Run by file path within the container's network namespace, so it stands on the standard library alone.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import struct
import sys
import threading
import time
from collections import Counter

RESOLVER = ("127.0.0.11", 53)  # the engine's own, in every container of a named network
PATIENCE = 20.0  # seconds; the machine may be loaded
STALE = 1.0  # seconds; who was not let run for longer knows the address of something that may be drained by now


def resolve(name: str) -> list[str]:
    """The addresses of the name; an `OSError` where it has none."""
    question = struct.pack(">HHHHHH", random.randrange(65536), 0x0100, 1, 0, 0, 0)
    question += b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"
    question += struct.pack(">HH", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(PATIENCE)
        asking.sendto(question, RESOLVER)
        answer = asking.recv(4096)
    count = struct.unpack(">H", answer[6:8])[0]
    found, at = [], len(question)
    for _ in range(count):
        at = _after_name(answer, at)
        kind, _, _, size = struct.unpack(">HHIH", answer[at : at + 10])
        if kind == 1:
            found.append(socket.inet_ntoa(answer[at + 10 : at + 14]))
        at += 10 + size
    if not found:
        raise OSError(f"{name} has no address")
    return found


def _after_name(answer: bytes, at: int) -> int:
    while answer[at] and answer[at] < 192:
        at += 1 + answer[at]
    return at + (2 if answer[at] >= 192 else 1)


def looked_up(name: str) -> list[str]:
    """The addresses it has now, not those it had before this process was kept from running."""
    for _ in range(5):
        began = time.monotonic()
        found = resolve(name)
        if time.monotonic() - began < STALE:
            break
    return found


def ask(address: str, port: int, path: str) -> str:
    """The body of the answer; an `OSError` where none comes."""
    with socket.create_connection((address, port), timeout=PATIENCE) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: client\r\n\r\n".encode())
        received = b""
        while piece := connection.recv(65536):
            received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise OSError(f"answered {head[:40]!r}")
    return body.decode().strip()


class Load:
    """Clients that ask until they are stopped."""

    def __init__(self, name: str, port: int, path: str, clients: int) -> None:
        self.name, self.port, self.path = name, port, path
        self.seen: Counter[str] = Counter()
        self.lost: list[str] = []
        self.longest, self.began = 0.0, time.monotonic()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._stopped.is_set():
            began = time.monotonic()
            try:
                self.seen[ask(random.choice(looked_up(self.name)), self.port, self.path)] += 1
            except OSError as error:
                self.lost.append(f"{began - self.began:.3f} after {time.monotonic() - began:.3f} s: {error}")
            self.longest = max(self.longest, time.monotonic() - began)
            time.sleep(0.002)

    def stop(self) -> dict[str, object]:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        return {"seen": dict(self.seen), "lost": self.lost, "longest": self.longest}


def main() -> None:
    kept: dict[str, str] = {}
    load: Load | None = None
    for line in sys.stdin:
        command, *words = line.split()
        if command == "ask":
            answer: object = _asked(kept, words[0], int(words[1]), words[2])
        elif command == "load":
            load = Load(words[0], int(words[1]), words[2], int(words[3]))
            answer = None
        else:
            answer = load.stop() if load else None
        print(json.dumps(answer), flush=True)


def _asked(kept: dict[str, str], name: str, port: int, path: str) -> str | None:
    with contextlib.suppress(OSError):
        addresses = looked_up(name)
        if kept.get(name) not in addresses:
            kept[name] = addresses[0]
        return ask(kept[name], port, path)
    return None


if __name__ == "__main__":
    main()
