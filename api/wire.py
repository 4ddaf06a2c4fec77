"""An event of a command as one JSON line: times in ISO 8601, whatever door it leaves by."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any


def line(event: dict[str, Any]) -> str:
    return json.dumps(event, default=_plain, ensure_ascii=False)


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
