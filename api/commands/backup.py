"""The command that copies everything that is kept into one file, while the daemon goes on."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from api.commands.given import Given
from api.house import House
from api.problem import Problem
from reconciler.store import backup as copies

Events = AsyncGenerator[dict[str, Any], None]


async def backup(house: House, given: Given) -> Events:
    """Into a file on the host of the daemon, which must not be there yet."""
    file = Path(given.text("file"))
    if not file.is_absolute():
        raise Problem("BAD_ARGUMENT", "file is not absolute; expected a path from the root of the daemon's host")
    try:
        copied = await house.store.read(lambda c: copies.write(c, file, house.now()))
    except FileExistsError:
        raise Problem("FILE_EXISTS", f"{file} is there already, and no backup is written over another") from None
    except OSError as error:
        raise Problem("BACKUP_FAILED", f"{file} cannot be written: {error.strerror}") from None
    yield {
        "result": {
            "file": str(file),
            "installation": copied.installation,
            "at": copied.at,
            "schema": copied.revision,
            "rows": dict(copied.rows),
        }
    }
