"""Who acts, as it is written into records."""

from __future__ import annotations

import pwd


def actor_of(uid: int) -> str:
    """How a local person is named in records: `name (uid n)`."""
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
