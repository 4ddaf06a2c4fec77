"""Commands without a route of their own under `/api/v1`, each with its reason; a test holds all others to theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

WITHOUT_ROUTE: Final[Mapping[str, str]] = {
    "follow": "GET …/jobs/{number}/events follows a job, and can be taken up again",
    "whoami": "GET /api/v1/whoami stands with the login, where its CSRF token is known",
    "backup": "it writes a file on the daemon's host, which whoever comes over HTTP has no business to name",
    "audit_export": "it is a stream of JSON lines with signed checkpoints, as /v1/audit_export on the command wire; "
    "GET /api/v1/audit pages through the same entries",
}
