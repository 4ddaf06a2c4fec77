"""The tokens that `holdfast login` keeps: one file in the user's configuration directory, for them alone to read."""

from __future__ import annotations

import json
import os
from pathlib import Path

from api.problem import Problem


def file() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "holdfast" / "tokens.json"


def of(server: str) -> str | None:
    return _read().get(server)


def keep(server: str, token: str) -> Path:
    _write(_read() | {server: token})
    return file()


def forget(server: str) -> bool:
    kept = _read()
    found = kept.pop(server, None) is not None
    if found:
        _write(kept)
    return found


def _read() -> dict[str, str]:
    try:
        descriptor = os.open(file(), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Problem("NO_FILE", f"{file()} cannot be read: {error.strerror}") from None
    with open(descriptor) as text:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise Problem("NOT_ALLOWED", f"{file()} is not yours alone; `chmod 600` it, or log in again")
        try:
            kept = json.load(text)
        except ValueError:
            raise Problem("NO_FILE", f"{file()} is damaged; remove it and log in again") from None
    return {str(server): str(token) for server, token in kept.items()} if isinstance(kept, dict) else {}


def _write(kept: dict[str, str]) -> None:
    """In the place of the old one at once, and never readable by others."""
    place = file()
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = place.with_suffix(f".{os.getpid()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w") as text:
        json.dump(kept, text, indent=2, sort_keys=True)
        text.flush()
        os.fsync(descriptor)
    beside.rename(place)
