"""Somebody's own deploy tool, as the script driver's tests bring it: one process, kept in one file.

The action is its only word; everything else comes in the environment and as JSON on standard input. `APPS` names a
directory with one folder for each artifact that it can start. It is started several times for each look, so it imports
next to nothing.
"""

from __future__ import annotations

import json
import os
import sys
import time

TYPE_CHECKING = False  # as type checkers know it; `typing` takes longer to import than a look takes
if TYPE_CHECKING:
    from typing import Any

SIGKILL = 9
DIRECTORY = os.environ["HOLDFAST_DIRECTORY"]
STATE = os.path.join(DIRECTORY, "app.json")


def state() -> dict[str, Any] | None:
    if not os.path.exists(STATE):
        return None
    with open(STATE) as file:
        found: dict[str, Any] = json.load(file)
    return found


def alive(found: dict[str, Any]) -> bool:
    try:
        with open(f"/proc/{found['pid']}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] not in "ZX" and fields[19] == str(found["ticks"])


def end() -> None:
    found = state()
    if found and alive(found):
        os.kill(found["pid"], SIGKILL)
        while alive(found):
            time.sleep(0.005)


def spawn(argv: list[str], folder: str, environment: dict[str, str]) -> int:
    os.chdir(folder)
    null = [(os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0) for number in (0, 1)]
    return os.posix_spawn(argv[0], argv, environment, file_actions=null)


def start(order: dict[str, Any]) -> None:
    placement = order["placement"]
    artifact = placement["artifact"].rpartition("@")[2]
    found = {"artifact": artifact, "key": order["key"], "pid": None, "ticks": None, "started_at": time.time()}
    folder = os.path.join(os.environ["APPS"], artifact.replace(":", "-"))
    if not os.path.isdir(folder):
        sys.exit("there is no such artifact as " + artifact)
    if placement["running"]:
        argv = [sys.executable, "-I", "-S", "app.py"]
        child = spawn(argv, folder, placement["configuration"]["environment"])
        with open(f"/proc/{child}/stat") as file:
            found.update(pid=child, ticks=file.read().rpartition(")")[2].split()[19])
    write(found)


def write(found: dict[str, Any]) -> None:
    with open(STATE + ".new", "w") as file:
        json.dump(found, file)
    os.rename(STATE + ".new", STATE)


def version() -> None:
    found = state()
    if found:
        keys = {name: found[name] for name in ("artifact", "started_at")}
        told = {"instance": f"{found['pid']}:{found['ticks']}", "state": "running" if alive(found) else "stopped"}
        print(json.dumps({**keys, **told}))


def remove() -> None:
    end()
    if os.path.exists(STATE):
        os.unlink(STATE)


if __name__ == "__main__":
    action = sys.argv[1]
    if action == "version":
        version()
    elif action == "remove":
        remove()
    elif action in ("deploy", "restart"):
        end()
        start(json.load(sys.stdin))
    else:
        sys.exit(f"what is {action}?")
