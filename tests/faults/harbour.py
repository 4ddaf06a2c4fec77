"""A fleet of two Docker targets held by a real daemon, and what an engine remembers of what was done there."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import docker

from drivers.docker import render
from tests.drivers.docker.caller import ask
from tests.drivers.docker.yard import Caller, Yard
from tests.harness import images
from tests.harness.held import Held
from tests.reconciler.stores import lay

TARGETS: Final = ("one", "two")
COMPONENT: Final = "api"
APPS: Final = {"1.0.0": images.ONE, "2.0.0": images.TWO, "3.0.0": images.BAD}
SERVED: Final = frozenset({"one", "two"})  # what the good versions answer
PAUSE: Final = 0.05  # seconds between two probes

Ask = Callable[[], str | None]


@dataclass
class Quay:
    """What the tests of one process share on the engine: images, a network to each target, and a client on each."""

    yard: Yard

    def network(self, target: str) -> str:
        return f"{self.yard.network}-{target}"

    @cached_property
    def callers(self) -> Mapping[str, Caller]:
        for target in TARGETS:
            pool = docker.types.IPAMPool(subnet=self._subnet(target))
            ipam = docker.types.IPAMConfig(pool_configs=[pool])
            self.yard.client.create_network(self.network(target), driver="bridge", ipam=ipam)
        return {target: self.yard.caller(self.network(target)) for target in TARGETS}

    def _subnet(self, target: str) -> str:
        """One that the engine chooses: only on networks made with a subnet do containers keep their address."""
        made = self.yard.client.create_network(self.network(target), driver="bridge")
        found = self.yard.client.inspect_network(made["Id"])["IPAM"]["Config"][0]["Subnet"]
        self.yard.client.remove_network(made["Id"])
        return str(found)


@dataclass
class Watch:
    """Every probe of every target, from several threads: when it was sent, and what was answered."""

    asks: Mapping[str, Ask]
    seen: dict[str, list[tuple[float, str | None]]] = field(default_factory=dict)

    @contextlib.contextmanager
    def keeping(self) -> Iterator[None]:
        stopped = threading.Event()
        threads = [threading.Thread(target=self._run, args=(target, stopped)) for target in self.asks]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stopped.set()
            for thread in threads:
                thread.join()

    def _run(self, target: str, stopped: threading.Event) -> None:
        answers = self.seen.setdefault(target, [])
        while not stopped.wait(PAUSE):
            answers.append((time.monotonic(), self.asks[target]()))

    def wrong(self) -> list[tuple[float, str, str | None]]:
        """Probes that no good version answered."""
        return [
            (sent, target, answer)
            for target, answers in self.seen.items()
            for sent, answer in answers
            if answer not in SERVED
        ]


class Births:
    """The labels of every container that an engine makes from now on. They are listened for: an engine that others use,
    too, has soon forgotten what it told."""

    def __init__(self, client: docker.APIClient) -> None:
        self._client = client
        self._seen: list[Mapping[str, str]] = []
        self._events = client.events(filters={"event": "create"}, decode=True)
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()
        self._reached()

    def until_now(self) -> list[Mapping[str, str]]:
        self._reached()
        return [labels for labels in self._seen if render.INSTALLATION in labels and render.ROLE in labels]

    def close(self) -> None:
        self._events.close()
        self._thread.join()

    def _listen(self) -> None:
        for event in self._events:
            self._seen.append(event["Actor"]["Attributes"] | {"id": event["Actor"]["ID"]})

    def _reached(self) -> None:
        """A volume made now is told of after all that was made before; once more, if nobody listened yet."""
        while not self._heard(within=2):
            assert self._thread.is_alive()

    def _heard(self, within: float) -> bool:
        mark, began = self._client.create_volume()["Name"], time.monotonic()
        try:
            while not (heard := any(labels["id"] == mark for labels in self._seen)):
                if time.monotonic() - began > within:
                    break
                time.sleep(0.02)
        finally:
            self._client.remove_volume(mark)
        return heard


class Harbour:
    """One installation with two targets on one engine. With `ports`, each target's service has a fixed host port."""

    def __init__(self, quay: Quay, home: Path) -> None:
        self.quay, self.yard, self.held = quay, quay.yard, Held(home)
        self.ports: dict[str, int] = {}
        self.births: Births | None = None
        lay(self.held.settings.state / "holdfast.db")  # a migration takes as long as the rest of a start
        for version, app in APPS.items():
            self.held.release(version, {COMPONENT: self.yard.artifact(app)})

    # -- what is declared -------------------------------------------------------------------------------------------

    def fix_ports(self) -> None:
        self.ports = {target: self.yard.free_port() for target in TARGETS}

    def declare(self, version: str, targets: Sequence[str] = TARGETS) -> None:
        self.held.targets({target: self._target(target) for target in targets})
        check = {"http": {"port": 8080, "path": "/cgi-bin/health"}, "interval": "50ms", "successes": 2}
        deadline = "1s" if APPS[version].health != 200 else "30s"
        self.held.environment(
            version,
            {
                COMPONENT: {
                    "health": check | {"deadline": deadline},
                    "hooks": {"pre_deploy": {"command": ["true"]}},
                    "stop_grace": "2s",
                }
            },
            sync={"mode": "automatic", "heal": "automatic", "prune": True, "removal_limit": "100%", "interval": "1s"},
            strategy={"kind": "all-at-once", "max_failures": 0},
            rollback="automatic",
        )

    def _target(self, target: str) -> dict[str, Any]:
        own: dict[str, Any] = {"networks": [self.quay.network(target)]}
        if self.ports:
            own = {"ports": [f"127.0.0.1:{self.ports[target]}:8080"]}
        connection = {"via": "local", "engine": self.yard.engine}
        return {"driver": "docker", "connection": connection, "components": {COMPONENT: own}}

    def hold(self, version: str) -> None:
        """Declare it, and let a daemon bring it everywhere; then the daemon is killed while it has nothing to do."""
        if not self.ports:
            assert self.quay.callers
        self.declare(version)
        self.held.start()
        self.held.wait(f"{version} everywhere", lambda: self.held.in_sync(version, len(TARGETS)))
        self.held.kill()
        self.births = Births(self.yard.client)

    # -- who asks ---------------------------------------------------------------------------------------------------

    @property
    def asks(self) -> dict[str, Ask]:
        """Target -> who answers there, asked as a client of the service asks."""
        return {target: self._ask(target) for target in TARGETS}

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """All the while, both targets are asked without pause, and one of the good versions must answer."""
        watch = Watch(self.asks)
        with watch.keeping():
            yield
        assert all(watch.seen.values()), f"somebody was never asked: {list(watch.seen)}"
        assert watch.wrong() == [], f"no good version answered: {watch.wrong()} of {watch.seen}"

    def _ask(self, target: str) -> Ask:
        if self.ports:
            return lambda: self._ask_host(self.ports[target])
        return lambda: self.quay.callers[target].ask(COMPONENT)

    def _ask_host(self, port: int) -> str | None:
        with contextlib.suppress(OSError):
            return ask("127.0.0.1", port, "/")
        return None

    # -- what is there ----------------------------------------------------------------------------------------------

    def workloads(self, target: str, *, running: bool = False) -> list[Mapping[str, Any]]:
        """Those that run, or all, stopped ones included."""
        found = self._containers({render.ROLE: render.WORKLOAD, render.TARGET: f"default/{target}"})
        return [one for one in found if not running or one["State"] == "running"]

    def holders(self, target: str) -> list[Mapping[str, Any]]:
        return self._containers({render.ROLE: render.STICKER, render.TARGET: f"default/{target}"})

    def _containers(self, labels: Mapping[str, str]) -> list[Mapping[str, Any]]:
        wanted = {render.INSTALLATION: self.held.installation, **labels}
        filters = {"label": [f"{name}={value}" for name, value in wanted.items()]}
        return list(self.yard.client.containers(all=True, filters=filters))

    def created(self) -> Counter[str]:
        """Action key -> how many workloads were created for it since the fleet was held."""
        assert self.births is not None
        found = [labels for labels in self.births.until_now() if self.held.installation == labels[render.INSTALLATION]]
        return Counter(labels[render.KEY] for labels in found if labels[render.ROLE] == render.WORKLOAD)

    def newest_job(self) -> str | None:
        """Its state."""
        found = self.held.jobs()
        return str(found[0]["state"]) if found else None

    def clear(self) -> None:
        """Everything of this installation off the engine."""
        self.held.kill()
        if self.births is not None:
            self.births.close()
        for one in self._containers({}) if self.held.installation else ():
            with contextlib.suppress(docker.errors.APIError):
                self.yard.client.remove_container(one["Id"], v=True, force=True)
