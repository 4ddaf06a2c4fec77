"""What can go wrong on the way to a Windows host, as the driver's errors with codes of their own."""

from __future__ import annotations

from typing import ClassVar

from drivers.errors import Refused
from drivers.ssh.errors import Cut, NotAdmitted, Silent

__all__ = ["Cut", "ExtraMissing", "NotAdmitted", "NotBelieved", "NotWindows", "Silent"]


class ExtraMissing(Refused):
    """What this transport is made of is not installed beside the daemon; the text names the extra."""

    code: ClassVar[str] = "EXTRA_MISSING"


class NotBelieved(Refused):
    """The host's certificate is of no authority that we were given, or for another name, or out of date."""

    code: ClassVar[str] = "HOST_NOT_BELIEVED"


class NotWindows(Refused):
    """What answers there does not run our helper."""

    code: ClassVar[str] = "NO_POWERSHELL"
