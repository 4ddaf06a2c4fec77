"""What this host lacks to be the one that holds others to their releases: keys, a place for its state, room."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

from api import keys
from api.problem import Problem
from api.settings import Settings
from drivers import diagnosis
from drivers.contract import Diagnosis
from drivers.diagnosis import missing, ok, warning
from drivers.process import host


def examined(settings: Settings) -> tuple[Diagnosis, ...]:
    place = _nearest(settings.state.absolute())
    room = shutil.disk_usage(place)
    return (
        _keys(settings),
        _state(settings, place),
        diagnosis.disk(str(place), free=room.free, size=room.total),
        _daemon(settings),
        _hooks(),
    )


def _keys(settings: Settings) -> Diagnosis:
    try:
        keys.load_signer(settings.keys)
    except Problem as problem:
        return missing("keys", problem.detail, "holdfast keys init")
    return ok("keys", f"{settings.keys} holds the key that signs")


def _state(settings: Settings, place: Path) -> Diagnosis:
    if not place.is_dir():
        return missing("state", f"{place} is no directory", "set HOLDFAST_STATE to another")
    if not os.access(place, os.W_OK | os.X_OK):
        return missing(
            "state", f"user {os.geteuid()} may not write in {place}", "run as the daemon's user, or set HOLDFAST_STATE"
        )
    return ok(
        "state", f"{settings.state} is there" if place == settings.state.absolute() else f"{settings.state} can be made"
    )


def _hooks() -> Diagnosis:
    """What holds programs of the user's own back on this host."""
    try:
        enforced = host.sandboxed()
    except (OSError, subprocess.SubprocessError):
        enforced = False
    if enforced:
        return ok("hooks", "run in bubblewrap: the file system read-only but /tmp, processes of their own")
    said = "hooks on this host run as you, in a process group that ends at its deadline, and nothing else holds them"
    return warning("hooks", said, "install bubblewrap where user namespaces are allowed")


def _daemon(settings: Settings) -> Diagnosis:
    if not settings.socket.exists():
        return ok("daemon", f"none runs on {settings.state}; commands do the work themselves")
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(2)
            line.connect(str(settings.socket))
    except PermissionError:
        return warning("daemon", f"{settings.socket} belongs to another user", "run as the user of the daemon")
    except OSError:
        return warning("daemon", f"nobody listens at {settings.socket}: it was killed", "holdfast run")
    return ok("daemon", f"one runs on {settings.state}")


def _nearest(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
