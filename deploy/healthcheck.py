"""Exit 0 when the daemon of this container answers on its socket; the image's health check."""

import os
import socket
import sys

with socket.socket(socket.AF_UNIX) as line:
    line.settimeout(4)
    try:
        line.connect(os.path.join(os.environ.get("HOLDFAST_STATE", ".holdfast"), "holdfast.sock"))
        line.sendall(b"GET /livez HTTP/1.0\r\nHost: localhost\r\n\r\n")
        lives = b" 200 " in line.recv(64)
    except OSError as error:
        sys.exit(f"no answer: {error}")
sys.exit(0 if lives else "it answers, and not well")
