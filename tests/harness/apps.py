"""A tiny web application in several versions, packed as images: what tests deploy to plain hosts.

It needs no more than a Python and answers `GET /` with its version and `GET /health` with 200, or what its character
says. The port comes from PORT, or from what the process driver tells it of its port 8080.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Final

from drivers.oci import layout
from stickers.names import Artifact

REPOSITORY: Final = "registry.example.com/shop/web"
COMMAND: Final = (sys.executable, "-I", "-S", "app.py")  # no site packages: it starts in 15 ms


class Character(StrEnum):
    GOOD = "good"
    BAD = "bad"  # answers 500 when its health is asked
    CRASH = "crash"  # ends with code 3 as soon as it listens
    STUBBORN = "stubborn"  # does not end when told to


PROGRAM: Final = """\
import os, signal, socket, sys

version, character = open("version").read().split()
if character == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
ear = socket.create_server(("127.0.0.1", int(os.environ.get("PORT") or os.environ["HOLDFAST_PORT_8080"])))
print("shop", version, "listens", flush=True)
if character == "crash":
    sys.exit(3)
while True:
    line, _ = ear.accept()
    with line:
        line.settimeout(1)
        try:
            path = line.recv(4096).split(b" ")[1]
            status = "500 Bad" if path == b"/health" and character == "bad" else "200 OK"
            answer = "HTTP/1.1 %s\\r\\nContent-Length: %d\\r\\nConnection: close\\r\\n\\r\\nshop %s\\n"
            line.sendall((answer % (status, len(version) + 6, version)).encode())
        except (OSError, IndexError):
            pass
"""


def pack(images: Path, version: str, character: Character = Character.GOOD) -> Artifact:
    """The version as an image of the layout, which is made when missing. The same words give the same digest."""
    source = Path(tempfile.mkdtemp(prefix="hf-app-"))
    try:
        (source / "app.py").write_text(PROGRAM)
        (source / "version").write_text(f"{version} {character}\n")
        return Artifact(REPOSITORY, layout.pack(source, images, argv=COMMAND))
    finally:
        shutil.rmtree(source)
