"""From documents to desired states: every name followed, every layer laid over the other, nothing left open. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final, Protocol, runtime_checkable

from pydantic import BaseModel

from desired_state import components, model, schema, translation
from desired_state.components import Settled
from desired_state.declarations import Declarations, Declared, Scoped
from desired_state.document import Document
from desired_state.findings import Finding, Flaw, Notes, Path, escaped, shown, some
from desired_state.model import DesiredState, Placement, Port, Release, ReleaseComponent, Target
from desired_state.secrets import SecretFile
from stickers import names
from stickers.names import Artifact, ComponentName, Digest, EnvironmentId, PlacementId, ReleaseName, TargetId

CIRCLES: Final = 20  # told at once

Connections = Mapping[str, type[BaseModel]]  # driver -> the model of its targets' connections


@runtime_checkable
class Templated(Protocol):
    """A connection that says how each component runs there; what it says is part of the component's configuration."""

    def template_of(self, component: str) -> str | None:
        """As canonical JSON; None when it says nothing of the component, which then cannot run there."""
        ...


@runtime_checkable
class Concealing(Protocol):
    """A connection to a runtime that hands secrets to a workload as files."""

    def secret_refused(self, file: SecretFile) -> str | None:
        """What the runtime expects instead of this one; None where it does as declared."""
        ...


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """What a tree of documents means. With any finding `environments` is empty: whatever could not be read may have
    belonged to any of them, and a target that is missing from a desired state would be taken for one that is gone.

    `documents` counts what was read; a tree without documents is `empty`, and whoever accepts decides what that means.
    """

    revision: str
    environments: Mapping[EnvironmentId, DesiredState] = field(default_factory=dict)
    releases: tuple[Release, ...] = ()
    findings: tuple[Finding, ...] = ()
    documents: int = 0

    @property
    def empty(self) -> bool:
        return not self.documents and not self.findings


def resolve(declarations: Declarations, connections: Connections, notes: Notes, *, revision: str) -> Resolved:
    """The desired states, or what is wrong; `notes` may bring findings of their own."""
    everything = _Everything(declarations, connections, notes)
    releases = {scoped: _release(found.said) for scoped, found in sorted(declarations.releases.items())}
    targets = _by_environment(everything)
    states = []
    for scoped, environment in sorted(declarations.environments.items()):
        release = _released(everything, environment, releases)
        if release is not None:
            places = targets.get(scoped, [])
            states.append(_Resolution(everything, environment, release, places, revision).state())
    findings = notes.sorted()
    return Resolved(
        revision=revision,
        environments={} if findings else {state.environment.id: state for state in states},
        releases=tuple(releases.values()),
        findings=findings,
        documents=len(declarations.releases) + len(declarations.environments) + len(declarations.targets),
    )


@dataclass(frozen=True, slots=True)
class _Everything:
    """What every step needs."""

    declarations: Declarations
    connections: Connections
    notes: Notes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A target with what it may run: its document, the record, and its components by name."""

    declared: Declared[schema.Target]
    target: Target
    connection: BaseModel | None


def _release(said: schema.Release) -> Release:
    parts = {ComponentName(name): _part(part) for name, part in sorted(said.components.items())}
    return Release(
        project=said.project,
        name=ReleaseName(f"{said.name}@{said.version}"),
        components=parts,
        repository=said.source.repository,
        commit=said.source.commit,
    )


def _part(said: Artifact | schema.ReleaseImage) -> ReleaseComponent:
    if isinstance(said, Artifact):
        return ReleaseComponent(artifact=said)
    return ReleaseComponent(artifact=Artifact(said.image, Digest(said.digest)), resolved_from=said.resolved_from)


def _released(
    everything: _Everything, declared: Declared[schema.Environment], releases: Mapping[Scoped, Release]
) -> Release | None:
    """The release the environment names."""
    wanted = (declared.said.project, declared.said.release)
    if wanted in releases:
        return releases[wanted]
    if not everything.declarations.may_be_unread("Release", wanted):
        known = [name for project, name in releases if project == wanted[0]]
        _unknown(everything, "release", declared, wanted[1], known)
    return None


def _by_environment(everything: _Everything) -> dict[Scoped, list[_Place]]:
    """The targets of each environment, by name."""
    found: dict[Scoped, list[_Place]] = {}
    for _, declared in sorted(everything.declarations.targets.items()):
        scoped = (declared.said.project, declared.said.environment)
        connection = _connection(everything, declared)
        if scoped in everything.declarations.environments:
            target = _target(declared.said, _plain(connection))
            found.setdefault(scoped, []).append(_Place(declared=declared, target=target, connection=connection))
        elif not everything.declarations.may_be_unread("Environment", scoped):
            known = [name for project, name in everything.declarations.environments if project == scoped[0]]
            _unknown(everything, "environment", declared, scoped[1], known)
    return found


def _unknown(everything: _Everything, what: str, declared: Declared[Any], name: str, known: list[str]) -> None:
    notes, path = everything.notes, (what,)
    nearest = notes.nearest(name, known)
    expected = (
        f"the name of {'an' if what[0] in 'aeiou' else 'a'} {what} that is declared in project {declared.said.project}"
    )
    code, found = f"{what.upper()}_UNKNOWN", shown(name, path)
    notes.add(declared.document.finding(Flaw(code=code, path=path, found=found, expected=expected, nearest=nearest)))


def _connection(everything: _Everything, declared: Declared[schema.Target]) -> BaseModel | None:
    """The connection, as its driver's model reads it."""
    notes, driver = everything.notes, declared.said.driver
    if driver not in everything.connections:
        known = sorted(everything.connections)
        nearest = notes.nearest(driver, known)
        expected = f"one of {some(known)}" if known else "a driver that is installed"
        found = shown(driver, ("driver",))
        flaw = Flaw(code="DRIVER_UNKNOWN", path=("driver",), found=found, expected=expected, nearest=nearest)
        notes.add(declared.document.finding(flaw))
        return None
    return translation.read(declared.document, everything.connections[driver], notes, ("connection",))


def _plain(connection: BaseModel | None) -> Mapping[str, Any]:
    """As plain data; defaults are left out, so that a new one changes no desire."""
    return {} if connection is None else connection.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def _target(said: schema.Target, connection: Mapping[str, Any]) -> Target:
    return Target(
        id=TargetId(f"{said.project}/{said.name}"),
        environment=EnvironmentId(f"{said.project}/{said.environment}"),
        driver=said.driver,
        labels=said.labels,
        connection=connection,
    )


class _Resolution:
    """One environment on its way to its desired state."""

    def __init__(
        self,
        everything: _Everything,
        declared: Declared[schema.Environment],
        release: Release,
        places: list[_Place],
        revision: str,
    ) -> None:
        self.everything, self.notes = everything, everything.notes
        self.said, self.document, self.whole = declared.said, declared.document, declared.whole
        self.release, self.places, self.revision = release, places, revision
        self.released = everything.declarations.releases[declared.said.project, release.name].document
        self.id = names.environment_id(declared.said.project, declared.said.name)
        self.shared: dict[ComponentName, Settled | None] = {}
        self.used: set[ComponentName] = set()

    def state(self) -> DesiredState:
        self._check_components(self.document, self.said.components)
        self._check_strategy()
        after = self._after()
        placements = tuple(placement for place in self.places for placement in self._placements(place))
        self._check_used()
        return DesiredState(
            environment=self._environment(after),
            release=self.release,
            targets=tuple(place.target for place in self.places),
            placements=placements,
            revision=self.revision,
        )

    def _environment(self, after: Mapping[ComponentName, tuple[ComponentName, ...]]) -> model.Environment:
        said = self.said
        wave, percent = said.strategy.wave
        return model.Environment(
            id=self.id,
            release=self.release.name,
            suspend=model.Suspension(reason=said.suspend.reason, until=said.suspend.until) if said.suspend else None,
            sync=model.Sync(**{name: getattr(said.sync, name) for name in schema.Sync.model_fields}),
            strategy=model.Strategy(
                kind=said.strategy.kind, wave=wave, percent=percent, max_failures=said.strategy.max_failures
            ),
            rollback=said.rollback,
            after=after,
            keep=said.keep,
        )

    # -- what the environment says as a whole -----------------------------------------------------------------------

    def _check_components(self, document: Document, said: Mapping[str, schema.Component]) -> None:
        """Every component that is spoken of is of the release."""
        for name in said:
            if name not in self.release.components:
                self._component_unknown(document, ("components", name), name, key=True)

    def _component_unknown(self, document: Document, path: Path, name: str, *, key: bool = False) -> None:
        if not self.released.whole or self.released.has(("components", name)):
            return  # the release may have it, and could not be read there
        flaw = Flaw(
            code="COMPONENT_UNKNOWN",
            path=path,
            found=f"the component {escaped(name)}",
            expected=f"a component of {self.release.name}: {some(self.release.components)}",
            nearest=self.notes.nearest(name, self.release.components),
            key=key,
        )
        self.notes.add(document.finding(flaw))

    def _check_strategy(self) -> None:
        strategy = self.said.strategy
        if strategy.kind is model.StrategyKind.ALL_AT_ONCE and "wave" in strategy.model_fields_set:
            path = ("strategy", "wave")
            expected = "none: all-at-once is one wave"
            flaw = Flaw(code="WAVE_UNUSED", path=path, found="a wave", expected=expected, key=True)
            self.notes.add(self.document.finding(flaw))

    def _after(self) -> dict[ComponentName, tuple[ComponentName, ...]]:
        after: dict[ComponentName, tuple[ComponentName, ...]] = {}
        for name, component in sorted(self.said.components.items()):
            for index, before in enumerate(component.after or ()):
                if before not in self.release.components:
                    self._component_unknown(self.document, ("components", name, "after", index), before)
            if component.after:
                after[ComponentName(name)] = tuple(sorted({ComponentName(before) for before in component.after}))
        self._check_cycles(dict(after))
        return after

    def _check_cycles(self, after: dict[ComponentName, tuple[ComponentName, ...]]) -> None:
        """Each circle once, at the component whose name comes first; of many, some."""
        for _ in range(CIRCLES):
            try:
                TopologicalSorter(after).prepare()
                return
            except CycleError as error:
                circle: list[ComponentName] = error.args[1][:-1]
            first = circle.index(min(circle))
            ordered = [*circle[first:], *circle[:first], circle[first]]
            found = "a circle: " + " before ".join(ordered)
            path = ("components", ordered[0], "after")
            expected = "an order that has a beginning"
            flaw = Flaw(code="AFTER_CIRCLE", path=path, found=escaped(found), expected=expected)
            self.notes.add(self.document.finding(flaw))
            del after[ordered[0]]

    def _check_used(self) -> None:
        """A component that no target runs is half a release, unless the environment says that it may be so."""
        if not self.places or not self.whole or self.everything.declarations.any_unread("Target"):
            return
        for name in self.release.components:
            said = self.said.components.get(name)
            if name not in self.used and not (said and said.optional):
                found = f"the component {name} on no target"
                expected = "labels of a target in its select, or optional: true"
                path = ("components", name, "select") if said else ("release",)
                flaw = Flaw(code="COMPONENT_UNUSED", path=path, found=found, expected=expected)
                self.notes.add(self.document.finding(flaw))

    # -- what runs on one target ------------------------------------------------------------------------------------

    def _placements(self, place: _Place) -> Iterator[Placement]:
        said, document = place.declared.said.components, place.declared.document
        self._check_components(document, said)
        certain = self.whole and place.declared.whole  # else labels or ports may not be those that were meant
        ports: dict[ComponentName, tuple[Port, ...]] = {}
        for name, part in self.release.components.items():
            own = said.get(name)
            if not self._selected(name, place.target):
                if own is not None and certain:
                    self._not_here(name, document)
                continue
            self.used.add(name)
            settled = self._shared(name) if own is None else self._own(name, own, document)
            if settled is not None and self._may_have_files(place, name, settled):
                ports[name] = settled.configuration.ports
                yield self._placement(place.target, name, part, self._templated(place, name, settled))
        if certain:
            self._check_ports(ports, document)

    def _may_have_files(self, place: _Place, name: ComponentName, settled: Settled) -> bool:
        """Whether the runtime hands over secrets as they are declared."""
        if not settled.configuration.secrets or place.connection is None:
            return True
        layers = (
            (place.declared.document, ("components", name)),
            (self.document, ("components", name)),
        )
        if not isinstance(place.connection, Concealing):
            document, path = _layer(layers, ("secrets",))
            found = f"secrets as files on {place.target.id}"
            expected = f"none there: a {place.target.driver} target has them in environment alone"
            self.notes.add(document.finding(Flaw(code="SECRETS_NOT_HERE", path=path, found=found, expected=expected)))
            return False
        for file in settled.configuration.secrets:
            if why := place.connection.secret_refused(file):
                document, path = _layer(layers, ("secrets", file.name, "path"))
                found = f"the secret {escaped(file.name)} on {place.target.id}"
                self.notes.add(document.finding(Flaw(code="SECRET_NOT_HERE", path=path, found=found, expected=why)))
                return False
        return True

    def _placement(self, target: Target, name: ComponentName, part: ReleaseComponent, settled: Settled) -> Placement:
        return Placement(
            id=PlacementId(target.id, name),
            environment=self.id,
            release=self.release.name,
            artifact=part.artifact,
            configuration=settled.configuration,
            health=settled.health,
            hooks=settled.hooks,
            proxy=settled.proxy,
            running=settled.running,
        )

    def _templated(self, place: _Place, name: ComponentName, settled: Settled) -> Settled:
        """With what the target's own template says of the component."""
        if not isinstance(place.connection, Templated):
            return settled
        text = place.connection.template_of(name)
        if text is None:
            found, expected = f"nothing of the component {name}", "a part of that name: it is to run here"
            path = ("connection", "template")
            flaw = Flaw(code="TEMPLATE_SILENT", path=path, found=found, expected=expected)
            self.notes.add(place.declared.document.finding(flaw))
        return replace(settled, configuration=replace(settled.configuration, template=text))

    def _selected(self, name: ComponentName, target: Target) -> bool:
        said = self.said.components.get(name)
        return all(target.labels.get(label) == value for label, value in ((said and said.select) or {}).items())

    def _not_here(self, name: ComponentName, document: Document) -> None:
        expected = "labels that its select asks for, or nothing said of it here"
        found = f"the component {name}, which this target does not run"
        path = ("components", name)
        flaw = Flaw(code="COMPONENT_NOT_HERE", path=path, found=found, expected=expected, key=True)
        self.notes.add(document.finding(flaw))

    def _shared(self, name: ComponentName) -> Settled | None:
        """What every target runs that says nothing of its own."""
        if name not in self.shared:
            base: schema.Component = self.said.components.get(name) or schema.Component()
            layers = ((self.document, ("components", name)),)
            found = [*components.nulls(base, None), *components.flaws(base)]
            self.shared[name] = self._settled(base, found, layers)
        return self.shared[name]

    def _own(self, name: ComponentName, own: schema.Component, document: Document) -> Settled | None:
        base = self.said.components.get(name)
        whole = own.over(base)
        found = [*components.nulls(own, base), *components.flaws(whole)]
        return self._settled(whole, found, ((document, ("components", name)), (self.document, ("components", name))))

    def _settled(
        self, whole: schema.Component, found: list[Flaw], layers: tuple[tuple[Document, Path], ...]
    ) -> Settled | None:
        for flaw in found:
            document, path = _layer(layers, flaw.path)
            self.notes.add(document.finding(replace(flaw, path=path)))
        return None if found else components.settled(whole)

    def _check_ports(self, ports: Mapping[ComponentName, tuple[Port, ...]], document: Document) -> None:
        """No two components publish the same port of the target."""
        for name, port, other in _collisions(ports):
            layers = ((document, ("components", name)), (self.document, ("components", name)))
            where, path = _layer(layers, ("ports",))
            spot = f"{port.address}:{port.host}/{port.protocol}"
            found = f"the port {spot}, which {other} publishes on the same target"
            self.notes.add(where.finding(Flaw(code="PORT_TAKEN", path=path, found=found, expected="a port of its own")))


def _collisions(ports: Mapping[ComponentName, tuple[Port, ...]]) -> Iterator[tuple[ComponentName, Port, ComponentName]]:
    """Each port that an earlier component publishes too, and which. Whoever publishes at all addresses has them all."""
    taken: dict[tuple[int, str, str], ComponentName] = {}
    for name, port in ((name, port) for name, given in ports.items() for port in given):
        if port.host is None:
            continue
        everywhere = ipaddress.ip_address(port.address).is_unspecified
        asked = ("any",) if everywhere else (port.address, "all")
        others = (taken.get((port.host, port.protocol, address), name) for address in asked)
        other = next((other for other in others if other != name), None)
        if other is not None:
            yield name, port, other
        for address in ("any", "all" if everywhere else port.address):
            taken.setdefault((port.host, port.protocol, address), name)


def _layer(layers: tuple[tuple[Document, Path], ...], path: Path) -> tuple[Document, Path]:
    """The layer that says most of the path, and the path in its document; the upper one where both say as much."""

    def depth(layer: tuple[Document, Path]) -> int:
        document, at = layer
        whole = at + path
        return next(length for length in range(len(whole), -1, -1) if not length or document.has(whole[:length]))

    document, at = max(layers, key=depth)
    return document, at + path
