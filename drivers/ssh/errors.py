"""What can go wrong on the way to a host, as the driver's errors with codes of their own."""

from __future__ import annotations

from typing import ClassVar

from drivers.errors import OutcomeUnknown, Refused, Unreachable


class HostKeyChanged(Refused):
    """The host shows another key than the one it is known by: another machine, or somebody in between."""

    code: ClassVar[str] = "HOST_KEY_CHANGED"


class HostUnknown(Refused):
    """Nothing that we were given says which key this host should show."""

    code: ClassVar[str] = "HOST_UNKNOWN"


class NotAdmitted(Refused):
    """The host takes none of the keys that it was offered."""

    code: ClassVar[str] = "NOT_ADMITTED"


class NoPython(Refused):
    """The host has no Python that could run the far side."""

    code: ClassVar[str] = "NO_PYTHON"


class Silent(Unreachable):
    """Nothing came back within the deadline."""

    code: ClassVar[str] = "SILENT"


class Cut(OutcomeUnknown):
    """The connection was lost after something was asked for."""

    code: ClassVar[str] = "CONNECTION_CUT"
