"""The host's side of the systemd driver as one file of Python."""

from __future__ import annotations

from drivers.process import parcel as parcels


def parcel() -> bytes:
    return parcels.parcel("process.host", "systemd.unit", "systemd.host")
