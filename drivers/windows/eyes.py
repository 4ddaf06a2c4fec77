"""What the helper saw of one placement, as what stands there: its services, held against the journal. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from drivers.process.host import configuration_digest
from drivers.process.line import Raw

FORMAT: Final = 1
STATES: Final = {
    "Running": "running",
    "Start Pending": "starting",
    "Continue Pending": "starting",
    "Stop Pending": "running",
    "Pause Pending": "running",
    "Paused": "stopped",
    "Stopped": "stopped",
}
ABSENT: Final[Mapping[str, Any]] = {
    "sticker": None,
    "record": None,
    "result": None,
    "fence": 0,
    "releases": [],
    "services": [],
}


@dataclass(kw_only=True)
class Record:
    """The journal of a placement. `serves` is what was begun last, before it was begun."""

    serves: str | None = None
    keys: dict[str, str] = field(default_factory=dict)  # release -> the action that began it last
    order: list[str] = field(default_factory=list)  # releases, the one that served last first
    installed: dict[str, dict[str, str]] = field(default_factory=dict)  # release -> its service as it was made

    @classmethod
    def parse(cls, text: str | None) -> Record:
        """Of a journal that cannot be read nothing is known, and nothing that runs is then as it was recorded."""
        try:
            said = json.loads(text or "{}")
            return cls(
                serves=said.get("serves"),
                keys=dict(said.get("keys", {})),
                order=[str(name) for name in said.get("order", [])],
                installed={str(name): dict(one) for name, one in said.get("installed", {}).items()},
            )
        except (ValueError, TypeError, AttributeError):
            return cls()

    def text(self) -> str:
        said = {"format": FORMAT, "serves": self.serves, "keys": self.keys, "order": self.order}
        return json.dumps({**said, "installed": self.installed}, sort_keys=True)

    def begin(self, release: str, key: str) -> None:
        self.serves, self.keys[release] = release, key
        self.order = [release, *(name for name in self.order if name != release)]

    def forget(self, releases: Sequence[str]) -> None:
        for name in releases:
            self.keys.pop(name, None)
            self.installed.pop(name, None)
        self.order = [name for name in self.order if name not in releases]
        if self.serves in releases:
            self.serves = None


class Seen:
    """One placement as it was seen once."""

    def __init__(self, raw: Raw, taken: Sequence[int] = ()) -> None:
        self.raw, self._taken = raw, taken
        self.record = Record.parse(raw["record"])
        self.services: dict[str, Raw] = {one["name"].rpartition("-")[2]: one for one in raw["services"]}
        self.releases: dict[str, Raw] = {}
        for one in raw["releases"]:
            said = _specification(one["specification"])
            if said is not None:
                self.releases[one["name"]] = said

    @property
    def active(self) -> list[str]:
        """Releases whose services are anything but stopped."""
        return sorted(name for name, one in self.services.items() if one["state"] != "Stopped")

    @property
    def everything(self) -> list[str]:
        return sorted({*self.services, *(one["name"] for one in self.raw["releases"])})

    def content(self, release: str) -> list[str]:
        said = self.releases[release]
        return [said["artifact"].rpartition("@")[2], configuration_digest(dict(said["configuration"]))]

    def instance(self, release: str) -> str:
        return f"{release}-{self.record.keys.get(release, 'nobody')[:12]}"

    def find(self, content: Sequence[str]) -> str | None:
        return next((name for name in self.releases if self.content(name) == list(content)), None)

    @property
    def kept(self) -> list[str]:
        """The predecessors, newest first."""
        return [name for name in self.record.order if name in self.releases and name != self.record.serves]

    def standing(self, component: str, slot: str, port: int | None) -> dict[str, Any]:
        serves = self.record.serves
        return {
            "component": component,
            "slot": slot,
            "sticker": self.raw["sticker"],
            "workload": self.workload(serves, port) if serves is not None else None,
            "kept": [self.content(name) for name in self.kept],
            "debris": [f"{name} runs beside it" for name in self.active if name != serves],
            "fence": self.raw["fence"],
        }

    def workload(self, release: str, port: int | None) -> dict[str, Any] | None:
        service = self.services.get(release)
        if service is None or release not in self.releases:
            return None
        differences = self.differences(release, service)
        artifact, configuration = self.content(release)
        state, ports = STATES.get(service["state"], "starting"), service["ports"]
        who = "nobody" if port not in self._taken else "ours" if port in ports else "others"
        return {
            "instance": self.instance(release),
            "instances": [self.instance(release)],
            "release": release,
            "artifact": None if any(said.startswith("command") for said in differences) else artifact,
            "configuration": None if differences else configuration,
            "state": state,
            "key": self.record.keys.get(release),
            "started_ms": service["started_ms"],
            "restarts": 0,
            "exit_code": service["exit_code"] if state == "stopped" else None,
            "differences": differences,
            "listening": {"port": port or 0, "who": who, "inodes": [service["pid"]]},
        }

    def differences(self, release: str, service: Raw) -> list[str]:
        """How the service is not the one that was made. Of the environment no value is told."""
        made = self.record.installed.get(release, {})
        found = []
        for name in ("command", "account", "environment"):
            if service[name].lower() != made.get(name, "").lower():
                shown = "" if name == "environment" else f": found {service[name][:120]}"
                found.append(f"{name}{shown or ': found another'}")
        return found


def _specification(text: str | None) -> Raw | None:
    try:
        said = json.loads(text or "")
        return said if {"artifact", "configuration", "command"} <= said.keys() else None
    except (ValueError, AttributeError):
        return None
