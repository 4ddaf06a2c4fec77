"""The systemd driver of a machine that is not this one: its sessions are held over there."""

from __future__ import annotations

from typing import cast

from drivers.contract import Tools
from drivers.process.host import Eyes
from drivers.systemd import host
from drivers.systemd.driver import SystemdDriver
from tests.harness.machine import Door, Machine


class Beyond(SystemdDriver):
    def __init__(self, tools: Tools, machine: Machine) -> None:
        self.machine = machine
        super().__init__(tools)

    def _new_session(self, eyes: Eyes) -> host.Session:
        return cast(host.Session, Door(self.machine))
