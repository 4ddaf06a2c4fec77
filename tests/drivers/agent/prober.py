"""Somebody who asks all the while, at every place where a version may serve, and remembers when nobody answered."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable
from itertools import pairwise

WITHIN = 0.5  # seconds for one answer
PAUSE = 0.01


class Prober:
    """Each place is an address and a port; an answer at any of them counts."""

    def __init__(self, places: Iterable[tuple[str, int]]) -> None:
        self.answers: list[tuple[float, str]] = []
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=place) for place in places]

    def __enter__(self) -> Prober:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def silence(self, since: float) -> float:
        """The longest time without an answer from then until now, in seconds."""
        times = sorted([since, *(at for at, _ in self.answers if at > since), time.monotonic()])
        return max(after - before for before, after in pairwise(times))

    def versions(self, since: float) -> set[str]:
        return {answer for at, answer in self.answers if at > since}

    def _run(self, host: str, port: int) -> None:
        while not self._stopped.wait(PAUSE):
            answer = asked(host, port)
            if answer is not None:
                self.answers.append((time.monotonic(), answer))


def asked(host: str, port: int) -> str | None:
    """Which version answers there; None where the answer is cut off before its end, which is a line's."""
    try:
        with socket.create_connection((host, port), timeout=WITHIN) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            received = b"".join(iter(lambda: connection.recv(4096), b""))
    except OSError:
        return None
    head, _, body = received.partition(b"\r\n\r\n")
    return body.decode().strip() if b" 200 " in head and body.endswith(b"\n") else None
