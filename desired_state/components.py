"""What a component's layers mean when they are laid over each other: a configuration, a health check, and the flaws
that only the whole can have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from desired_state import schema
from desired_state.findings import Flaw, Path, escaped
from desired_state.health import Check, CheckTls, CommandCheck, Health, HttpCheck, TcpCheck
from desired_state.hooks import Hook, Hooks
from desired_state.model import Configuration, Port, Proxy, RestartPolicy, RuntimeHealthcheck
from desired_state.secrets import SecretFile, SecretRef

ONE_CHECK: Final = "exactly one of http, tcp and command"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A component's layers as one. Targets that say nothing of their own share one record."""

    configuration: Configuration
    health: Health | None
    hooks: Hooks | None
    proxy: Proxy | None
    running: bool


def nulls(layer: schema.Component, base: schema.Component | None) -> Iterator[Flaw]:
    """Variables that the layer takes away although nothing below has them."""
    inherited = (base.environment if base else None) or {}
    for name, value in (layer.environment or {}).items():
        if value is None and inherited.get(name) is None:
            expected = 'a text ("" for an empty one) or {secret: …}; null takes away an inherited variable, and none is'
            yield Flaw(code="NULL_TAKES_NOTHING", path=("environment", name), found="null", expected=expected)

    below = (base.secrets if base else None) or {}
    for name, value in (layer.secrets or {}).items():
        if value is None and below.get(name) is None:
            expected = "{secret: …}; null takes away an inherited secret, and none is"
            yield Flaw(code="NULL_TAKES_NOTHING", path=("secrets", name), found="null", expected=expected)


def flaws(component: schema.Component) -> Iterator[Flaw]:
    """What is wrong with the whole; empty when it can be settled."""
    if component.health is not None:
        yield from _health_flaws(component.health)
    if component.healthcheck is not None and component.healthcheck.command is None:
        yield _missing(("healthcheck", "command"), "the argv that is run inside the container")
    for when in ("pre_deploy", "post_deploy"):
        hook = getattr(component.hooks, when, None)
        if hook is not None and hook.command is None:
            yield _missing(("hooks", when, "command"), "the argv of the program that is run")
    if component.proxy is not None:
        yield from _proxy_flaws(component.proxy, component)
    yield from _twice("ports", [_published(port) for port in component.ports or ()])
    yield from _twice("volumes", [volume.destination for volume in component.volumes or ()])
    yield from _taken(component)
    yield from _twice("networks", list(component.networks or ()))


def settled(component: schema.Component) -> Settled:
    """The component's meaning. It has no flaws."""
    return Settled(
        configuration=_configuration(component),
        health=None if component.health is None else _health(component.health),
        hooks=None if component.hooks is None else _hooks(component.hooks),
        proxy=None if component.proxy is None else _proxy(component.proxy, component.ports or ()),
        running=component.state != "stopped",
    )


def _configuration(said: schema.Component) -> Configuration:
    return Configuration(
        command=tuple(said.command) if said.command is not None else None,
        environment=_environment(said.environment),
        secrets=_secret_files(said),
        ports=tuple(
            sorted(said.ports or (), key=lambda port: (port.container, port.protocol, port.host or 0, port.address))
        ),
        volumes=tuple(sorted(said.volumes or (), key=lambda volume: volume.destination)),
        networks=tuple(sorted(said.networks or ())),
        user=said.user,
        restart=said.restart if said.restart is not None else RestartPolicy.UNLESS_STOPPED,
        memory=said.memory,
        cpus=said.cpus,
        stop_grace=said.stop_grace if said.stop_grace is not None else Configuration().stop_grace,
        healthcheck=_healthcheck(said.healthcheck) if said.healthcheck is not None else None,
        registry_credentials=_secret(said.registry_credentials) if said.registry_credentials is not None else None,
    )


def _environment(
    said: dict[str, str | schema.SecretReference | None] | None,
) -> tuple[tuple[str, str | SecretRef], ...]:
    return tuple((name, _value(value)) for name, value in sorted((said or {}).items()) if value is not None)


def _value(said: str | schema.SecretReference) -> str | SecretRef:
    return said if isinstance(said, str) else _secret(said)


def _secret(said: schema.SecretReference) -> SecretRef:
    return SecretRef(reference=said.secret, version=said.version)


def _secret_files(said: schema.Component) -> tuple[SecretFile, ...]:
    return tuple(
        SecretFile(name=name, secret=_secret(file), path=file.path)
        for name, file in sorted((said.secrets or {}).items())
        if file is not None
    )


def _healthcheck(said: schema.RuntimeHealthcheck) -> RuntimeHealthcheck:
    return RuntimeHealthcheck(argv=tuple(said.command or ()), **_given(said, "command"))


def _health(said: schema.Health) -> Health:
    return Health(check=_check(said), **_given(said, *schema.CHECKS))


def _check(said: schema.Health) -> Check:
    if said.http is not None:
        tls = None if said.http.tls is None else CheckTls(**_given(said.http.tls))
        return HttpCheck(port=said.http.port or 0, tls=tls, **_given(said.http, "port", "tls"))
    if said.tcp is not None:
        return TcpCheck(port=said.tcp.port or 0)
    return CommandCheck(argv=tuple(said.command or ()))


def _hooks(said: schema.Hooks) -> Hooks | None:
    pre, post = (None if hook is None else _hook(hook) for hook in (said.pre_deploy, said.post_deploy))
    return Hooks(pre_deploy=pre, post_deploy=post) if pre or post else None


def _hook(said: schema.PreDeployHook) -> Hook:
    return Hook(
        argv=tuple(said.command or ()),
        environment=_environment(said.environment),
        **_given(said, "command", "environment"),
    )


def _proxy(said: schema.Proxy, ports: Sequence[Port]) -> Proxy:
    port = said.port or _asked_by_proxy(ports)[0].container
    return Proxy(server_name=said.server_name or "", port=port, **_given(said, "server_name", "port"))


def _asked_by_proxy(ports: Sequence[Port]) -> list[Port]:
    """Those that stand at a port of the host that is known beforehand."""
    return [port for port in ports if port.protocol == "tcp" and port.host is not None]


def _proxy_flaws(said: schema.Proxy, component: schema.Component) -> Iterator[Flaw]:
    if said.server_name is None:
        yield _missing(("proxy", "server_name"), "the name it answers to")
    fitting = [port for port in _asked_by_proxy(component.ports or ()) if said.port in (None, port.container)]
    if len(fitting) != 1:
        found = f"{len(fitting)} ports that fit" if said.port is None else f"the port {said.port}, {len(fitting)} times"
        expected = "one tcp port of the component, published at a port of the host"
        yield Flaw(code="PROXY_PORT", path=("proxy", "port"), found=found, expected=expected)
        return
    check = component.health.http if component.health else None
    if check is not None and check.port == fitting[0].container and check.tls is not None and check.tls.ca is None:
        yield _missing(("health", "http", "tls", "ca"), "the proxy before it judges certificates by a file")


def _given(said: schema.Layer, *apart: str) -> dict[str, Any]:
    """What was said, so that the record's own defaults stand for the rest."""
    values = ((name, getattr(said, name)) for name in sorted(said.model_fields_set) if name not in apart)
    return {name: value for name, value in values if value is not None}


def _health_flaws(said: schema.Health) -> Iterator[Flaw]:
    kinds = [kind for kind in schema.CHECKS if getattr(said, kind) is not None]
    if len(kinds) != 1:
        found = f"{len(kinds)} checks ({', '.join(kinds)})" if kinds else "no check"
        yield Flaw(code="HEALTH_CHECK", path=("health",), found=found, expected=ONE_CHECK)
        return
    asked = getattr(said, kinds[0])
    if isinstance(asked, schema.HttpCheck | schema.TcpCheck) and asked.port is None:
        yield _missing(("health", kinds[0], "port"), "the port that is asked")
        return
    yield from _impossible(_health(said))


def _impossible(health: Health) -> Iterator[Flaw]:
    least = max(health.minimum, (health.successes - 1) * health.interval)
    if least > health.deadline:
        found = f"a deadline of {_seconds(health.deadline)}"
        expected = f"{_seconds(least)} or more: it cannot be healthy sooner"
        yield Flaw(code="HEALTH_IMPOSSIBLE", path=("health", "deadline"), found=found, expected=expected)


def _missing(path: Path, expected: str) -> Flaw:
    return Flaw(code="KEY_MISSING", path=path, found="nothing", expected=f"the key {path[-1]}: {expected}")


def _twice(field: str, texts: list[str]) -> Iterator[Flaw]:
    seen: set[str] = set()
    for index, text in enumerate(texts):
        if text in seen:
            yield Flaw(code="TWICE", path=(field, index), found=f"{escaped(text)} a second time", expected="it once")
        seen.add(text)


def _taken(component: schema.Component) -> Iterator[Flaw]:
    """Secrets at one place, or where a volume is."""
    taken = {volume.destination: "a volume" for volume in component.volumes or ()}
    for file in _secret_files(component):
        if file.inside in taken:
            found = f"{escaped(file.inside)}, where {taken[file.inside]} is"
            yield Flaw(code="TWICE", path=("secrets", file.name, "path"), found=found, expected="a path of its own")
        taken[file.inside] = f"the secret {file.name}"


def _published(port: Port) -> str:
    return f"{port.address}:{port.host}/{port.protocol}" if port.host else f"{port.container}/{port.protocol}"


def _seconds(length: timedelta) -> str:
    return f"{length.total_seconds():g}s"
