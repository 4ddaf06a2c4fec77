"""``file:/absolute/path``: the content of a regular file, without the line break at its end."""

from __future__ import annotations

import errno
import os
import stat
from functools import partial
from typing import Final

import anyio.to_thread

from desired_state.secrets import SecretRef
from drivers.errors import Refused

LARGEST: Final = 64 * 1024  # bytes


async def read(secret: SecretRef) -> str:
    """The file's text. Links, directories, pipes and files above 64 KiB are refused."""
    call = partial(text, secret, secret.path, LARGEST)
    content = await anyio.to_thread.run_sync(call, abandon_on_cancel=True)
    return content.removesuffix("\n").removesuffix("\r")


def text(secret: SecretRef, path: str, largest: int) -> str:
    """The text of a regular file that the secret needs. Blocks."""
    if not path.startswith("/"):
        raise Refused(f"secret {secret.reference}: expected file: and an absolute path")
    try:
        return _content(secret, path, largest).decode()
    except OSError as error:
        reason = "a link, which is not followed" if error.errno == errno.ELOOP else error.strerror
        raise Refused(f"secret {secret.reference}: {reason}") from None
    except UnicodeDecodeError:
        raise Refused(f"secret {secret.reference}: the file is not UTF-8 text") from None
    except ValueError:
        raise Refused(f"secret {secret.reference}: expected file: and an absolute path") from None


def _content(secret: SecretRef, path: str, largest: int) -> bytes:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise Refused(f"secret {secret.reference}: not a regular file")
        content = file.read(largest + 1)
    if len(content) > largest:
        raise Refused(f"secret {secret.reference}: the file has more than {largest} bytes")
    return content
